// A role may have a stricter default isolation, and timeouts of its own: neither loses a save, and no save of keyrow
// changes the timeouts of a transaction that is the program's.

import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import t, { type Test } from 'tap'
import type { Database, Row } from '../../lib/db/database.js'
import { postgresDatabase } from '../../lib/db/postgres/index.js'
import { batchedDatabase } from '../../lib/entry/store.js'
import {
  buildSession,
  loadSession,
  rotateSession,
  saveSession,
  sessionFor,
  sessionSet,
  sessionToken,
  sessionUpdate,
} from '../../lib/index.js'
import { int4, record, transact, withHandle } from '../../lib/records/index.js'
import { sessionStore } from '../../lib/sql/store.js'
import type { Session, SessionStore } from '../../lib/store/contract.js'
import { flowLaws, sessionStoreLaws } from '../../lib/testing/index.js'
import { quietPool, rowsOf } from '../support/databases.js'
import { newDatabase } from '../support/postgres-server.js'
import { type RoleSettings, roleWith } from '../support/roles.js'
import { fast, freshSchema, openIn, right } from '../support/stores.js'

const server = await newDatabase()
t.teardown(() => server.stop())

const openAs = async (t: Test, settings: RoleSettings, max = 10): Promise<Database> => {
  const { url } = await roleWith(server.url, settings)
  const database = postgresDatabase(quietPool(url, { max }))
  t.teardown(() => database.close())
  return database
}

const reload = async (session: Session, store: SessionStore = session.handle): Promise<Session> => {
  const found = await right(loadSession(store, sessionToken(session)))
  return found._tag === 'Some' ? found.value : Promise.reject(new Error('it is not there'))
}

const each = <A>(count: number, act: (index: number) => Promise<A>): Promise<readonly A[]> =>
  Promise.all(Array.from({ length: count }, (_, index) => act(index)))

for (const isolation of ['repeatable read', 'serializable'])
  t.test(`default_transaction_isolation = ${isolation}`, async (t) => {
    const database = await openAs(t, { default_transaction_isolation: isolation }, 20)
    t.strictSame(await rowsOf(database, 'show default_transaction_isolation'), [
      { default_transaction_isolation: isolation },
    ])

    const open = openIn(database)
    for (const { name, run } of [...sessionStoreLaws(open), ...flowLaws(open)]) t.test(name, run)
    for (const { name, run } of sessionStoreLaws(openIn(database, undefined, {}, fast)))
      t.test(`${name} (batched and remembered)`, run)

    for (const layered of [(store: SessionStore) => store, fast])
      t.test(`of 100 sets at once none is lost (${layered === fast ? 'batched' : 'plain'})`, async (t) => {
        const store = layered(sessionStore(database, { schema: freshSchema() }))
        const session = await right(saveSession(sessionSet('first', 1)(buildSession(store))))
        await each(100, (n) => right(saveSession(sessionSet(`key ${String(n)}`, n)(session))))
        t.equal((await reload(session)).store.size, 101)
        await each(100, () => right(saveSession(sessionUpdate('n', (n) => Number(n) + 1, 0)(session))))
        t.equal((await reload(session)).store.get('n'), 100)
      })

    t.test('of rotations at once one wins, and the others lose to it', async (t) => {
      const store = sessionStore(database, { schema: freshSchema() })
      const session = await right(saveSession(sessionSet('a', 1)(buildSession(store))))
      const ended = await each(20, () => rotateSession(session)())
      t.equal(ended.filter(E.isRight).length, 1)
      for (const one of ended.filter(E.isLeft)) t.equal(one.left._tag, 'SaveConflict')
    })

    t.test('sessions of one principal are made and ended at once', async (t) => {
      const store = sessionStore(database, { schema: freshSchema() })
      await each(40, async (n) => {
        const session = await right(saveSession(sessionFor('ada')(buildSession(store))))
        if (n % 2 === 0) await right(store.endAll('ada', { only: session.id }))
        else await right(store.destroy(session.id))
      })
      t.strictSame(await right(store.sessionsOf('ada')), [])
    })

    for (const handle of [database, batchedDatabase(database)])
      t.test(`saves of a record lose nothing (${handle === database ? 'plain' : 'batched'})`, async (t) => {
        const table = freshSchema()
        await rowsOf(database, `create table ${table} (id int4 primary key, n int4, a int4, b int4)`)
        const counters = record({ table, key: 'id', columns: { id: int4, n: int4, a: int4, b: int4 } })
        const build = TE.fromEither(counters.build(handle, { id: 1, n: 0, a: 0, b: 0 }))
        const counter = await right(pipe(build, TE.chainW(counters.save)))
        await each(60, () => right(counters.save(counters.update('n', (n) => n + 1)(counter))))
        await each(60, (n) => right(counters.save(counters.set(n % 2 === 0 ? 'a' : 'b', n)(counter))))
        t.match(await rowsOf(database, `select n, a > 0 as a, b > 0 as b from ${table}`), [
          { n: 60, a: true, b: true },
        ])
      })
  })

