// Checks that a store whose tables were empty at first soon reads sessions by the index. PostgreSQL keeps the plans of
// prepared statements until the tables are analyzed, so the store analyzes them while they grow. Autovacuum is off here.

import { setTimeout as delay } from 'node:timers/promises'
import * as E from 'fp-ts/lib/Either.js'
import t, { type Test } from 'tap'
import { type Database, observedDatabase, transact } from '../lib/db/database.js'
import { buildSession, loadSession, saveSession, sessionSet, sessionToken } from '../lib/promise/index.js'
import { sessionStore } from '../lib/sql/store.js'
import { batched } from '../lib/store/batched.js'
import { cached } from '../lib/store/cached.js'
import type { Session, SessionStore } from '../lib/store/contract.js'
import { counting, rowsOf, serverDrivers } from './support/databases.js'
import { startPostgres } from './support/postgres-server.js'
import { right } from './support/stores.js'

const server = await startPostgres({ settings: { autovacuum: 'off' } })
t.teardown(() => server.stop())

const AT_ONCE = 32

/** Runs visits in groups. Each visit makes a session and saves it once more. */
const visits = async (begin: () => Session, groups: number): Promise<void> => {
  for (let group = 0; group < groups; group += 1)
    await Promise.all(
      Array.from({ length: AT_ONCE }, async () => {
        const made = await saveSession(sessionSet('n', 1)(begin()))
        const loaded = await loadSession(made.handle, sessionToken(made))
        await saveSession(sessionSet('n', 2)(loaded as Session))
      }),
    )
}

const TABLES = ['session', 'entry']

t.jobs = 4
for (const driver of serverDrivers)
  for (const isAnalyzed of [false, true])
    t.test(
      `${driver.name}, ${isAnalyzed ? 'analyzed when small' : 'never analyzed'}`,
      { buffered: true },
      async (t: Test) => {
        const schema = `plans_${driver.name.replace(/\W/g, '_')}_${String(isAnalyzed)}`
        const database = driver.open(server.url)
        t.teardown(() => database.close())
        const store = batched(cached(sessionStore(database, { schema })))
        const begin = () => buildSession(store)
        await visits(begin, 1)
        if (isAnalyzed)
          for (const table of TABLES) await rowsOf(database, `vacuum analyze ${schema}.${table}`)
        const scansOf = async (): Promise<readonly unknown[]> => {
          // A process of the server reports its counts at the latest after it was idle for ten seconds.
          await delay(12_000)
          return rowsOf(
            database,
            `select relname, seq_scan::int as scans from pg_stat_user_tables
           where schemaname = '${schema}' and relname in ('session', 'entry') order by relname`,
          )
        }
        // The first plans may read all sessions.
        await visits(begin, 100)
        const before = await scansOf()
        await visits(begin, 100)
        t.strictSame(await scansOf(), before)
      },
    )

const SERVER = serverDrivers[0] as (typeof serverDrivers)[number]

/** Makes sessions one after the other, and returns the analyses among the statements. */
const analysesOf = async (database: Database, schema: string, count: number): Promise<readonly string[]> => {
  const { database: counted, events } = counting(database)
  const store = sessionStore(counted, { schema, upgradeSchema: false })
  for (let made = 0; made < count; made += 1) await saveSession(sessionSet('n', 1)(buildSession(store)))
  // The analyses run beside the requests.
  await rowsOf(database, 'select pg_sleep(0.5)')
  return events.map(({ query }) => query.text).filter((text) => text.includes('analyze (skip_locked)'))
}

t.test('analyses', async (t) => {
  const owner = SERVER.open(server.url)
  t.teardown(() => owner.close())
  await right(sessionStore(owner, { schema: 'analyses' }).prepare)

  t.test('after 100 and 300 new sessions, and for no empty table', async (t) => {
    const tables = ['session (id)', 'entry (session_id)', 'listing (session_id)'].map(
      (of) => `"analyses".${of}`,
    )
    const analyses = await analysesOf(owner, 'analyses', 301)
    t.equal(analyses.length, 2)
    for (const text of analyses) t.ok(text.includes(`analyze (skip_locked) ${tables.join(', ')};`), text)
  })

  t.test('none by a role that does not own the tables', async (t) => {
    await rowsOf(owner, 'create role guest login')
    await rowsOf(owner, 'grant usage on schema analyses to guest')
    await rowsOf(owner, 'grant select, insert, update, delete on all tables in schema analyses to guest')
    const url = new URL(server.url)
    url.username = 'guest'
    const guest = SERVER.open(url.href)
    t.teardown(() => guest.close())
    t.strictSame(await analysesOf(guest, 'analyses', 101), [])
  })

  t.test('again after the tables were dropped and made anew', async (t) => {
    const { database, events } = counting(owner)
    const store = sessionStore(database, { schema: 'anew', retry: { attempts: 1 } })
    const made = async (): Promise<number> => {
      for (let count = 0; count < 100; count += 1) await saveSession(sessionSet('n', 1)(buildSession(store)))
      await rowsOf(owner, 'select pg_sleep(0.2)')
      return events.splice(0).filter(({ query }) => query.name === 'schema.analyze').length
    }
    t.equal(await made(), 1)
    await rowsOf(owner, 'drop schema anew cascade')
    t.equal(await made(), 1)
  })

  t.test('none in a transaction of the program, and an observer that throws ends no process', async (t) => {
    const names: string[] = []
    const throwing = observedDatabase(owner, ({ query: { name } }) => {
      names.push(name)
      if (name === 'schema.analyze') throw new Error('the observer fails')
    })
    const visited = async (store: SessionStore): Promise<void> => {
      for (let count = 0; count < 100; count += 1) await saveSession(sessionSet('n', 1)(buildSession(store)))
    }
    await visited(sessionStore(throwing, { schema: 'watched' }))
    await rowsOf(owner, 'select pg_sleep(0.2)')
    t.equal(names.filter((name) => name === 'schema.analyze').length, 1)
    await right(
      transact(throwing, (tx) => async () => {
        await visited(sessionStore(tx, { schema: 'watched' }))
        return E.right(undefined)
      }),
    )
    await rowsOf(owner, 'select pg_sleep(0.2)')
    t.equal(names.filter((name) => name === 'schema.analyze').length, 1)
  })

  t.test('none of a large table', async (t) => {
    await rowsOf(
      owner,
      `insert into analyses.session
       select (jsonb_populate_record(s, jsonb_build_object('id', gen_random_uuid()))).*
       from analyses.session s, generate_series(1, 50000)
       where s.id = (select id from analyses.session limit 1)`,
    )
    t.strictSame(await analysesOf(owner, 'analyses', 101), [])
  })
})
