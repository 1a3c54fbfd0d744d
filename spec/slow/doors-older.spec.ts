// The adapters with the older major versions of their frameworks that the package allows, as spec/doors.spec.ts has them
// with the newest.

import { readFile } from 'node:fs/promises'
import express from 'express4'
import fastify from 'fastify4'
import Koa from 'koa2'
import t from 'tap'
import { postgresDatabase } from '../../lib/db/postgres/index.js'
import { quietPools } from '../support/databases.js'
import { doorSuite } from '../support/door-suite.js'
import { expressDoor, fastifyDoor, koaDoor } from '../support/doors.js'
import { specDatabaseUrl } from '../support/postgres-server.js'
import { dropSchemas } from '../support/stores.js'

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

t.test("the peers' ranges are what the suites run on", async (t) => {
  const { peerDependencies } = await manifestIn('../..')
  // spec/doors.spec.ts and spec/express-session.spec.ts have the first of each, this one and that have the others;
  // spec/slow/peers.spec.ts has the lower ends of the ranges.
  const run: Readonly<Record<string, readonly string[]>> = {
    express: ['express', 'express4'],
    fastify: ['fastify', 'fastify4'],
    koa: ['koa', 'koa2'],
    hono: ['hono'],
    'express-session': ['express-session'],
  }
  for (const [name, packages] of Object.entries(run)) {
    const versions = await Promise.all(
      packages.map(async (one) => (await manifestIn(`../../node_modules/${one}`)).version),
    )
    const ranges = (peerDependencies[name] ?? '').split(' || ')
    t.ok(
      ranges.every((range) => /^\^\d+\.\d+\.\d+$/.test(range)),
      ranges.join(),
    )
    t.strictSame(
      ranges.map((range) => parseInt(range.slice(1), 10)).sort(),
      versions.map((version) => parseInt(version, 10)).sort(),
      name,
    )
  }
})

interface Manifest {
  readonly version: string
  readonly peerDependencies: Readonly<Record<string, string>>
}

async function manifestIn(folder: string): Promise<Manifest> {
  return JSON.parse(await readFile(new URL(`${folder}/package.json`, import.meta.url), 'utf8')) as Manifest
}
