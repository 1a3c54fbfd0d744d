// Tests the layers `batched` and `cached`: independent results, fresh reads, and saves that are done once. Other specs
// run the laws and the history checker on these layers (laws-postgres.spec.ts, history.spec.ts).

import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import t from 'tap'
import { observedDatabase, transact } from '../lib/db/database.js'
import { postgresDatabase } from '../lib/db/postgres/index.js'
import { withSession } from '../lib/index.js'
import {
  buildSession,
  destroySession,
  loadSession,
  rotateSession,
  type Session,
  type SessionStore,
  saveSession,
  sessionDel,
  sessionFor,
  sessionRef,
  sessionSet,
  sessionsOf,
  sessionToken,
  sessionUpdate,
  updateCurrentSession,
} from '../lib/promise/index.js'
import { withHandle } from '../lib/records/value.js'
import { type SessionStoreOptions, sessionStore } from '../lib/sql/store.js'
import { type BatchOptions, batched } from '../lib/store/batched.js'
import { cached, type MemoryLimit } from '../lib/store/cached.js'
import { counting, quietPool, quietPools, rowsOf } from './support/databases.js'
import { newDatabase } from './support/postgres-server.js'
import { startProxy } from './support/proxy.js'

const server = await newDatabase()
const proxy = await startProxy(server.url)
t.teardown(async () => {
  await proxy.close()
  await server.stop()
})

interface Options extends BatchOptions, MemoryLimit, SessionStoreOptions {
  readonly url?: string
}

const open = (options: Options = {}) => {
  const { url = server.url } = options
  const inner = postgresDatabase(quietPools(url, { max: 4, idle_timeout: 1, backoff: () => 0.001 }))
  t.teardown(() => inner.close())
  const { database, events } = counting(inner)
  const store = batched(cached(sessionStore(database, options), options), options)
  const names = (): readonly string[] => events.splice(0).map(({ query }) => query.name)
  return { database, store, events, names }
}

const count = (key: string) => sessionUpdate(key, (n) => Number(n) + 1, 0)
const all = <A>(times: number, make: (index: number) => Promise<A>): Promise<A[]> =>
  Promise.all(Array.from({ length: times }, (_, index) => make(index)))
const fill = (store: SessionStore, times: number): Promise<Session[]> =>
  all(times, (index) => saveSession(sessionSet('n', index)(buildSession(store))))
const again = async (session: Session, store = session.handle): Promise<Session> =>
  (await loadSession(store, sessionToken(session))) ?? Promise.reject(new Error('it is not there'))

t.test(
  'a load that needs no row gives what a load by another process gives, whatever has changed',
  async (t) => {
    const { store, database, events } = open()
    const other = sessionStore(database)
    const changes: readonly ((session: Session) => unknown)[] = [
      () => undefined,
      (session) => saveSession(sessionSet('n', 'other')(session)),
      (session) => saveSession(sessionDel('n')(session)),
      (session) => rotateSession(session),
      (session) => destroySession(session),
      ({ id }) => alter(id, "expires_at = expires_at + interval '1 microsecond'"),
      ({ id }) => alter(id, "expires_at = now() + interval '1 minute'"),
      ({ id }) => alter(id, "expires_at = now() - interval '1 second'"),
      ({ id }) => alter(id, "recent_saves = '\\x0123456789abcdef'"),
      ({ id }) => alter(id, 'revision = revision + 1'),
      () => undefined,
    ]
    const alter = (id: string, set: string) =>
      rowsOf(database, `update keyrow.session set ${set} where id = '${id}'`)
    const sessions = await fill(store, changes.length)
    await Promise.all(sessions.map((session) => again(session)))
    for (const [index, session] of sessions.entries()) await changes[index]?.(await again(session, other))
    events.splice(0)
    const loaded = await Promise.all(sessions.map(({ id, token }) => store.load(id, token.hash)()))
    t.equal(events.length, 1)
    t.equal(events[0]?.rows?.length, changes.length - 2, 'two have not changed')
    const expected = await Promise.all(sessions.map(({ id, token }) => other.load(id, token.hash)()))
    t.strictSame(loaded, expected)
    events.splice(0)
    t.strictSame(await Promise.all(sessions.map(({ id, token }) => store.load(id, token.hash)())), expected)
    t.equal(
      events[0]?.rows?.length,
      4,
      'the rotated, the destroyed, the expired, and the one with a due touch',
    )
  },
)

