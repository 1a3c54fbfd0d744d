// One address with a primary and a standby behind it, through a real HAProxy that gives them new connections by turns:
// `npm run spec:haproxy`. It needs haproxy, which is no npm package.

import * as E from 'fp-ts/lib/Either.js'
import t, { type Test } from 'tap'
import type { Database, Queryable } from '../../lib/db/database.js'
import { postgresDatabase } from '../../lib/db/postgres/index.js'
import {
  buildSession,
  destroySession,
  loadSession,
  type Session,
  saveSession,
  sessionRef,
  sessionSet,
  sessionToken,
} from '../../lib/promise/index.js'
import { sessionStore } from '../../lib/sql/store.js'
import { startKeyrow } from '../support/cli.js'
import { quietPool } from '../support/databases.js'
import { startHaProxy } from '../support/haproxy.js'
import { startPair } from '../support/postgres-pair.js'
import { fast, freshSchema, right } from '../support/stores.js'

const pair = await startPair()
const [PRIMARY, STANDBY] = [0, 1]
const proxy = await startHaProxy([pair.primaryPort(), pair.standbyPort()])
t.teardown(async () => {
  await proxy.stop()
  await pair.stop()
})

const ROLE = 'select pg_is_in_recovery() as standby'
const ask = (db: Queryable) => db.query({ name: 'role', text: ROLE }, [])
const asks: Readonly<Record<string, (database: Database) => ReturnType<typeof ask>>> = {
  statements: ask,
  transactions: (database) => database.transaction(ask),
}

/** A database whose pools are counted. */
const open = (t: Test, max: number, timeoutMs = 20_000) => {
  let pools = 0
  const make = () => {
    pools += 1
    return quietPool(proxy.url, { max })
  }
  const database = postgresDatabase(make, { timeoutMs })
  t.teardown(() => database.close())
  return { database, pools: () => pools }
}

/** How many connections the servers were given meanwhile. */
const connecting = async (act: () => Promise<unknown>): Promise<number> => {
  const total = async () => (await proxy.connections()).reduce((sum, count) => sum + count, 0)
  const before = await total()
  await act()
  return (await total()) - before
}

const REQUESTS = 40
const forty = <A>(act: (index: number) => Promise<A>): Promise<A[]> =>
  Promise.all(Array.from({ length: REQUESTS }, (_, index) => act(index)))

for (const [name, asked] of Object.entries(asks))
  for (const max of [1, 4, 10])
    t.test(`${name}, ${String(max)} connections: of 40 at once none fails, on one pool`, async (t) => {
      for (let round = 1; round <= 5; round += 1) {
        const { database, pools } = open(t, max)
        const made = await connecting(async () => {
          const answers = await forty(() => asked(database)())
          t.strictSame(
            answers.filter((answer) => !E.isRight(answer) || answer.right[0]?.['standby'] !== false),
            [],
          )
        })
        t.equal(pools(), 1)
        t.ok(made <= 4 * max + 10, `${String(made)} connections`)
      }
    })

t.test('sessions: of 40 requests at once none fails', async (t) => {
  const { database, pools } = open(t, 10)
  const schema = freshSchema()
  for (const layered of [(store: ReturnType<typeof sessionStore>) => store, fast]) {
    const store = layered(sessionStore(database, { schema }))
    const made = await forty((n) => saveSession(sessionSet('n', n)(buildSession(store))))
    const loaded = await forty((n) => loadSession(store, sessionToken(made[n] as Session)))
    t.strictSame(
      loaded.map((session) => session && sessionRef('n')(session)),
      made.map((_, n) => n),
    )
    await forty((n) => destroySession(made[n] as Session))
  }
  t.equal(pools(), 1)
})

t.test('doctor tells that several servers answer, where it is not said which is meant', async (t) => {
  const [anyServer] = proxy.url.split('?')
  for (const [url, state] of [
    [proxy.url, 'ok'],
    [anyServer ?? '', 'problem'],
  ] as const) {
    const { stdout } = await startKeyrow(['doctor', '--json', '--url', url]).ended
    t.match(stdout, new RegExp(`"check":"routing","state":"${state}"`))
  }
})

t.test('while only standbys are there it waits, and fails clearly when its time is up', async (t) => {
  const { database, pools } = open(t, 10, 2_000)
  await proxy.turn(PRIMARY, 'off')
  const made = await connecting(async () => {
    const start = performance.now()
    for (const [name, asked] of Object.entries(asks)) {
      const [first] = await forty(() => asked(database)())
      t.match(first, { _tag: 'Left', left: { _tag: 'DriverError', retryable: true } })
      t.match(
        first?._tag === 'Left' && first.left.message,
        /not sent within 2000 ms: the server that was reached is not primary/,
        name,
      )
    }
    t.ok(performance.now() - start < 10_000)
  })
  t.ok(made <= 80 + 40, `${String(made)} connections: one for each request at most, and those of the search`)
  const waiting = forty(() => ask(database)())
  await new Promise((resolve) => setTimeout(resolve, 1_000))
  await proxy.turn(PRIMARY, 'on')
  t.ok((await waiting).every(E.isRight), 'those that wait when it comes back are answered')
  t.equal(pools(), 1)
})

t.test('connections that are cut, and servers that come and go', async (t) => {
  const { database, pools } = open(t, 4)
  const slow = (db: Queryable) => db.query({ name: 'slow', text: 'select pg_sleep(0.05)' }, [])
  await right(ask(database))
  for (let round = 1; round <= 5; round += 1) {
    const going = Promise.all(Array.from({ length: 8 }, () => slow(database)()))
    await new Promise((resolve) => setTimeout(resolve, 20))
    await proxy.turn(PRIMARY, 'off, and closed')
    const answers = await going
    t.ok(answers.every((answer) => E.isRight(answer) || answer.left.retryable))
    const waiting = forty(() => ask(database)())
    await proxy.turn(PRIMARY, 'on')
    await proxy.turn(STANDBY, round % 2 === 0 ? 'on' : 'off')
    const wrong = (await waiting).filter(
      (answer) => !E.isRight(answer) || answer.right[0]?.['standby'] !== false,
    )
    t.strictSame(wrong, [], `round ${String(round)}`)
  }
  await proxy.turn(STANDBY, 'on')
  t.ok(pools() <= 6, `${String(pools())} pools for five losses`)
})
