// Tests `postgresStore`, `pgStore` and `pgliteStore`: batches, the cache, and the cleanup while a store is open.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import * as E from 'fp-ts/lib/Either.js'
import t, { type Test } from 'tap'
import { postgresDatabase } from '../lib/db/postgres/index.js'
import { pgStore } from '../lib/entry/pg.js'
import { pgliteStore } from '../lib/entry/pglite.js'
import { postgresStore } from '../lib/entry/postgres.js'
import type { ReadyStore, ReadyStoreOptions } from '../lib/entry/ready-store.js'
import { buildSession, loadSession, saveSession, sessionSet, sessionToken } from '../lib/promise/index.js'
import { pgPool, quietPool, rowsOf } from './support/databases.js'
import { specDatabaseUrl } from './support/postgres-server.js'
import { dropSchemas, freshSchema, right } from './support/stores.js'

const { url, stop } = await specDatabaseUrl()
const admin = postgresDatabase(quietPool(url))
t.teardown(async () => {
  await dropSchemas(admin)
  await right(admin.close)
  await stop()
})

const open: Readonly<Record<string, (options: ReadyStoreOptions) => ReadyStore>> = {
  postgresStore: (options) => postgresStore(url, options),
  pgStore: (options) => pgStore(pgPool(url), options),
  pgliteStore: (options) => pgliteStore(undefined, options),
}

const countOf = async ({ database }: ReadyStore, schema: string): Promise<unknown> =>
  (await rowsOf(database, `select count(*)::int as count from ${schema}.session`))[0]?.['count']

/** Waits at most ten seconds until the store has no session. */
const emptied = async (t: Test, store: ReadyStore, schema: string): Promise<void> => {
  const until = performance.now() + 10_000
  while ((await countOf(store, schema)) !== 0 && performance.now() < until)
    await new Promise((resolve) => setTimeout(resolve, 20))
  t.equal(await countOf(store, schema), 0)
}

for (const [name, opened] of Object.entries(open)) {
  t.test(`${name}: expired sessions are deleted while it is open, and it closes once for all`, async (t) => {
    const schema = freshSchema()
    const store = opened({ schema, idleMs: 300, cleanup: { everyMs: 50 } })
    const session = await saveSession(sessionSet('theme', 'dark')(buildSession(store)))
    t.equal((await loadSession(store, sessionToken(session)))?.store.get('theme'), 'dark')
    await emptied(t, store, schema)
    t.ok(E.isRight(await store.close()))
    t.ok(E.isRight(await store.close()))
    t.match(await loadSession(store, sessionToken(session)).catch((error: unknown) => error), {
      _tag: 'DriverError',
    })
  })

  t.test(`${name}: with cleanup false, what has expired stays for another process`, async (t) => {
    const schema = freshSchema()
    const store = opened({ schema, idleMs: 1, cleanup: false })
    await saveSession(sessionSet('theme', 'dark')(buildSession(store)))
    await new Promise((resolve) => setTimeout(resolve, 300))
    t.equal(await countOf(store, schema), 1)
    await right(store.close)
  })

  t.test(`${name}: options that make no sense are refused at once`, async (t) => {
    for (const wrong of [
      { idleMs: 0 },
      { batch: { maxBatchSize: 0 } },
      { cache: { maxBytes: -1 } },
      { cleanup: { everyMs: 0 } },
    ])
      t.throws(() => opened(wrong), RangeError)
  })
}

t.test('postgresStore: a wrong address is refused, and no message shows its password', async (t) => {
  for (const wrong of ['', 'db.example', 'mysql://app:secret@db.example/app', undefined as unknown as string])
    t.throws(() => postgresStore(wrong), { name: 'TypeError', message: /begins with postgres:/ })
  try {
    postgresStore('mysql://app:secret@db.example/app')
  } catch (error) {
    t.notMatch(String(error), /secret/)
  }
})

const opening = {
  postgresStore: `import { postgresStore } from 'keyrow/postgres'
    const open = (options) => postgresStore(${JSON.stringify(url)}, options)`,
  pgStore: `import pg from 'pg'
    import { pgStore } from 'keyrow/pg'
    const open = (options) => pgStore(new pg.Pool({ connectionString: ${JSON.stringify(url)} }), options)`,
}

for (const [name, lines] of Object.entries(opening))
  t.test(`${name}: a program with a ready store ends on SIGTERM by closing it`, async (t) => {
    const program = `
    import { createServer } from 'node:http'
    import { sessionListener } from 'keyrow/node'
    import { sessionUpdate, updateCurrentSession } from 'keyrow/promise'
    ${lines}
    const store = open({ schema: ${JSON.stringify(freshSchema())} })
    const listener = sessionListener({ store })(async (_, res) => {
      await updateCurrentSession(sessionUpdate('visits', (visits) => Number(visits) + 1, 0))
      res.end('visit')
    })
    const server = createServer(listener).listen(0, () => console.log(server.address().port))
    process.once('SIGTERM', () => server.close(() => void store.close()))`
    const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    const [port] = (await once(child.stdout, 'data')) as [Buffer]
    t.equal(await (await fetch(`http://127.0.0.1:${String(port).trim()}/`)).text(), 'visit')
    child.kill('SIGTERM')
    t.strictSame(await once(child, 'exit'), [0, null])
  })
