// How a database comes to hold our schema: each state that it may be found in, processes that start together,
// old code that serves meanwhile, and upgrades that are killed.

import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import * as O from 'fp-ts/lib/Option.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import t from 'tap'
import { writeBehind } from '../../lib/cache/write-behind.js'
import { SchemaMismatch } from '../../lib/core/errors.js'
import { RELEASE } from '../../lib/core/process.js'
import { postgresDatabase } from '../../lib/db/postgres/index.js'
import type * as storeFace from '../../lib/entry/store.js'
import type * as promises from '../../lib/promise/index.js'
import {
  buildSession,
  destroySession,
  destroySessionsOf,
  loadSession,
  rotateSession,
  saveSession,
  sessionFor,
  sessionsOf,
  sessionToken,
  sessionUpdate,
  signIn,
  withSession,
} from '../../lib/promise/index.js'
import { schemaSql } from '../../lib/sql/schema.js'
import { sessionStore } from '../../lib/sql/store.js'
import { deleteExpiredSessions } from '../../lib/store/cleanup.js'
import { quietPool, rowsOf } from '../support/databases.js'
import { secrets } from '../support/late-stores.js'
import { startPostgres } from '../support/postgres-server.js'
import { unpackRelease } from '../support/releases.js'
import { freshSchema, left, right } from '../support/stores.js'
import { testCache } from '../support/test-cache.js'

const run = promisify(execFile)
const script = (name: string): string => fileURLToPath(new URL(`../support/${name}.mjs`, import.meta.url))

const releases = {
  1: unpackRelease(1),
  2: unpackRelease(2),
  3: unpackRelease(3),
  4: unpackRelease(4),
} as const
const server = await startPostgres({ settings: { max_connections: '200' } })
const database = postgresDatabase(quietPool(server.url), { timeoutMs: 60_000 })
t.teardown(async () => {
  await database.close()
  await server.stop()
})

const sql = (text: string) => rowsOf(database, text)
const versionsIn = (schema: string) => sql(`select version, made_by from ${schema}.metadata order by version`)
const made = (...versions: readonly number[]) => versions.map((version) => ({ version, made_by: RELEASE }))
const start = (schema: string) => run(process.execPath, [script('starter-child'), server.url, schema])

