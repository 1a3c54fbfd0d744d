// Reads through a real pgpool-II, which balances them over a primary and a streaming standby that shows nothing new:
// `npm run spec:pgpool`. It needs pgpool2, which is no npm package.

import t, { type Test } from 'tap'
import { batchedDatabase } from '../../lib/db/batched.js'
import type { Database } from '../../lib/db/database.js'
import { postgresDatabase } from '../../lib/db/postgres/index.js'
import {
  buildSession,
  destroySession,
  int8,
  loadSession,
  record,
  refreshSession,
  type Session,
  saveSession,
  sessionFor,
  sessionRef,
  sessionSet,
  sessionsOf,
  sessionToken,
  text,
  transact,
} from '../../lib/promise/index.js'
import { sessionStore } from '../../lib/sql/store.js'
import type { SessionStore } from '../../lib/store/contract.js'
import { sessionStoreLaws } from '../../lib/testing/index.js'
import { startKeyrow } from '../support/cli.js'
import { quietPool, quietPools, rowsOf } from '../support/databases.js'
import { type Pgpool, type PgpoolSettings, startPgpool } from '../support/pgpool.js'
import { startPair } from '../support/postgres-pair.js'
import { fast, freshSchema, openIn, right } from '../support/stores.js'

const pair = await startPair()
t.teardown(() => pair.stop())

const primary = postgresDatabase(quietPool(`postgres://postgres@127.0.0.1:${pair.primaryPort()}/postgres`))
t.teardown(() => primary.close())
const schema = freshSchema()
const table = `${schema}_note`
await right(sessionStore(primary, { schema }).prepare)
await rowsOf(primary, `create table ${table} (id int8 primary key, owner int8 not null, title text not null)`)

const stores = { plain: (store: SessionStore): SessionStore => store, 'batched and remembered': fast }

const COUNT = 200

/** Two hundred at once wait for ten connections, and each write for the standby. */
const PATIENT = { timeoutMs: 60_000 }
const all = <A>(make: (index: number) => Promise<A>): Promise<A[]> =>
  Promise.all(Array.from({ length: COUNT }, (_, index) => make(index)))

/** How many do not hold. */
const wrong = (answers: readonly boolean[]): number => answers.filter((answer) => !answer).length

const load = (session: Session, at: SessionStore, ...keys: readonly string[]) =>
  loadSession(at, sessionToken(session), keys.length > 0 ? { keys } : {})

const endsSessions = async (t: Test, store: SessionStore, other: SessionStore): Promise<void> => {
  const before = known.splice(0, COUNT)
  const isOf = (value: number) => (session: Session | undefined) =>
    session !== undefined && sessionRef('n')(session) === value
  const saved = await all(async (n) => {
    const session = await load(before[n] as Session, store)
    return saveSession(sessionSet('n', n + COUNT)(session ?? (before[n] as Session)))
  })
  const read = await all(async (n) => isOf(n + COUNT)(await load(saved[n] as Session, other)))
  t.equal(wrong(read), 0, 'stale after a save')
  await all((n) => destroySession(saved[n] as Session))
  for (const at of [store, other]) {
    const gone = await all(async (n) => (await load(saved[n] as Session, at)) === undefined)
    t.equal(wrong(gone), 0, 'open after their destruction')
  }
}

const keepsSessions = async (t: Test, store: SessionStore, other: SessionStore): Promise<void> => {
  const principal = `ada ${freshSchema()}`
  const made = await all((n) => saveSession(sessionFor(principal)(sessionSet('n', n)(buildSession(store)))))
  for (const at of [store, other]) {
    const found = await all(async (n) => (await load(made[n] as Session, at)) !== undefined)
    t.equal(wrong(found), 0, 'missing after their creation')
  }
  t.equal((await sessionsOf(other, principal)).length, COUNT)
  const saved = await all((n) => saveSession(sessionSet('n', -n)(made[n] as Session)))
  for (const at of [store, other]) {
    const read = await all(async (n) => {
      const session = await load(saved[n] as Session, at)
      return session !== undefined && sessionRef('n')(session) === -n
    })
    t.equal(wrong(read), 0, 'stale after a save')
    const some = await all(async (n) => {
      const session = await load(saved[n] as Session, at, 'n')
      return session !== undefined && sessionRef('n')(session) === -n
    })
    t.equal(wrong(some), 0, 'stale after a save, of one key')
  }
  const refreshed = await all(async (n) => sessionRef('n')(await refreshSession(made[n] as Session)) === -n)
  t.equal(wrong(refreshed), 0, 'stale after a refresh')
  await all((n) => destroySession(saved[n] as Session))
  for (const at of [store, other]) {
    const gone = await all(async (n) => (await load(saved[n] as Session, at)) === undefined)
    t.equal(wrong(gone), 0, 'open after their destruction')
  }
}