t.test('what arrives together goes together, and each gets its own', async (t) => {
  const { store, names } = open()
  const sessions = await fill(store, 50)
  names()
  const loaded = await all(50, (index) => again(sessions[index] as Session))
  t.strictSame(
    loaded.map((session) => session.store.get('n')),
    loaded.map((_, index) => index),
  )
  // Fifty loads are too few for a second statement.
  t.strictSame(names(), ['batch.load'])
  const odd = 'quote " backslash \\ brace } comma , null \n ü \u{1F600}'
  const saved = await all(50, (index) =>
    saveSession(sessionSet(odd, [odd, index])(sessionDel('n')(loaded[index] as Session))),
  )
  t.strictSame(names(), ['batch.save'])
  for (const [index, session] of saved.entries()) {
    const stored = { [odd]: [odd, index] }
    t.strictSame(session.store.toObject(), stored)
    t.strictSame((await again(session, open().store)).store.toObject(), stored)
  }
})

t.test('a lone request waits for nobody, and shares nothing', async (t) => {
  const { store, names } = open()
  const [session] = (await fill(store, 1)) as [Session]
  names()
  await saveSession(count('n')(await again(session)))
  t.strictSame(names(), ['session.load', 'session.save'])
})

t.test(
  'law 5, no lost updates: a hundred at once of one key take few statements, and all count',
  async (t) => {
    const { store, names } = open()
    const [session] = (await fill(store, 1)) as [Session]
    names()
    const seen = await all(100, async () =>
      sessionRef('n', 0)(await saveSession(count('n')(await again(session)))),
    )
    t.strictSame(
      seen.map(Number).sort((a, b) => a - b),
      Array.from({ length: 100 }, (_, index) => index + 1),
      'each saw its own count',
    )
    t.equal((await again(session)).store.get('n'), 100)
    t.ok(names().length < 20)
  },
)

t.test('one that fails does not fail its neighbours', async (t) => {
  const { store } = open()
  const sessions = await fill(store, 6)
  const loaded = await Promise.all(sessions.map((session) => again(session)))
  const [gone, throwing, first, conflicting, huge, plain] = loaded as [
    Session,
    Session,
    Session,
    Session,
    Session,
    Session,
  ]
  const other = open().store
  await destroySession(await again(gone, other))
  await saveSession(count('n')(await again(conflicting, other)))
  let runs = 0
  const failing = sessionUpdate(
    'n',
    () => {
      runs += 1
      if (runs > 1) throw new RangeError('of its own')
      return 1
    },
    0,
  )
  await saveSession(sessionSet('n', 7)(await again(throwing, other)))
  const outcomes = await Promise.allSettled([
    saveSession(count('n')(gone)),
    saveSession(failing(throwing)),
    saveSession(count('n')(first)),
    saveSession(count('n')(conflicting)),
    // The edit fits into one statement, but is too large for an index.
    saveSession(sessionSet('x'.repeat(1024), 'y'.repeat(1_000_000))(huge)),
    saveSession(sessionFor('ada')(plain)),
  ])
  t.match(outcomes[0], { status: 'rejected', reason: { _tag: 'SessionGone' } })
  t.match(outcomes[1], { status: 'rejected', reason: { message: 'of its own' } })
  t.strictSame(
    outcomes.slice(2).map(({ status }) => status),
    ['fulfilled', 'fulfilled', 'fulfilled', 'fulfilled'],
  )
  t.equal((await again(first)).store.get('n'), 3)
  t.equal((await again(conflicting)).store.get('n'), 5)
  t.equal((await again(throwing)).store.get('n'), 7)
  t.equal((await sessionsOf(store, 'ada')).length, 1)
  t.equal(await loadSession(store, sessionToken(gone)), undefined)
})

