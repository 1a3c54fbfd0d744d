// The adapters with the older major versions of their frameworks that the package allows, as spec/doors.spec.ts has them
// with the newest.

import express from 'express4'
import fastify from 'fastify4'
import Koa from 'koa2'
import t from 'tap'
import { postgresDatabase } from '../lib/driver/postgres.js'
import { quietPools } from './support/databases.js'
import { doorSuite } from './support/door-suite.js'
import { expressDoor, fastifyDoor, koaDoor } from './support/doors.js'
import { specDatabaseUrl } from './support/postgres-server.js'
import { dropSchemas } from './support/stores.js'

const { url, stop } = await specDatabaseUrl()
const database = postgresDatabase(quietPools(url))
// What fails on purpose is logged.
console.error = () => undefined
t.teardown(async () => {
  await dropSchemas(database)
  await database.close()
  await stop()
})

for (const door of [
  expressDoor('Express 4', express),
  fastifyDoor('Fastify 4', fastify as never),
  koaDoor('Koa 2', Koa),
])
  t.test(door.name, async (t) => {
    doorSuite(t, door, database)
  })