const notes = record({ table, key: 'id', columns: { id: int8, owner: int8, title: text } })

const keepsRecords = async (t: Test, database: Database, first: number): Promise<void> => {
  const together = batchedDatabase(database)
  const made = await all((n) => notes.save(notes.build(together, noteOf(first + n))))
  const found = (at: Database) => Promise.all(made.map(({ id }) => notes.find(at, id)))
  for (const at of [database, together])
    t.equal(wrong((await found(at)).map((note) => note !== undefined)), 0, 'missing after their creation')
  const saved = await Promise.all(made.map((note) => notes.save(notes.set('title', 'b')(note))))
  const isNew = (note: { readonly title: string } | undefined): boolean => note?.title === 'b'
  for (const at of [database, together]) t.equal(wrong((await found(at)).map(isNew)), 0, 'stale after a save')
  const ids = made.map(({ id }) => id)
  t.equal(wrong((await notes.findMany(database, ids)).map(isNew)), 0, 'stale, many at once')
  const refreshed = await Promise.all(made.map(notes.refresh))
  t.equal(wrong(refreshed.map(isNew)), 0, 'stale after a refresh')
  const related = await notes.hasMany('owner').preload(saved)
  t.equal(wrong(related.map(([, own]) => isNew(own[0]))), 0, 'stale, by a relation')
  const inside = await transact(database, (tx) => notes.find(tx, ids[0] as (typeof ids)[0]))
  t.ok(isNew(inside), 'in a transaction that has not written yet')
  await Promise.all(saved.map(notes.destroy))
  t.equal(
    wrong((await found(together)).map((note) => note === undefined)),
    0,
    'there after their destruction',
  )
}

const noteOf = (n: number) => ({ id: BigInt(n), owner: BigInt(n), title: 'a' })

const settings: Readonly<Record<string, PgpoolSettings>> = {
  'its default settings': {},
  'comments that it reads past': { allow_sql_comments: 'on' },
  'a cache of queries, and balance after writes': {
    memory_cache_enabled: 'on',
    disable_load_balance_on_write: 'off',
    statement_level_load_balance: 'on',
  },
}

const pools: Pgpool[] = []
for (const own of Object.values(settings)) pools.push(await startPgpool(pair, own))
t.teardown(() => Promise.all(pools.map(({ stop }) => stop())))

/** Sessions that the standby knows, each as of its first save. */
const known: Session[] = []
const early = fast(sessionStore(primary, { schema }))
for (let stores = 0; stores < 2 * pools.length; stores += 1)
  known.push(...(await all((n) => saveSession(sessionSet('n', n)(buildSession(early))))))
await pair.pauseStandby()

for (const [index, name] of Object.keys(settings).entries())
  t.test(`with ${name}`, async (t) => {
    const database = postgresDatabase(quietPools(pools[index]?.url ?? '', { max: 10 }), PATIENT)
    t.teardown(() => database.close())
    await t.test('plain reads go to the standby, and what is volatile to the primary', async (t) => {
      const ports = async (text: string) =>
        (await rowsOf(database, `select inet_server_port() as port ${text}`))[0]
      t.strictSame(await ports(''), { port: pair.standbyPort() })
      t.strictSame(await ports('where clock_timestamp() is not null'), { port: pair.primaryPort() })
    })
    await t.test('doctor tells it', async (t) => {
      const url = pools[index]?.url ?? ''
      const { stdout } = await startKeyrow(['doctor', '--json', '--url', url, '--schema', schema]).ended
      t.match(stdout, /"check":"routing","state":"warning","says":"a pooler sends plain reads to a standby/)
    })
    const open = () => sessionStore(database, { schema })
    for (const [of, layered] of Object.entries(stores)) {
      await t.test(`new sessions, ${of}`, (t) => keepsSessions(t, layered(open()), layered(open())))
      await t.test(`older sessions, ${of}`, (t) => endsSessions(t, layered(open()), layered(open())))
    }
    await t.test('records', (t) => keepsRecords(t, database, index * COUNT))
  })

for (const [of, layered] of Object.entries(stores))
  t.test(`all laws, ${of}`, async (t) => {
    const database = postgresDatabase(quietPools(pools[0]?.url ?? '', { max: 10 }), PATIENT)
    t.teardown(() => database.close())
    for (const { name, run } of sessionStoreLaws(openIn(database, undefined, {}, layered)))
      await t.test(name, run)
  })