t.test('a statement that one of them makes fail is done for the others', async (t) => {
  const { store, database } = open()
  const sessions = await fill(store, 4)
  const loaded = await Promise.all(sessions.map((session) => again(session)))
  await rowsOf(database, `alter table keyrow.entry add constraint bad check (key <> 'bad')`)
  const outcomes = await Promise.allSettled(
    loaded.map((session, index) => saveSession(sessionSet(index === 1 ? 'bad' : 'good', 1)(session))),
  )
  await rowsOf(database, 'alter table keyrow.entry drop constraint bad')
  t.strictSame(
    outcomes.map(({ status }) => status),
    ['fulfilled', 'rejected', 'fulfilled', 'fulfilled'],
  )
  t.match(outcomes[1], { reason: { _tag: 'DriverError', sqlState: '23514', kind: 'check' } })
  t.strictSame((await again(loaded[1] as Session)).store.toObject(), { n: 1 })
})

t.test('a statement that the server cancels for one of them is done for the others', async (t) => {
  const { store, database } = open({ retry: { attempts: 1 } })
  const sessions = await fill(store, 4)
  const made = [
    `create function slow() returns trigger language plpgsql as
      $$ begin raise exception 'it took too long' using errcode = '57014'; end $$`,
    `create trigger slow before insert on keyrow.entry for each row when (new.key = 'slow') execute function slow()`,
  ]
  for (const text of made) await rowsOf(database, text)
  const outcomes = await Promise.allSettled(
    sessions.map((session, index) => saveSession(sessionSet(index === 1 ? 'slow' : 'good', 1)(session))),
  )
  await rowsOf(database, 'drop function slow cascade')
  t.strictSame(
    outcomes.map(({ status }) => status),
    ['fulfilled', 'rejected', 'fulfilled', 'fulfilled'],
  )
  t.match(outcomes[1], { reason: { _tag: 'DriverError', sqlState: '57014' } })
})

t.test('a session that somebody else holds keeps only itself waiting', async (t) => {
  const { store } = open()
  const sessions = await fill(store, 5)
  const loaded = await Promise.all(sessions.map((session) => again(session)))
  const holder = quietPool(server.url, { max: 1 })
  t.teardown(() => holder.end({ timeout: 1 }))
  let held: Promise<Session> | undefined
  await holder.begin(async (tx) => {
    await tx`select from keyrow.session where id = ${(loaded[2] as Session).id} for update`
    const saving = loaded.map((session) => saveSession(count('n')(session)))
    held = saving[2]
    const free = await Promise.all(saving.filter((_, index) => index !== 2))
    t.strictSame(
      free.map((session) => session.store.get('n')),
      [1, 2, 4, 5],
    )
    t.equal(await Promise.race([held, Promise.resolve('waiting')]), 'waiting')
  })
  t.equal((await held)?.store.get('n'), 3)
})

/** Waits until the pending requests are sent, so that later requests form another batch. */
const onItsWay = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 10))

/** Runs `during` while another connection locks the rows of these sessions. */
const holding = async (sessions: readonly Session[], during: () => Promise<void>): Promise<void> => {
  const holder = quietPool(server.url, { max: 1 })
  await holder.begin(async (tx) => {
    await tx`select from keyrow.session where id = any(${`{${sessions.map(({ id }) => id).join()}}`}::uuid[]) for update`
    await during()
  })
  await holder.end({ timeout: 1 })
}

t.test('lone saves that wait for a lock leave their places to others', async (t) => {
  const { store } = open({ concurrency: 2 })
  const sessions = await fill(store, 6)
  const [a, b, ...others] = sessions as [Session, Session, ...Session[]]
  const held: Promise<Session>[] = []
  await holding([a, b], async () => {
    for (const session of [a, b]) {
      held.push(saveSession(count('n')(session)))
      await onItsWay()
    }
    const free = await Promise.all(others.map((session) => saveSession(count('n')(session))))
    t.strictSame(
      free.map((session) => session.store.get('n')),
      [3, 4, 5, 6],
    )
  })
  t.strictSame(
    (await Promise.all(held)).map((session) => session.store.get('n')),
    [1, 2],
  )
})