const timeouts = `select current_setting('idle_in_transaction_session_timeout') as idle,
  current_setting('transaction_timeout') as whole`

/** A session that others have saved since it was loaded: its update has to look before it writes. */
const behind = async (store: SessionStore): Promise<Session> => {
  const session = await right(saveSession(sessionSet('n', 1)(buildSession(store))))
  await right(saveSession(sessionSet('other', 1)(await reload(session))))
  return sessionUpdate('n', (n) => Number(n) + 1, 0)(session)
}

/** The same database; keeps the timeouts of each transaction as they are before its commit. */
const recordingTimeouts = (database: Database, seen: Row[]): Database => ({
  ...database,
  transaction: (body) =>
    database.transaction((tx) =>
      pipe(
        body(tx),
        TE.chainFirstW(() =>
          pipe(
            tx.query({ name: 'timeouts', text: timeouts }, []),
            TE.map((rows) => seen.push(...rows)),
          ),
        ),
      ),
    ),
})

const roles = [
  [{}, { idle: '5s', whole: '5s' }],
  [
    { idle_in_transaction_session_timeout: '700ms', transaction_timeout: '3s' },
    { idle: '700ms', whole: '3s' },
  ],
  [
    { idle_in_transaction_session_timeout: '90s', transaction_timeout: '1d', intervalstyle: 'iso_8601' },
    { idle: '5s', whole: '5s' },
  ],
  [
    { idle_in_transaction_session_timeout: '5s', transaction_timeout: '2min' },
    { idle: '5s', whole: '5s' },
  ],
] as const

for (const [settings, expected] of roles)
  t.test(`timeouts: ${JSON.stringify(settings)}`, async (t) => {
    const plain = await openAs(t, settings)
    const [own] = await rowsOf(plain, timeouts)
    const seen: Row[] = []
    const store = sessionStore(recordingTimeouts(plain, seen), { schema: freshSchema() })
    await right(store.prepare)

    t.test('a save bounds its own transaction, and never loosens what the role has', async (t) => {
      const late = await behind(store)
      seen.length = 0
      t.equal((await right(saveSession(late))).store.get('n'), 2)
      t.strictSame(seen, [expected])
    })

    t.test("a save in the program's transaction leaves its timeouts as they are", async (t) => {
      const database = plain
      const inside = sessionStore(database, { schema: freshSchema() })
      const [late, later] = [await behind(inside), await behind(inside)]
      const save = (tx: Database, session: Session) => saveSession(withHandle(tx)(session))
      const after = await right(
        transact(database, (tx) =>
          pipe(
            save(tx, late),
            TE.chainW(() => transact(tx, (inner) => save(inner, later))),
            TE.chainW(() => tx.query({ name: 'timeouts', text: timeouts }, [])),
          ),
        ),
      )
      t.strictSame(after, [own])
      t.equal((await reload(later)).store.get('n'), 2)
    })
  })