/** The release of this version of the schema, serving until it is told to end. */
const serveOld = async (schema: string, version: 1 | 2 | 3 | 4 = 1) => {
  const child = spawn(process.execPath, [script('release-child'), releases[version], server.url, schema], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  let output = ''
  const serving = new Promise<void>((resolve) =>
    child.stdout.on('data', (data) => {
      output += String(data)
      if (output.startsWith('serving\n')) resolve()
    }),
  )
  await serving
  return async () => {
    child.stdin.end()
    await new Promise((resolve) => child.once('close', resolve))
    return JSON.parse(output.slice('serving\n'.length)) as {
      readonly requests: number
      readonly longest: number
      readonly failures: readonly string[]
      readonly expected: readonly (readonly [string, number])[]
    }
  }
}

/** A schema of version 1, made by the old release itself, with so many sessions of two entries each. */
const version1 = async (sessions: number): Promise<string> => {
  const schema = freshSchema()
  await (await serveOld(schema))()
  await sql(`
    with head as (
      insert into ${schema}.session
      select gen_random_uuid(), sha256(n::text::bytea), null, null, now(), now() + interval '1 hour',
             now() + interval '12 hours', 1, ''
      from generate_series(1, ${String(sessions)}) as n
      returning id
    )
    insert into ${schema}.entry select id, key, '"value"', 1 from head cross join unnest('{a,b}'::text[]) as key`)
  return schema
}

t.test('an empty database is made ready, and knows its versions', async (t) => {
  const schema = freshSchema()
  await right(sessionStore(database, { schema }).prepare)
  t.strictSame(await versionsIn(schema), made(1, 2, 3, 4, 5))
})

t.test('a database of version 1 is upgraded; its sessions are listed and lose nothing', async (t) => {
  const schema = await version1(25_000)
  const before = await sql(`select * from ${schema}.entry order by session_id, key`)
  await right(sessionStore(database, { schema }).prepare)
  t.strictSame(await versionsIn(schema), made(2, 3, 4, 5))
  t.strictSame(await sql(`select * from ${schema}.entry order by session_id, key`), before)
  const unlisted = `select id, expires_at from ${schema}.session
    except select session_id, collect_at from ${schema}.listing`
  t.strictSame(await sql(unlisted), [])
})

t.test('the SQL that is printed does the same, by hand', async (t) => {
  const [old, empty] = [await version1(100), freshSchema()]
  const pool = quietPool(server.url, { max: 1 })
  t.teardown(() => pool.end({ timeout: 1 }))
  for (const [schema, from] of [
    [old, 1],
    [empty, 0],
  ] as const) {
    await pool.unsafe(schemaSql(schema, from)).simple()
    await right(sessionStore(database, { schema, upgradeSchema: false }).prepare)
    const unlisted = `select id from ${schema}.session except select session_id from ${schema}.listing`
    t.strictSame(await sql(unlisted), [])
  }
})

t.test('with upgrades off, an older or empty database is told apart, and left as it is', async (t) => {
  const [old, empty] = [await version1(0), freshSchema()]
  for (const [schema, found] of [
    [old, 1],
    [empty, 0],
  ] as const) {
    const error = await left(sessionStore(database, { schema, upgradeSchema: false }).prepare)
    t.ok(error instanceof SchemaMismatch)
    t.match(error, {
      versions: { found, wanted: 5 },
      message: `npx keyrow schema upgrade --schema ${schema}`,
    })
  }
  t.strictSame(
    await sql(`select to_regclass('${old}.metadata') as it, to_regnamespace('${empty}') as other`),
    [{ it: null, other: null }],
  )
})

t.test('a newer database is left alone; the error names both versions', async (t) => {
  const schema = freshSchema()
  await right(sessionStore(database, { schema }).prepare)
  await sql(`insert into ${schema}.metadata (version, made_by) values (99, '9.9.9')`)
  const error = await left(sessionStore(database, { schema }).prepare)
  t.match(error, { _tag: 'SchemaMismatch', versions: { found: 99, wanted: 5 } })
  t.match(error.message, /version 99, made by keyrow 9\.9\.9; keyrow .* works with version 5/)
})

for (const [name, tables] of Object.entries({
  'a table session': ['session (id integer primary key, body text)'],
  'a table metadata': ['metadata (key text, value text)'],
  'a table listing beside our version 1': ['listing (price numeric)'],
  'a table flow': ['flow (id integer)'],
  'a table entry, and nothing else': ['entry (session_id uuid, key text, value jsonb, revision bigint)'],
}))
  t.test(`somebody else's tables under our names are left alone: ${name}`, async (t) => {
    const schema = name.includes('version 1') ? await version1(0) : freshSchema()
    await sql(`create schema if not exists ${schema}`)
    for (const table of tables) await sql(`create table ${schema}.${table}`)
    const columns = `select table_name, column_name from information_schema.columns
      where table_schema = '${schema}' order by 1, 2`
    const before = await sql(columns)
    const error = await left(sessionStore(database, { schema }).prepare)
    t.match(error, { _tag: 'SchemaMismatch', message: /not keyrow's.*not changed/ })
    t.strictSame(await sql(columns), before)
  })

t.test('a database that says version 5 and lacks a part of it is a SchemaMismatch', async (t) => {
  const schema = freshSchema()
  await right(sessionStore(database, { schema }).prepare)
  await sql(`alter table ${schema}.listing drop column principal`)
  const error = await left(sessionStore(database, { schema }).prepare)
  t.match(error, { _tag: 'SchemaMismatch', message: /says version 5, but it lacks listing\.principal/ })
})

t.test('ten processes that start together on an empty database make it once', async (t) => {
  const schema = freshSchema()
  await Promise.all(Array.from({ length: 10 }, () => start(schema)))
  t.strictSame(await versionsIn(schema), made(1, 2, 3, 4, 5))
  t.strictSame(await sql(`select count(*)::int as n from ${schema}.session`), [{ n: 10 }])
})

t.test('so do ten whose role has another default of isolation', async (t) => {
  const schema = freshSchema()
  const connection = { default_transaction_isolation: 'repeatable read' as const }
  const databases = Array.from({ length: 10 }, () =>
    postgresDatabase(() => quietPool(server.url, { max: 2, connection })),
  )
  await Promise.all(databases.map((each) => right(sessionStore(each, { schema }).prepare)))
  await Promise.all(databases.map((each) => right(each.close)))
  t.equal((await versionsIn(schema)).length, 5)
})

t.test('a role with the documented rights can do all but upgrade', async (t) => {
  const schema = freshSchema()
  await right(sessionStore(database, { schema }).prepare)
  const page = await readFile(new URL('../../docs/operations.md', import.meta.url), 'utf8')
  const [, grants = 'there are none'] = /```sql\n(grant [\s\S]*?)```/.exec(page) ?? []
  const owner = quietPool(server.url, { max: 1 })
  await owner`create role app login`
  await owner.unsafe(grants.replaceAll(/\bkeyrow\b/g, schema)).simple()
  await owner.end()
  const app = postgresDatabase(quietPool(server.url.replace('postgres@', 'app@')))
  const store = sessionStore(app, { schema, upgradeSchema: false })
  const session = await saveSession(sessionFor('ada')(buildSession(store)))
  const rotated = await rotateSession(await saveSession(sessionUpdate('n', () => 1)(session)))
  t.equal((await loadSession(store, sessionToken(rotated)))?.store.get('n'), 1)
  t.equal((await sessionsOf(store, 'ada')).length, 1)
  t.equal((await destroySessionsOf(store, 'ada')).length, 1)
  await destroySession(rotated)
  t.match(await right(deleteExpiredSessions(store)), { finished: true })
  await right(app.close)
})

/** The files of the tables that are in use: other ones when a table was rewritten. */
const filesOf = (schema: string) =>
  sql(`select relname, relfilenode::text as file from pg_class where relnamespace = '${schema}'::regnamespace
       and relname in ('session', 'entry', 'session_pkey', 'entry_pkey') order by 1`)

/** What the upgrade locks of the tables that are in use, and how long anybody waits for any lock, while it runs. */
const watchLocks = (schema: string) => {
  const modes = new Set<string>()
  let [longest, over] = [0, false]
  const watching = (async () => {
    while (!over) {
      const locks = await sql(`
        select l.mode, l.relation::regclass::text as name
        from pg_locks l where l.granted
          and l.relation in ('${schema}.session'::regclass, '${schema}.entry'::regclass)
          and l.pid in (select pid from pg_locks where locktype = 'advisory' and granted and database =
                        (select oid from pg_database where datname = current_database()))`)
      for (const { mode } of locks) modes.add(String(mode))
      const [waiting] = await sql(`
        select coalesce(max(extract(epoch from clock_timestamp() - waitstart)) * 1000, 0)::float8 as ms
        from pg_locks where not granted and locktype <> 'advisory'`)
      longest = Math.max(longest, Number(waiting?.['ms']))
    }
  })()
  return async () => {
    over = true
    await watching
    return { modes: [...modes], longest }
  }
}

t.test(
  'ten processes upgrade 100,000 sessions once, while old code serves: nothing fails, nothing is lost',
  async (t) => {
    const schema = await version1(100_000)
    const old = await Promise.all([serveOld(schema), serveOld(schema)])
    const files = await filesOf(schema)
    const locks = watchLocks(schema)
    const began = performance.now()
    await Promise.all(Array.from({ length: 10 }, () => start(schema)))
    const took = performance.now() - began
    const { modes, longest } = await locks()
    const served = await Promise.all(old.map((end) => end()))
    t.strictSame(
      served.flatMap(({ failures }) => failures),
      [],
    )
    t.strictSame(await versionsIn(schema), made(2, 3, 4, 5))
    const brief = modes.filter((mode) => mode !== 'AccessShareLock')
    t.match(
      brief,
      brief.length === 0 ? [] : ['AccessExclusiveLock'],
      'it reads, and at its end adds a column',
    )
    t.strictSame(await filesOf(schema), files, 'no table is rewritten')
    const store = sessionStore(database, { schema })
    for (const [token, n] of served.flatMap(({ expected }) => expected))
      t.equal((await loadSession(store, token))?.store.get('n'), n)
    t.strictSame(await sql(`select count(*)::int as n from ${schema}.entry where key = 'b'`), [
      { n: 100_000 },
    ])
    t.comment(
      `ten processes were ready after ${took.toFixed(0)} ms; old code did ${served
        .map(({ requests, longest }) => `${String(requests)} requests, the longest ${longest.toFixed(0)} ms`)
        .join(' and ')}; the longest wait for a lock seen was ${longest.toFixed(1)} ms`,
    )
    // What the old code made after the listing was filled is listed by the collector.
    await right(deleteExpiredSessions(store, { batchSize: 100_000 }))
    const unlisted = `select id from ${schema}.session except select session_id from ${schema}.listing`
    t.strictSame(await sql(unlisted), [])
  },
)

/** A schema of version 2, made by the release of that. */
const version2 = async (): Promise<string> => {
  const schema = freshSchema()
  await (await serveOld(schema, 2))()
  return schema
}

t.test(
  'version 2 is upgraded while its release serves; that neither breaks nor shortens what is new',
  async (t) => {
    const schema = await version2()
    const before = await oldStore(schema)
    const old = await Promise.all([serveOld(schema, 2), serveOld(schema, 2)])
    const files = await filesOf(schema)
    await Promise.all(Array.from({ length: 4 }, () => start(schema)))
    t.strictSame(await versionsIn(schema), made(1, 2, 3, 4, 5))
    t.strictSame(await filesOf(schema), files, 'no table is rewritten')
    const day = 86_400_000
    const store = sessionStore(database, { schema })
    const session = await withSession(buildSession(store), () =>
      signIn('ada', { lifetime: { idleMs: 30 * day, absoluteMs: 90 * day } }),
    )
    const times = () =>
      sql(`select idle_ms, expires_at::text as expires, absolute_expires_at::text as absolute
         from ${schema}.session where id = '${session.id}'`)
    const own = await times()
    t.match(own, [{ idle_ms: 30 * day }])
    const { api } = before
    const token = sessionToken(session)
    const loaded = await api.loadSession(before.store, token)
    t.equal(loaded?.store.get('keyrow:principal'), 'ada')
    const saved = await api.saveSession(api.sessionSet('n', 1)(loaded as never))
    await api.refreshSession(await api.rotateSession(saved))
    await right(before.store.touch(session.id))
    t.strictSame(await times(), own, 'the release before neither shortens nor forgets it')
    const plain = await api.saveSession(api.sessionSet('n', 1)(api.buildSession(before.store)))
    t.equal((await loadSession(store, sessionToken(plain)))?.store.get('n'), 1)
    const served = await Promise.all(old.map((end) => end()))
    t.strictSame(
      served.flatMap(({ failures }) => failures),
      [],
    )
    for (const [token, n] of served.flatMap(({ expected }) => expected))
      t.equal((await loadSession(store, token))?.store.get('n'), n)
    await right(before.close)
  },
)

t.test('version 3 is upgraded while its release serves and ends sessions that have flows', async (t) => {
  const schema = freshSchema()
  await (await serveOld(schema, 3))()
  t.strictSame(await versionsIn(schema), made(1, 2, 3))
  const old = await Promise.all([serveOld(schema, 3), serveOld(schema, 3)])
  const files = await filesOf(schema)
  const locks = watchLocks(schema)
  await Promise.all(Array.from({ length: 4 }, () => start(schema)))
  const { modes } = await locks()
  t.strictSame(await versionsIn(schema), made(1, 2, 3, 4, 5))
  t.strictSame(modes, [], 'no table in use is locked')
  t.strictSame(await filesOf(schema), files, 'no table is rewritten')
  const served = await Promise.all(old.map((end) => end()))
  t.strictSame(
    served.flatMap(({ failures }) => failures),
    [],
  )
  const store = sessionStore(database, { schema })
  for (const [token, n] of served.flatMap(({ expected }) => expected))
    t.equal((await loadSession(store, token))?.store.get('n'), n)
  // The release before deletes no flows, so the cleanup deletes them when they expire.
  const session = await saveSession(sessionUpdate('n', () => 1)(buildSession(store)))
  const flow = { session: session.id, flow: session.id }
  const head = { name: 'flow', version: 1, input: {}, seed: '00', principal: undefined, caller: undefined }
  await right(
    store.flows?.begin(flow, { ...head, idleMs: undefined, maxAgeMs: undefined }, undefined) ?? TE.right(0),
  )
  await sql(`delete from ${schema}.session where id = '${session.id}'`)
  t.match(await right(store.flows?.read(flow, undefined, []) ?? TE.right(O.none)), { _tag: 'None' })
  await sql(`update ${schema}.flow set collect_at = now()`)
  await right(deleteExpiredSessions(store))
  t.strictSame(await sql(`select from ${schema}.flow`), [])
})

t.test('version 4 is upgraded while its release serves, and late saves are stored beside it', async (t) => {
  const schema = freshSchema()
  await (await serveOld(schema, 4))()
  t.strictSame(await versionsIn(schema), made(1, 2, 3, 4))
  const old = await Promise.all([serveOld(schema, 4), serveOld(schema, 4)])
  const files = await filesOf(schema)
  const locks = watchLocks(schema)
  await Promise.all(Array.from({ length: 4 }, () => start(schema)))
  const { modes } = await locks()
  t.strictSame(await versionsIn(schema), made(1, 2, 3, 4, 5))
  t.strictSame(modes, [], 'no table in use is locked')
  t.strictSame(await filesOf(schema), files, 'no table is rewritten')
  const store = writeBehind(sessionStore(database, { schema }), testCache(), { secrets, flushMs: 60_000 })
  const session = await saveSession(sessionUpdate('n', () => 1)(buildSession(store)))
  // The release before saves beside the head.
  const before = sessionStore(database, { schema })
  await saveSession(
    sessionUpdate('n', (n) => Number(n) + 1, 0)((await loadSession(store, sessionToken(session))) ?? session),
  )
  await saveSession(
    sessionUpdate(
      'n',
      (n) => Number(n) + 1,
      0,
    )((await loadSession(before, sessionToken(session))) ?? session),
  )
  await right(store.flush)
  t.equal((await loadSession(before, sessionToken(session)))?.store.get('n'), 3)
  const served = await Promise.all(old.map((end) => end()))
  t.strictSame(
    served.flatMap(({ failures }) => failures),
    [],
  )
  for (const [token, n] of served.flatMap(({ expected }) => expected))
    t.equal((await loadSession(store, token))?.store.get('n'), n)
})

interface Driver {
  readonly postgresDatabase: typeof postgresDatabase
}

/** A store of the release before, in this process, that has looked at the schema already. */
const oldStore = async (schema: string) => {
  const from = (path: string) => import(new URL(path, releases[2]).href) as Promise<unknown>
  const { sessionStore } = (await from('index.js')) as typeof storeFace
  const { postgresDatabase: open } = (await from('driver/postgres.js')) as Driver
  const api = (await from('promise.js')) as typeof promises
  const database = open(quietPool(server.url, { max: 2 }))
  const store = sessionStore(database, { schema })
  await right(store.prepare)
  return { store, api, close: database.close }
}

t.test('an upgrade waits for nobody who has the sessions for long, and keeps nobody waiting', async (t) => {
  const schema = await version2()
  const reader = quietPool(server.url, { max: 1 })
  t.teardown(() => reader.end({ timeout: 1 }))
  let release = (): void => undefined
  const held = new Promise<void>((resolve) => {
    release = resolve
  })
  const end = await serveOld(schema, 2)
  let reading = Promise.resolve()
  await new Promise<void>((resolve) => {
    reading = reader
      .begin(async (tx) => {
        await tx.unsafe(`select count(*) from ${schema}.session`)
        resolve()
        await held
      })
      .then(() => undefined)
  })
  const store = sessionStore(database, { schema, retry: { attempts: 2 } })
  t.match(await left(store.prepare), { _tag: 'DriverError', sqlState: '55P03' })
  t.strictSame(await versionsIn(schema), made(1, 2), 'it is as it was')
  const { failures, requests } = await end()
  t.strictSame(failures, [])
  t.not(requests, 0)
  release()
  await reading
  await right(store.prepare)
  t.strictSame(await versionsIn(schema), made(1, 2, 3, 4, 5))
})

/** Runs until the listing is being filled. */
const untilFilling = async (child: ChildProcess): Promise<void> => {
  const busy = `select 1 from pg_stat_activity where query like '%insert into%listing%' and pid <> pg_backend_pid()`
  while ((await sql(busy)).length === 0) if (child.exitCode !== null) throw new Error('it was too fast')
}

for (const killed of ['the process', 'the server'] as const)
  t.test(`an upgrade during which ${killed} is killed leaves version 1 whole`, async (t) => {
    const schema = await version1(100_000)
    const child = spawn(process.execPath, [script('starter-child'), server.url, schema], { stdio: 'ignore' })
    await untilFilling(child)
    if (killed === 'the process') child.kill('SIGKILL')
    else await server.kill()
    if (killed === 'the server') {
      child.kill('SIGKILL')
      await server.start()
    }
    await new Promise((resolve) =>
      (child.exitCode ?? child.signalCode) === null ? child.once('close', resolve) : resolve(0),
    )
    // The server notices a client that is gone when the statement under way has ended.
    const gone = `select 1 from pg_stat_activity where query like '%listing%' and pid <> pg_backend_pid()`
    while ((await sql(gone).catch(() => [{}])).length > 0);
    t.strictSame(
      await sql(
        `select to_regclass('${schema}.metadata') as metadata, to_regclass('${schema}.listing') as listing`,
      ),
      [{ metadata: null, listing: null }],
    )
    const end = await serveOld(schema)
    await new Promise((resolve) => setTimeout(resolve, 200))
    const { failures, requests } = await end()
    t.strictSame(failures, [])
    t.not(requests, 0)
    await start(schema)
    t.strictSame(await versionsIn(schema), made(2, 3, 4, 5))
  })