t.test('one that waits for a lock by itself still counts as waiting', async (t) => {
  const { store } = open({ maxQueueSize: 2 })
  const [a, b, c, d] = (await fill(store, 4)) as [Session, Session, Session, Session]
  const outcomes: Promise<unknown>[] = []
  await holding([a], async () => {
    outcomes.push(saveSession(count('n')(a)))
    await saveSession(count('n')(b))
    outcomes.push(saveSession(count('n')(c)))
    await t.rejects(saveSession(count('n')(d)), { _tag: 'DriverError', message: /waiting already/ })
  })
  await Promise.all(outcomes)
})

t.test('whoever waited too long for a turn is told so', async (t) => {
  const { store } = open({ concurrency: 1, queueTimeoutMs: 20 })
  const [first, ...others] = (await fill(store, 4)) as [Session, ...Session[]]
  const holder = quietPool(server.url, { max: 1 })
  for (const act of [
    (session: Session) => again(session),
    (session: Session) => saveSession(count('n')(session)),
  ]) {
    let ahead: Promise<unknown> | undefined
    let behind: Promise<PromiseSettledResult<unknown>[]> | undefined
    await holder.begin(async (tx) => {
      await tx`lock table keyrow.session in access exclusive mode`
      ahead = act(first)
      await onItsWay()
      behind = Promise.allSettled(others.map((session) => act(session)))
      await new Promise((resolve) => setTimeout(resolve, 40))
    })
    await ahead
    for (const outcome of (await behind) ?? [])
      t.match(outcome, { reason: { _tag: 'DriverError', retryable: true, message: /not sent within/ } })
  }
  await holder.end()
  t.strictSame((await again(others[0] as Session)).store.get('n'), 1, 'nothing of it was done')
})

t.test('large values do not share a statement', async (t) => {
  const { store, names } = open()
  const sessions = await fill(store, 4)
  names()
  const large = 'x'.repeat(3 * 1024 * 1024)
  await Promise.all(sessions.map((session) => saveSession(sessionSet('large', large)(session))))
  t.strictSame(names(), ['batch.save', 'batch.save'], 'two by two')
})

t.test('more than may wait is refused at once, and nothing of it is done', async (t) => {
  const { store } = open({ maxBatchSize: 2, concurrency: 1, maxQueueSize: 4 })
  const sessions = await fill(store, 40)
  const outcomes = await Promise.allSettled(sessions.map((session) => saveSession(count('n')(session))))
  const refused = outcomes.flatMap((outcome, index) => (outcome.status === 'rejected' ? [index] : []))
  t.equal(refused.length, 36)
  t.match(outcomes[refused[0] ?? 0], {
    reason: { _tag: 'DriverError', retryable: true, message: /waiting already/ },
  })
  const { store: other } = open()
  for (const index of refused) {
    const session = sessions[index] as Session
    t.equal((await again(session, other)).store.get('n'), index)
  }
  for (const wrong of [
    { maxBatchSize: 0 },
    { concurrency: 1.5 },
    { maxQueueSize: Number.NaN },
    { maxBytes: -1 },
  ])
    t.throws(() => open(wrong), RangeError)
})

t.test('saves whose answer was lost together are done once each', async (t) => {
  const { store } = open({ url: proxy.url, retry: { attempts: 20, totalTimeoutMs: 20_000 } })
  const { store: near } = open()
  const sessions = await fill(near, 8)
  const round = () =>
    Promise.all(sessions.map(async (session) => saveSession(count('n')(await again(session, store)))))
  for (let warm = 0; warm < 8; warm += 1) await round()
  let [others, lost] = [0, 0]
  for (let turn = 0; turn < 100; turn += 1) {
    const loaded = await Promise.all(sessions.map((session) => again(session, store)))
    proxy.loseNextAnswer(async () => {
      lost += 1
      if (turn % 2 === 0) return
      others += 1
      await saveSession(count('n')(await again(sessions[3] as Session, near)))
    })
    await Promise.all(loaded.map((session) => saveSession(count('n')(session))))
  }
  t.ok(lost >= 100, `${String(lost)} answers were lost`)
  for (const [index, session] of sessions.entries())
    t.equal((await again(session, near)).store.get('n'), index + 108 + (index === 3 ? others : 0))
})

