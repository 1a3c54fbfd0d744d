// The peers that the package's ranges allow: the adapters with the oldest versions of their frameworks, and the packed
// package beside each major version. These are installed from the npm registry, so this is not part of `npm test`;
// `npm run test:package` runs it.

import { readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type express from 'express'
import type fastify from 'fastify'
import type { Hono } from 'hono'
import type Koa from 'koa'
import t from 'tap'
import { postgresDatabase } from '../../lib/db/postgres/index.js'
import { quietPools } from '../support/databases.js'
import { doorSuite } from '../support/door-suite.js'
import { expressDoor, fastifyDoor, honoDoor, koaDoor, type SpecDoor } from '../support/doors.js'
import { visits } from '../support/package-consumer.js'
import { install, openWorkshop, pack, project, succeed } from '../support/package-workshop.js'
import { specDatabaseUrl } from '../support/postgres-server.js'
import { dropSchemas } from '../support/stores.js'

const manifest = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
  readonly peerDependencies: Readonly<Record<string, string>>
}

const doorOf: Readonly<Record<string, (name: string, framework: unknown) => SpecDoor>> = {
  express: (name, framework) => expressDoor(name, framework as typeof express),
  fastify: (name, framework) => fastifyDoor(name, framework as typeof fastify),
  koa: (name, framework) => koaDoor(name, framework as typeof Koa),
  hono: (name, framework) => honoDoor(name, (framework as { readonly Hono: typeof Hono }).Hono),
}

const oldest = Object.keys(doorOf).flatMap((name) =>
  (manifest.peerDependencies[name] ?? '').split(' || ').map((range) => ({ name, version: range.slice(1) })),
)

const workshop = openWorkshop()
const { url, stop } = await specDatabaseUrl()
const database = postgresDatabase(quietPools(url))
// What fails on purpose is logged.
console.error = () => undefined
t.teardown(async () => {
  await dropSchemas(database)
  await database.close()
  await stop()
  workshop.close()
})

const home = await project(
  workshop,
  'oldest',
  ...oldest.map(({ name, version }) => `${name}-${version}@npm:${name}@${version}`),
)
const tarball = await pack(workshop, fileURLToPath(new URL('../..', import.meta.url)), [])
const load = createRequire(join(home, 'package.json'))

t.equal(oldest.length, 7)
for (const { name, version } of oldest)
  t.test(`${name} ${version}`, async (t) => {
    doorSuite(t, doorOf[name]?.(`${name} ${version}`, load(`${name}-${version}`)) as SpecDoor, database)
  })

const manifestOf = (home: string): object =>
  JSON.parse(readFileSync(join(home, 'package.json'), 'utf8')) as object

/** What stands in a project before keyrow comes: each major version that its ranges of peers allow. */
const beside = [
  ['express@4', 'express-session@1.17'],
  ['express@5', 'express-session@1'],
  ['fastify@4', '@fastify/cookie@9', '@fastify/session@10', 'express-session@1'],
  ['fastify@5', '@fastify/cookie@11', '@fastify/session@11', 'express-session@1'],
  ['koa@2'],
  ['koa@3'],
  ['hono@4', '@hono/node-server@1'],
]

for (const packages of beside)
  t.test(`npm installs keyrow beside ${packages.join(', ')}, and its sessions work there`, async (t) => {
    const [framework = ''] = packages
    const home = await project(workshop, `beside-${framework.replace('@', '-')}`, ...packages)
    const before = manifestOf(home)
    await install(home, tarball)
    t.match(manifestOf(home), before, 'nothing was changed for it')
    writeFileSync(join(home, 'visits.js'), visits)
    const seen = JSON.parse(await succeed(home, process.execPath, 'visits.js', framework)) as Record<
      string,
      unknown
    >
    for (const [name, counts] of Object.entries(seen)) t.strictSame(counts, ['1', '2', '3'], name)
    t.equal(Object.keys(seen).length, /^(express|fastify)/.test(framework) ? 2 : 1)
  })