t.test('what is known is not read again, and what others did is', async (t) => {
  const { store, events } = open()
  const { store: other } = open()
  const [session] = (await fill(store, 1)) as [Session]
  await saveSession(sessionSet('kept', 'x'.repeat(10_000))(await again(session)))
  const read = async () => {
    events.splice(0)
    const loaded = await again(session)
    return { text: events.map(({ rows }) => rows?.[0]?.['entries'])[0], values: loaded.store }
  }
  t.strictSame((await read()).text, null)
  await saveSession(sessionSet('other', 1)(sessionDel('n')(await again(session, other))))
  const { text, values } = await read()
  t.strictSame(JSON.parse(String(text)), { n: [], other: [1] })
  t.strictSame(new Set(values.keys()), new Set(['kept', 'other']))
  await rotateSession(await again(session, other))
  t.equal(await loadSession(store, sessionToken(session)), undefined)
})

t.test('law 6, no resurrection: what is cached of a session is not the session', async (t) => {
  const { store } = open()
  const { store: other, database } = open()
  const [ended, expired] = (await fill(store, 2)) as [Session, Session]
  await Promise.all([again(ended), again(expired)])
  await destroySession(await again(ended, other))
  await rowsOf(database, `update keyrow.session set expires_at = now() where id = '${expired.id}'`)
  for (const session of [ended, expired]) {
    t.equal(await loadSession(store, sessionToken(session)), undefined)
    t.match(await saveSession(count('n')(session)).catch((error: unknown) => error), { _tag: 'SessionGone' })
  }
})

t.test(
  'a revision that means another state, after a database was restored, is not taken for the known one',
  async (t) => {
    const { store } = open()
    const { store: other, database } = open()
    const [session] = (await fill(store, 1)) as [Session]
    const before = await again(session, other)
    await rowsOf(database, 'create table kept as select * from keyrow.session')
    await rowsOf(database, 'create table kept_entries as select * from keyrow.entry')
    await saveSession(sessionSet('lost', 1)(await again(session)))
    await rowsOf(database, `delete from keyrow.entry where session_id = '${session.id}'`)
    await rowsOf(
      database,
      `update keyrow.session s set revision = k.revision, recent_saves = k.recent_saves
    from kept k where k.id = s.id and s.id = '${session.id}'`,
    )
    await rowsOf(
      database,
      `insert into keyrow.entry select * from kept_entries where session_id = '${session.id}'`,
    )
    await saveSession(sessionSet('new', 1)(before))
    const loaded = await again(session)
    t.strictSame(new Set(loaded.store.keys()), new Set(['n', 'new']))
    t.equal((await saveSession(count('n')(loaded))).store.get('n'), 1)
  },
)

t.test('memory is bounded: what was not used for longest is read again', async (t) => {
  const { store, events } = open({ maxBytes: 20_000 })
  const sessions: Session[] = []
  for (const digit of '0123')
    sessions.push(await saveSession(sessionSet('x', digit.repeat(8_000))(buildSession(store))))
  const textOf = async (session: Session) => {
    events.splice(0)
    await again(session)
    return events.map(({ rows }) => rows?.[0]?.['entries'] !== null)[0]
  }
  t.equal(await textOf(sessions[3] as Session), false)
  t.equal(await textOf(sessions[0] as Session), true)
  t.equal(await textOf(sessions[0] as Session), false)
  t.equal(await textOf(sessions[1] as Session), true)
})

t.test('memory counts what others added, too', async (t) => {
  const { store } = open()
  const { store: other } = open()
  const [session] = (await fill(store, 1)) as [Session]
  const mine = await again(session)
  await saveSession(sessionSet('big', 'x'.repeat(100_000))(await again(session, other)))
  await saveSession(sessionSet('small', 1)(mine))
  await saveSession(sessionDel('big')(await again(session)))
  t.strictSame(new Set((await again(session)).store.keys()), new Set(['n', 'small']))
})

t.test('an observer that throws leaves no place taken', async (t) => {
  let throwing = false
  const inner = postgresDatabase(quietPools(server.url, { max: 4 }))
  t.teardown(() => inner.close())
  const database = observedDatabase(inner, () => {
    if (throwing) throw new RangeError('of the observer')
  })
  const store = batched(sessionStore(database), { concurrency: 1 })
  const sessions = await fill(store, 4)
  throwing = true
  const outcomes = await Promise.allSettled([
    ...sessions.map((session) => again(session)),
    ...sessions.map((session) => saveSession(count('n')(session))),
  ])
  t.strictSame(
    outcomes.map(({ status }) => status),
    outcomes.map(() => 'rejected'),
  )
  throwing = false
  for (const session of await Promise.all(sessions.map((session) => again(session))))
    t.ok(await saveSession(count('m')(session)))
})

t.test('keys that were deleted leave nothing behind for ever', async (t) => {
  const { store, database, names } = open()
  let sessions = await fill(store, 2)
  sessions = await Promise.all(sessions.map((session) => saveSession(sessionDel('n')(session))))
  for (let round = 0; round < 520; round += 1)
    sessions = await Promise.all(sessions.map((session) => saveSession(count('m')(session))))
  t.ok(names().filter((name) => name === 'batch.save').length > 500)
  const ids = sessions.map(({ id }) => `'${id}'`).join()
  t.strictSame(await rowsOf(database, `select key from keyrow.entry where session_id in (${ids})`), [
    { key: 'm' },
    { key: 'm' },
  ])
})

t.test('inside of a transaction the outer store is refused at once', async (t) => {
  const { store, database } = open()
  const [session] = (await fill(store, 1)) as [Session]
  const loaded = await again(session)
  for (const act of [() => again(session), () => saveSession(count('n')(loaded))]) {
    const outcome = transact(database, () => TE.tryCatch(act, (error) => error))
    t.match(await outcome(), { left: { _tag: 'DriverError', kind: 'outerHandle' } })
  }
  t.equal((await again(session)).store.get('n'), 0, 'nothing was stored')
})

t.test('inside of a transaction nothing is batched, and only a commit is told', async (t) => {
  const { store, database, names } = open()
  const [session] = (await fill(store, 1)) as [Session]
  const loaded = await again(session)
  names()
  const moved = (fail: boolean) =>
    withSession(loaded, () =>
      pipe(
        TE.fromTask(() => updateCurrentSession(count('n'))),
        TE.chainW((current) =>
          transact(database, (tx) =>
            pipe(
              TE.tryCatch(() => saveSession(withHandle(tx)(current)), String),
              TE.chainW(() => (fail ? TE.left('no') : TE.right('yes'))),
            ),
          ),
        ),
        TE.orElseW(() => TE.right('rolled back')),
      ),
    )()
  t.ok(E.isRight(await moved(true)))
  t.equal((await again(session)).store.get('n'), 1, 'saved at the end, once')
  t.ok(E.isRight(await moved(false)))
  t.equal((await again(session)).store.get('n'), 2)
  t.strictSame(
    names().filter((name) => name.startsWith('batch.')),
    [],
  )
})

t.test('updates of sessions that are many revisions behind are stored, in a batch too', async (t) => {
  const { store, database } = open()
  const sessions = await fill(store, 3)
  const writer = sessionStore(database)
  for (const session of sessions)
    for (let times = 0; times < 70; times += 1)
      await saveSession(sessionSet('n', times)(await again(session, writer)))
  await Promise.all(sessions.map((session) => saveSession(count('n')(session))))
  for (const session of sessions) t.equal((await again(session)).store.get('n'), 70)
})
