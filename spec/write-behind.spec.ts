// Tests the layer `writeBehind`: the laws with their exceptions, when a save waits for the store, and what happens if the
// cache or the store fails. Real caches and histories of several processes are in slow/caches.spec.ts.

import { AsyncLocalStorage } from 'node:async_hooks'
import { setTimeout as delay } from 'node:timers/promises'
import * as E from 'fp-ts/lib/Either.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import t from 'tap'
import { type WriteBehindOptions, type WriteBehindStore, writeBehind } from '../lib/cache/write-behind.js'
import { transact } from '../lib/db/database.js'
import { pgDatabase } from '../lib/db/pg.js'
import {
  buildSession,
  destroySession,
  destroySessionsOf,
  loadSession,
  onSessionEvent,
  rotateSession,
  type Session,
  saveSession,
  sessionDel,
  sessionRef,
  sessionSet,
  sessionsOf,
  sessionToken,
  sessionUpdate,
  signIn,
  withSession,
} from '../lib/promise/index.js'
import { sessionStore } from '../lib/sql/store.js'
import { batched } from '../lib/store/batched.js'
import { cached } from '../lib/store/cached.js'
import type { SessionStore } from '../lib/store/contract.js'
import { memoryStore } from '../lib/store/memory.js'
import { sessionStoreLaws } from '../lib/testing/index.js'
import { changeOf, expirationOf, snapshotOf } from '../lib/testing/subject.js'
import { counting, pgPool, rowsOf } from './support/databases.js'
import { isException, lateStores, lawsWithLateSaves, secrets } from './support/late-stores.js'
import { newDatabase } from './support/postgres-server.js'
import { freshSchema, right } from './support/stores.js'
import { testCache } from './support/test-cache.js'

const server = await newDatabase()
const inner = pgDatabase(pgPool(server.url, { max: 8 }))
t.teardown(async () => {
  await inner.close()
  await server.stop()
})

const stacks = {
  'write-behind': lateStores(inner, testCache())(),
  'batched, write-behind': lateStores(inner, testCache())((store) => batched(store)),
}

for (const [name, open] of Object.entries(stacks)) {
  const laws = sessionStoreLaws(open)
  for (const law of lawsWithLateSaves(laws)) t.test(`${law.name} (${name})`, law.run)
  t.test(`two laws have exceptions (${name})`, async (t) => {
    const exceptions = laws.filter(isException)
    t.equal(exceptions.length, 2)
    for (const law of exceptions) await t.rejects(law.run(), law.name)
  })
}

/** Opens stores of several processes with one database and one cache. No save is stored by itself. */
const open = (options: Partial<WriteBehindOptions> = {}) => {
  const { database, events } = counting(inner)
  const schema = freshSchema()
  const cache = testCache()
  const plain = sessionStore(database, { schema })
  const process = (own: Partial<WriteBehindOptions> = {}) =>
    writeBehind(sessionStore(database, { schema }), cache, { secrets, flushMs: 60_000, ...options, ...own })
  const names = (): readonly string[] => events.splice(0).map(({ query }) => query.name)
  return { cache, schema, plain, process, database, names, store: process() }
}

const until = async (isSo: () => boolean): Promise<void> => {
  for (const end = Date.now() + 20_000; !isSo(); ) {
    if (Date.now() > end) throw new Error('it is not so after 20 seconds')
    await delay(5)
  }
}

const again = async (session: Session, store: SessionStore): Promise<Session> =>
  (await loadSession(store, sessionToken(session))) ?? Promise.reject(new Error('it is not there'))
const begun = (store: SessionStore): Promise<Session> =>
  saveSession(sessionSet('n', 0)(sessionSet('list', [])(buildSession(store))))
const append = (tag: string) => sessionUpdate('list', (list) => [...(list as string[]), tag], [] as string[])
const listOf = sessionRef('list')

t.test(
  'a save takes no statement, every process sees it, and the store gets many saves as one',
  async (t) => {
    const { store, process, plain, names } = open()
    const other = process()
    let session = await again(await begun(store), store)
    names()
    for (const tag of ['a', 'b', 'c']) session = await saveSession(append(tag)(session))
    t.strictSame(names(), [])
    t.strictSame([listOf(session), snapshotOf(session).revision], [['a', 'b', 'c'], 4])
    const seen = await again(session, other)
    t.strictSame([listOf(seen), snapshotOf(seen).revision], [['a', 'b', 'c'], 4])
    t.strictSame(listOf(await again(session, plain)), [], 'the store does not have them yet')
    await saveSession(append('d')(sessionSet('n', 1)(seen)))
    names()
    await right(store.flush)
    t.strictSame(names(), ['batch.saveLate'])
    const stored = await again(session, plain)
    t.strictSame(
      [stored.store.toJS(), snapshotOf(stored).revision],
      [{ n: 1, list: ['a', 'b', 'c', 'd'] }, 5],
    )
    await right(other.flush)
    t.strictSame(
      snapshotOf(await again(session, plain)).revision,
      5,
      'the other process finds its save stored',
    )
  },
)

t.test('the store gets the saves after flushMs, also those of a process that has ended', async (t) => {
  const { process, plain } = open()
  const [quick, slow] = [process({ flushMs: 20 }), process()]
  let stored = 0
  t.teardown(
    onSessionEvent('lateStored', ({ saves }) => {
      stored += saves
    }),
  )
  const session = await begun(quick)
  await saveSession(append('a')(session))
  await until(() => stored === 1)
  t.strictSame(listOf(await again(session, plain)), ['a'])
  // The clock of the ended process was slow.
  const [date] = [Date.now]
  Date.now = () => date() - 3_600_000
  await saveSession(append('b')(await again(session, slow)))
  Date.now = date
  await again(session, quick)
  await until(() => stored === 2)
  t.strictSame(listOf(await again(session, plain)), ['a', 'b'])
})

t.test(
  'law 4, law 5: updates of three processes at the same time are all applied once, in one order',
  async (t) => {
    const { process, plain } = open()
    const stores = [process(), process(), batched(process())]
    const session = await begun(stores[0] as SessionStore)
    const tags = Array.from({ length: 90 }, (_, index) => String(index))
    const saved = await Promise.all(
      tags.map(async (tag, index) =>
        saveSession(append(tag)(await again(session, stores[index % 3] as SessionStore))),
      ),
    )
    for (const store of stores) if ('flush' in store) await right(store.flush as TE.TaskEither<Error, void>)
    const list = listOf(await again(session, plain)) as readonly string[]
    t.strictSame([...list].sort(), [...tags].sort())
    for (const [index, one] of saved.entries())
      t.strictSame(
        list.slice(0, (listOf(one) as readonly string[]).length),
        listOf(one),
        `save ${String(index)}`,
      )
  },
)

t.test(
  'creations, principals, lifetimes, rotations, touches and ends are in the store when they are answered',
  async (t) => {
    const { store, plain, names, schema } = open()
    const session = await begun(store)
    const late = await saveSession(append('a')(session))
    names()
    const signed = await withSession(late, () =>
      signIn('ada', { lifetime: { idleMs: 3_600_000, absoluteMs: 7_200_000 } }),
    )
    t.ok(names().includes('session.saveFull'))
    const stored = await again(signed, plain)
    t.strictSame(listOf(stored), ['a'], 'the late save came first')
    t.strictSame(
      (await sessionsOf(plain, 'ada')).map(({ id }) => id),
      [session.id],
    )
    const later = await saveSession(append('b')(await again(signed, store)))
    const rotated = await rotateSession(later)
    t.equal(await loadSession(store, sessionToken(signed)), undefined)
    t.strictSame(listOf(await again(rotated, store)), ['a', 'b'])
    await rowsOf(inner, `update ${schema}.session set expires_at = now() + interval '1 minute'`)
    const touched = await saveSession(await again(rotated, store))
    t.ok(expirationOf(touched) > Date.now() + 600_000)
    await destroySession(touched)
    for (const one of [store, plain]) t.equal(await loadSession(one, sessionToken(rotated)), undefined)
  },
)

t.test(
  'law 6, law 12: a load after an end finds nothing, and a save fails, whatever the cache returns',
  async (t) => {
    const ends: Readonly<Record<string, (session: Session, store: SessionStore) => Promise<unknown>>> = {
      destroySession: (session) => destroySession(session),
      destroySessionsOf: (_, store) => destroySessionsOf(store, 'ada'),
    }
    for (const [name, end] of Object.entries(ends)) {
      const { store, process, plain, cache } = open()
      const other = process()
      const session = await withSession(await begun(store), () => signIn('ada'))
      const late = await saveSession(append('a')(await again(session, store)))
      const [mine, others] = [await again(late, store), await again(late, other)]
      const heads = new Map(cache.values)
      await end(mine, store)
      for (const one of [store, other]) {
        t.equal(await loadSession(one, sessionToken(late)), undefined, name)
        await t.rejects(
          saveSession(append('b')(one === store ? late : others)),
          { name: 'SessionGone' },
          name,
        )
      }
      for (const [key, value] of heads) await right(cache.set([{ key, value, ttlMs: 1_000 }]))
      for (const one of [store, other]) t.equal(await loadSession(one, sessionToken(late)), undefined, name)
      // The cache has lost the mark, so a save of another process is answered. It is dropped.
      cache.values.clear()
      await saveSession(append('c')(others)).catch(() => undefined)
      await right(other.flush)
      await right(store.flush)
      t.equal(await loadSession(plain, sessionToken(late)), undefined, name)
    }
  },
)

t.test(
  'two exceptions: a save after the expiry may be answered, and the expiration moves with the store',
  async (t) => {
    const { store, plain, schema } = open()
    const session = await again(await begun(store), store)
    const before = expirationOf(await again(session, plain))
    await rowsOf(inner, `update ${schema}.session set expires_at = expires_at - interval '10 minutes'`)
    const late = await saveSession(append('a')(session))
    t.ok(expirationOf(await again(late, plain)) < before - 500_000, 'not yet')
    await right(store.flush)
    t.ok(expirationOf(await again(late, plain)) >= before - 1_000, 'with the saves')
    const dropped: number[] = []
    t.teardown(onSessionEvent('lateDropped', ({ saves }) => dropped.push(saves)))
    const last = await again(late, store)
    await rowsOf(inner, `update ${schema}.session set expires_at = now() - interval '1 second'`)
    await saveSession(append('b')(last))
    t.equal(await loadSession(store, sessionToken(late)), undefined, 'no load finds it')
    await right(store.flush)
    t.strictSame(dropped, [1])
    const alive = `select count(*)::int as n from ${schema}.session where expires_at > now()`
    t.strictSame(await rowsOf(inner, alive), [{ n: 0 }])
  },
)

t.test('a cache that loses everything loses no save of a process that lives', async (t) => {
  const { store, process, plain, cache } = open()
  const other = process()
  const session = await begun(store)
  const mine = await saveSession(append('a')(session))
  await saveSession(append('b')(await again(session, other)))
  cache.values.clear()
  t.strictSame(listOf(await again(mine, store)), ['a'], 'its own save is seen')
  await saveSession(append('c')(await again(mine, store)))
  await right(other.flush)
  await right(store.flush)
  t.strictSame([...(listOf(await again(session, plain)) as string[])].sort(), ['a', 'b', 'c'])
})

const ALL = { n: 0, list: [], first: 1, other: 1, second: 1 }

t.test('if a process has lost saves, they are stored before it sees the session again', async (t) => {
  const { store, process, cache } = open()
  const other = process()
  const session = await begun(store)
  await saveSession(sessionSet('first', 1)(session))
  cache.values.clear()
  await saveSession(sessionSet('other', 1)(await again(session, other)))
  const seen = await again(session, store)
  t.strictSame(seen.store.toJS(), { n: 0, list: [], first: 1, other: 1 })
  await saveSession(sessionSet('second', 1)(seen))
  // A process that knows nothing finds all saves, although the first process stores nothing more.
  t.strictSame((await again(session, process())).store.toJS(), ALL)
})

for (const layered of [(store: SessionStore) => store, (store: SessionStore) => batched(store)])
  t.test('a process does not save after a save that it has lost', async (t) => {
    const { process, cache } = open()
    const [late, other] = [process(), process()]
    const store = layered(late)
    const session = await begun(store)
    const first = await saveSession(sessionSet('first', 1)(session))
    cache.values.clear()
    await saveSession(sessionSet('other', 1)(await again(session, other)))
    // Two saves at once are one command of the cache.
    const stranger = await begun(store)
    await Promise.all([
      saveSession(sessionSet('second', 1)(first)),
      saveSession(sessionSet('n', 1)(stranger)),
    ])
    t.strictSame((await again(session, process())).store.toJS(), ALL)
  })

for (const [what, spoil] of Object.entries({
  'is lost': ({ values }: ReturnType<typeof testCache>) => values.clear(),
  'is hidden': (cache: ReturnType<typeof testCache>) => {
    cache.tamper = () => 'fail'
  },
}))
  t.test(
    `the saves of an ended process are stored with a save that was made on them, if the head ${what}`,
    async (t) => {
      const { store, process, plain, cache } = open()
      const [other, third] = [process(), process()]
      const session = await begun(store)
      await saveSession(sessionUpdate('first', () => 1)(session))
      await saveSession(sessionSet('second', 1)(await again(session, other)))
      spoil(cache)
      if (what === 'is lost') await saveSession(sessionSet('other', 1)(await again(session, third)))
      else await saveSession(sessionSet('other', 1)(await again(session, plain)))
      await right(other.flush)
      await right(third.flush)
      t.strictSame((await again(session, plain)).store.toJS(), ALL)
    },
  )

t.test('while a session is locked, a process goes on whose saves others have stored', async (t) => {
  const { store, process, schema } = open()
  const other = process()
  const session = await begun(store)
  await saveSession(append('a')(session))
  await saveSession(append('b')(await again(session, other)))
  await right(other.flush)
  await saveSession(append('c')(await again(session, other)))
  const locks = pgDatabase(pgPool(server.url, { max: 1 }))
  t.teardown(() => locks.close())
  const locked = transact(locks, (tx) => async () => {
    await right(tx.query({ name: 'lock', text: `select from ${schema}.session for update` }, []))
    const start = Date.now()
    const seen = await again(session, store)
    const saved = await saveSession(append('d')(seen))
    t.strictSame(listOf(saved), ['a', 'b', 'c', 'd'])
    t.ok(Date.now() - start < 1_000, 'it does not wait for the lock')
    return E.right(undefined)
  })
  await right(locked)
  await right(store.flush)
  t.strictSame(listOf(await again(session, process())), ['a', 'b', 'c', 'd'])
})

t.test('many sessions whose heads are lost are stored with a few statements each', async (t) => {
  const { store, process, plain, cache, names } = open({ maxJournal: 1_000 })
  const other = process()
  const sessions = await Promise.all(Array.from({ length: 60 }, () => begun(store)))
  for (const session of sessions) {
    await saveSession(append('a')(session))
    await saveSession(append('b')(await again(session, other)))
  }
  cache.values.clear()
  names()
  await right(other.flush)
  const finds = names().filter((name) => name === 'late.find').length
  t.ok(finds <= 2 * sessions.length, `${String(finds)} finds`)
  for (const session of sessions) t.strictSame(listOf(await again(session, plain)), ['a', 'b'])
})

t.test('a save is not reported as dropped while its process can store it', async (t) => {
  const { store, process, plain, cache } = open()
  const other = process()
  const dropped: number[] = []
  t.teardown(onSessionEvent('lateDropped', ({ saves }) => dropped.push(saves)))
  const session = await begun(store)
  await saveSession(append('a')(session))
  await saveSession(sessionSet('x', 1)(await again(session, other)))
  cache.values.clear()
  await saveSession(append('plain')(await again(session, plain)))
  await right(other.flush)
  await right(store.flush)
  t.strictSame([listOf(await again(session, plain)), dropped], [['plain', 'a'], []])
})

t.test('a cache that does not answer: saves go to the store, after the own late saves', async (t) => {
  const { store, process, plain, cache } = open()
  const other = process()
  const session = await begun(store)
  const mine = await saveSession(append('a')(session))
  await saveSession(append('b')(await again(session, other)))
  cache.tamper = () => 'fail'
  const through = await saveSession(append('c')(mine))
  t.strictSame(listOf(through), ['a', 'c'])
  t.strictSame(listOf(await again(session, plain)), ['a', 'c'])
  cache.tamper = (_, value) => value
  t.strictSame([...(listOf(await again(session, other)) as string[])].sort(), ['a', 'b', 'c'])
  await right(other.flush)
  await right(store.flush)
  t.strictSame([...(listOf(await again(session, plain)) as string[])].sort(), ['a', 'b', 'c'])
})

t.test('a save whose answer was lost is done once', async (t) => {
  for (const isDone of [true, false])
    for (const wrap of [(store: SessionStore) => store, (store: SessionStore) => batched(store)]) {
      const { process, plain, cache } = open()
      const late = process()
      const store = wrap(late)
      const session = await again(await begun(store), store)
      const { swap } = cache
      Object.assign(cache, {
        swap: (items: Parameters<typeof swap>[0]) => async () => {
          Object.assign(cache, { swap })
          if (isDone) await swap(items)()
          return E.left({ kind: 'timeout' })
        },
      })
      const saved = await Promise.all(['a', 'b'].map((tag) => saveSession(append(tag)(session))))
      for (const [index, one] of saved.entries())
        t.ok((listOf(one) as string[]).includes(['a', 'b'][index] ?? ''), 'it sees itself')
      await right(late.flush)
      t.strictSame([...(listOf(await again(session, plain)) as string[])].sort(), ['a', 'b'])
    }
})

t.test('a save in the store that went beside a head leaves no update out', async (t) => {
  const { store, process, plain } = open()
  const other = process()
  const session = await begun(store)
  await saveSession(sessionSet('x', 1)(append('a')(session)))
  await saveSession(append('b')(sessionSet('y', 2)(await again(session, other))))
  // A process without the cache.
  await saveSession(append('plain')(await again(session, plain)))
  t.strictSame(sessionRef('x')(await again(session, store)), 1)
  await right(other.flush)
  await right(store.flush)
  const end = await again(session, plain)
  t.strictSame([...(listOf(end) as string[])].sort(), ['a', 'b', 'plain'])
  t.strictSame([sessionRef('x')(end), sessionRef('y')(end), sessionRef('n')(end)], [1, 2, 0])
})

t.test('a head that is full is stored, and so are large ones', async (t) => {
  const { store, plain, names } = open()
  let session = await begun(store)
  names()
  for (let save = 0; save < 100; save += 1) session = await saveSession(append(String(save))(session))
  t.ok(names().filter((name) => name === 'batch.saveLate').length >= 3)
  for (let save = 0; save < 4; save += 1)
    session = await saveSession(sessionSet(`large ${String(save)}`, 'x'.repeat(100_000))(session))
  t.ok(names().includes('batch.saveLate'))
  await right(store.flush)
  t.equal((listOf(await again(session, plain)) as string[]).length, 100)
  t.equal(snapshotOf(await again(session, plain)).revision, 105)
})

t.test('tombstones are cleaned up by the late saves that pass a multiple of 256 revisions', async (t) => {
  const { store, schema, plain } = open()
  let session = await saveSession(sessionSet('gone', 1)(sessionSet('back', 1)(await begun(store))))
  session = await saveSession(sessionDel('gone')(sessionDel('back')(session)))
  const raiseTo = async (revision: number) => {
    while (snapshotOf(session).revision < revision) {
      session = await saveSession(sessionSet('n', snapshotOf(session).revision)(session))
    }
    await right(store.flush)
  }
  const deletedKeys = () => rowsOf(inner, `select key from ${schema}.entry where value is null order by key`)
  await raiseTo(250)
  await raiseTo(260)
  await raiseTo(500)
  t.strictSame(await deletedKeys(), [{ key: 'back' }, { key: 'gone' }])
  session = await saveSession(sessionSet('back', 2)(sessionSet('young', 1)(session)))
  session = await saveSession(sessionDel('young')(session))
  await raiseTo(520)
  t.strictSame(await deletedKeys(), [{ key: 'young' }])
  t.match((await again(session, plain)).store.toJS(), { back: 2 })
})

t.test('a session that is loaded partly is saved, and reads its own late saves', async (t) => {
  const { store, plain, names } = open()
  const session = await saveSession(append('a')(sessionSet('x', 1)(await begun(store))))
  const some = await loadSession(store, sessionToken(session), { keys: ['list'] })
  t.strictSame(some && listOf(some), ['a'])
  names()
  const saved = await saveSession(sessionSet('y', 2)(append('b')(some as Session)))
  t.strictSame(listOf(saved), ['a', 'b'])
  await saveSession(sessionUpdate('x', (x) => Number(x) + 1, 0)(saved))
  await right(store.flush)
  t.strictSame((await again(session, plain)).store.toJS(), { n: 0, list: ['a', 'b'], x: 2, y: 2 })
})

t.test('a transaction sees the late saves, and its changes are in no head', async (t) => {
  const { store, database, plain } = open()
  const session = await saveSession(append('a')(await begun(store)))
  const outside = AsyncLocalStorage.snapshot()
  const inside = await transact(database, (tx) =>
    TE.fromTask(async () => {
      const own = store.using?.(tx) as SessionStore
      const loaded = await again(session, own)
      // Another request of the process saves meanwhile.
      const beside = outside(async () => saveSession(append('beside')(await again(session, store))))
      const saved = await saveSession(append('tx')(loaded))
      return { lists: [listOf(loaded), listOf(saved)], beside }
    }),
  )()
  if (E.isLeft(inside)) throw inside.left
  t.strictSame(inside.right.lists, [['a'], ['a', 'tx']])
  await inside.right.beside
  await right(store.flush)
  t.strictSame([...(listOf(await again(session, plain)) as string[])].sort(), ['a', 'beside', 'tx'])
  await transact(database, (tx) =>
    TE.chainW(() => TE.left('rolled back'))(
      TE.fromTask(async () =>
        saveSession(append('no')(await again(session, store.using?.(tx) as SessionStore))),
      ),
    ),
  )()
  await saveSession(append('after')(await again(session, store)))
  await right(store.flush)
  t.strictSame([...(listOf(await again(session, plain)) as string[])].sort(), ['a', 'after', 'beside', 'tx'])
})

t.test('edits that are stored with a flow come after the late saves', async (t) => {
  const { store, plain } = open()
  const session = await saveSession(append('a')(await begun(store)))
  const change = changeOf(session, append('flow')(session).edits)
  if (store.flows === undefined) throw new Error('the store has no flows')
  await right(store.flows.write({ session: session.id, row: undefined, ends: [], change }))
  t.strictSame(listOf(await again(session, plain)), ['a', 'flow'])
  t.strictSame(listOf(await again(session, store)), ['a', 'flow'])
})

t.test(
  'a save that a batch may have added is done once, although the store is drained meanwhile',
  async (t) => {
    const { process, plain, cache } = open()
    const late = process()
    const store = batched(late)
    const session = await again(await begun(store), store)
    const { swap } = cache
    Object.assign(cache, {
      swap: (items: Parameters<typeof swap>[0]) => async () => {
        Object.assign(cache, { swap })
        await swap(items)()
        await right(late.drain)
        return E.left({ kind: 'timeout' })
      },
    })
    // Two saves at once are a batch.
    const other = await again(await begun(store), store)
    await Promise.all([saveSession(append('a')(session)), saveSession(append('b')(other))])
    await right(late.drain)
    t.strictSame([listOf(await again(session, plain)), listOf(await again(other, plain))], [['a'], ['b']])
  },
)

t.test('an update that throws fails alone', async (t) => {
  const { process, plain } = open()
  const [first, second] = [process(), process()]
  const store = batched(second)
  const sessions = await Promise.all([begun(first), begun(first), begun(first)])
  const loaded = await Promise.all(sessions.map((session) => again(session, store)))
  // The session has changed since the load, so the function runs again.
  await saveSession(sessionSet('n', 5)(await again(sessions[0], first)))
  await again(sessions[0], store)
  const throwing = sessionUpdate(
    'n',
    (n) => {
      if (n === 5) throw new Error('five')
      return n
    },
    0,
  )
  const saves = loaded.map((session, index) => saveSession((index === 0 ? throwing : append('a'))(session)))
  const results = await Promise.allSettled(saves)
  t.strictSame(
    results.map(({ status }) => status),
    ['rejected', 'fulfilled', 'fulfilled'],
  )
  // An answered update that throws on the values in the store is dropped, and no promise is rejected.
  const mine = await saveSession(
    sessionUpdate(
      'n',
      (n) => {
        if (n === 'plain') throw new Error('plain')
        return 6
      },
      0,
    )(await again(sessions[1], first)),
  )
  await saveSession(sessionSet('n', 'plain')(await again(sessions[1], plain)))
  await right(first.flush)
  await again(mine, second)
  t.equal(sessionRef('n')(await again(mine, plain)), 'plain')
})

t.test('while a session is locked, drain fails and loses nothing', async (t) => {
  const { store, plain, schema } = open()
  const [session, free] = [await begun(store), await begun(store)]
  for (const one of [session, free]) await saveSession(append('a')(one))
  const locker = pgPool(server.url, { max: 1 })
  const client = await locker.connect()
  await client.query('begin')
  await client.query(`select from ${schema}.session where id = '${session.id}' for update`)
  t.match(await store.drain(), { _tag: 'Left', left: { _tag: 'DriverError', retryable: true } })
  t.strictSame(listOf(await again(free, plain)), ['a'], 'other sessions are stored')
  await client.query('rollback')
  client.release()
  await locker.end()
  await right(store.drain)
  t.strictSame(listOf(await again(session, plain)), ['a'])
})

t.test('a head that is newer than the store, after the store has lost saves, is settled', async (t) => {
  const { process, schema, plain } = open()
  const [store, other] = [process(), process()]
  const session = await begun(store)
  await rowsOf(inner, `create table ${schema}.backup_session as select * from ${schema}.session`)
  await rowsOf(inner, `create table ${schema}.backup_entry as select * from ${schema}.entry`)
  await saveSession(append('lost')(session))
  await right(store.flush)
  await saveSession(sessionSet('x', 1)(await again(session, store)))
  for (const table of ['session', 'entry']) {
    await rowsOf(inner, `delete from ${schema}.${table}`)
  }
  for (const table of ['session', 'entry'])
    await rowsOf(inner, `insert into ${schema}.${table} select * from ${schema}.backup_${table}`)
  t.strictSame(listOf(await again(session, other)), [])
  await saveSession(append('new')(await again(session, other)))
  await right(other.flush)
  t.strictSame(listOf(await again(session, plain)), ['new'])
})

t.test(
  'a program that reads the store before an end, and the mark of the end after it, adds no save',
  async (t) => {
    const { process } = open()
    const [store, other] = [process(), process()]
    const session = await begun(store)
    const seen = await again(session, other)
    await destroySession(await again(session, store))
    await t.rejects(saveSession(append('a')(seen)), { name: 'SessionGone' })
  },
)

t.test('after its own flush a process saves without a statement, also beside other sessions', async (t) => {
  for (const layer of [(store: SessionStore) => store, (store: SessionStore) => batched(store)]) {
    const { store, plain, names } = open()
    const top = layer(store)
    let sessions = await Promise.all([1, 2].map(async () => again(await begun(top), top)))
    const saveBoth = async (tag: string) => {
      sessions = await Promise.all(sessions.map((session) => saveSession(append(tag)(session))))
    }
    await saveBoth('a')
    for (const tag of ['b', 'c']) {
      await right(store.flush)
      names()
      await saveBoth(tag)
      t.strictSame(names(), [], tag)
    }
    await right(store.flush)
    for (const session of sessions) t.strictSame(listOf(await again(session, plain)), ['a', 'b', 'c'])
  }
})

t.test('saves that come during a flush stay in the head, and the next flush stores them', async (t) => {
  const { store, process, plain, names, cache } = open()
  const session = await saveSession(append('a')(await begun(store)))
  const others = [process(), process()]
  const loaded = await Promise.all(others.map((other) => again(session, other)))
  // Twice the flush finds that another process has replaced the head.
  const { swap } = cache
  let left = others.length
  const beaten: typeof swap = (items) => async () => {
    left -= 1
    Object.assign(cache, { swap })
    await saveSession(append(String(left))(loaded[left] as Session))
    if (left > 0) Object.assign(cache, { swap: beaten })
    return swap(items)()
  }
  Object.assign(cache, { swap: beaten })
  await right(store.flush)
  t.strictSame([left, listOf(await again(session, plain))], [0, ['a']])
  names()
  await right((others[0] as WriteBehindStore).flush)
  t.strictSame(names(), ['batch.saveLate'], 'the head names the state that the first flush has made')
  t.strictSame(listOf(await again(session, plain)), ['a', '1', '0'])
})

/** Starts a load. The store answers before the other operations, and the cache after them. */
const loadBeside = async (
  { cache, names }: ReturnType<typeof open>,
  load: () => Promise<Session | undefined>,
  others: () => Promise<unknown>,
): Promise<Session | undefined> => {
  const { get } = cache
  let answer = (): void => undefined
  const answered = new Promise<void>((resolve) => {
    answer = resolve
  })
  Object.assign(cache, {
    get: (keys: readonly string[]) => async () => {
      await answered
      return get(keys)()
    },
  })
  names()
  const loaded = load()
  await until(() => names().some((name) => name.startsWith('session.load')))
  Object.assign(cache, { get })
  await others()
  answer()
  return loaded
}

t.test('a load beside the end of a session never misses late saves', async (t) => {
  const opened = open()
  const [store, other] = [opened.process(), opened.process()]
  const session = await saveSession(append('a')(await begun(store)))
  const found = await loadBeside(
    opened,
    () => loadSession(store, sessionToken(session)),
    () => destroySession({ ...session, handle: other }),
  )
  t.equal(found, undefined)
})

t.test('a load beside a flush finds the late saves of its process, although the cache fails', async (t) => {
  for (const keys of [undefined, ['list']]) {
    const opened = open()
    const { store, cache } = opened
    const session = await saveSession(append('a')(await begun(store)))
    const found = await loadBeside(
      opened,
      () => loadSession(store, sessionToken(session), keys && { keys }),
      async () => {
        await right(store.flush)
        cache.tamper = () => 'fail'
      },
    )
    t.strictSame(found && listOf(found), ['a'])
  }
})

t.test(
  'a process sees its own late saves, if the cache has lost them and others saved meanwhile',
  async (t) => {
    const { store, process, plain, cache } = open()
    const session = await saveSession(append('a')(await begun(store)))
    for (const [tag, handle] of [
      ['plain', plain],
      ['other', process()],
    ] as const) {
      cache.values.clear()
      await saveSession(append(tag)(await again(session, handle)))
      await right((handle as Partial<typeof store>).flush ?? TE.right(undefined))
      cache.values.clear()
      t.ok((listOf(await again(session, store)) as string[]).includes('a'), tag)
      await saveSession(append(`after ${tag}`)(await again(session, store)))
    }
    await right(store.flush)
    const list = ['a', 'after other', 'after plain', 'other', 'plain']
    t.strictSame([...(listOf(await again(session, plain)) as string[])].sort(), list)
  },
)

t.test('neither a load nor a flush fails while other requests change the session all the time', async (t) => {
  const { store, process, plain } = open()
  const other = process()
  const session = await begun(store)
  let isOver = false
  // Processes without the cache, whose saves wait for the lock of the session one after the other.
  const beside = Array.from({ length: 6 }, async (_, index) => {
    let count = 0
    for (; !isOver; count += 1)
      await saveSession(append(`beside ${String(index)} ${String(count)}`)(await again(session, plain)))
    return count
  })
  const late: string[] = []
  for (let round = 0; round < 60; round += 1) {
    const tag = `late ${String(round)}`
    await saveSession(append(tag)(await again(session, store)))
    late.push(tag)
    t.ok(listOf(await again(session, round % 2 === 0 ? store : other)))
    await right((round % 3 === 0 ? store : other).flush)
  }
  await right(store.flush)
  isOver = true
  const counts = await Promise.all(beside)
  const list = listOf(await again(session, plain)) as string[]
  t.strictSame(list.filter((tag) => tag.startsWith('late')).toSorted(), late.toSorted())
  t.equal(list.length, late.length + counts.reduce((sum, count) => sum + count, 0))
  t.comment(`${String(list.length)} saves`)
})

t.test('a session that the store has restored after its end can be saved again', async (t) => {
  const { store, process, schema, plain } = open()
  const session = await begun(store)
  const tables = ['session', 'entry']
  for (const table of tables)
    await rowsOf(inner, `create table ${schema}.backup_${table} as select * from ${schema}.${table}`)
  await destroySession(await again(session, store))
  await rowsOf(inner, `delete from ${schema}.session`)
  for (const table of tables)
    await rowsOf(inner, `insert into ${schema}.${table} select * from ${schema}.backup_${table}`)
  const other = process()
  const some = await loadSession(other, sessionToken(session), { keys: ['list'] })
  await saveSession(append('some')(some as Session))
  await saveSession(append('new')(await again(session, other)))
  await right(other.flush)
  t.strictSame(listOf(await again(session, plain)), ['some', 'new'])
})

t.test('a save that is sent again after it was stored is done once', async (t) => {
  for (const wrap of [(store: SessionStore) => store, (store: SessionStore) => batched(store)]) {
    const { process, plain } = open()
    const late = process()
    const store = wrap(late)
    const edited = append('a')(await again(await begun(store), store))
    const change = changeOf(edited, edited.edits)
    for (let time = 0; time < 2; time += 1) {
      t.strictSame((await right(store.save(edited.id, change))).entries.get('list'), ['a'])
      await right(late.flush)
    }
    t.strictSame(listOf(await again(edited, plain)), ['a'])
  }
})

t.test('saves that come while their session is locked keep their order', async (t) => {
  const { plain, cache } = open()
  let meanwhile: (() => Promise<unknown>) | undefined
  const late = plain.late as NonNullable<SessionStore['late']>
  const contended: SessionStore = {
    ...plain,
    late: {
      ...late,
      // Another transaction has locked the session.
      store: (requests) => (meanwhile ? TE.right(requests.map(() => false)) : late.store(requests)),
      locked: (id, task) => async () => {
        const others = meanwhile
        meanwhile = undefined
        await others?.()
        return late.locked(id, task)()
      },
    },
  }
  const [store, other] = [contended, plain].map((one) =>
    writeBehind(one, cache, { secrets, flushMs: 60_000 }),
  ) as [WriteBehindStore, WriteBehindStore]
  const session = await begun(store)
  await saveSession(append('a')(await again(session, store)))
  const needsB = sessionUpdate(
    'list',
    (list) => {
      if (!(list as string[]).includes('b')) throw new Error('there is no b')
      return [...(list as string[]), 'c']
    },
    [] as string[],
  )
  meanwhile = async () => {
    await saveSession(sessionSet('x', 'b')(append('b')(await again(session, other))))
    await saveSession(sessionSet('x', 'c')(needsB(await again(session, store))))
  }
  await right(store.flush)
  t.strictSame(listOf(await again(session, other)), ['a', 'b', 'c'])
  await right(other.flush)
  await right(store.flush)
  const end = await again(session, plain)
  t.strictSame([listOf(end), sessionRef('x')(end)], [['a', 'b', 'c'], 'c'])
})

t.test('a cache that answers, and takes no values, stops neither loads nor saves', async (t) => {
  const { store, process, plain, cache } = open()
  const session = await saveSession(append('a')(await begun(store)))
  const { swap } = cache
  Object.assign(cache, { swap: () => () => Promise.resolve(E.left({ kind: 'unavailable' })) })
  await saveSession(append('b')(await again(session, store)))
  for (const one of [store, process()]) {
    t.strictSame(listOf(await again(session, one)), ['a', 'b'])
    await saveSession(sessionSet('x', 1)(await again(session, one)))
  }
  Object.assign(cache, { swap })
  await saveSession(append('c')(await again(session, store)))
  await right(store.flush)
  t.strictSame(listOf(await again(session, plain)), ['a', 'b', 'c'])
})

t.test('in nested transactions, the head opens at the end of the outermost one', async (t) => {
  const { store, database, plain, cache } = open()
  const count = (command: string) => cache.commands.filter((one) => one.startsWith(command)).length
  const session = await saveSession(append('a')(await begun(store)))
  const before = count('swap')
  await transact(database, (outer) =>
    transact(outer, (tx) =>
      TE.fromTask(async () =>
        saveSession(append('tx')(await again(session, store.using?.(tx) as SessionStore))),
      ),
    ),
  )()
  // The head is closed, stored, and opened after the commit.
  await until(() => count('swap') === before + 3)
  const next = await saveSession(append('b')(await again(session, store)))
  t.strictSame(listOf(next), ['a', 'tx', 'b'])
  t.strictSame(listOf(await again(session, plain)), ['a', 'tx'], 'the save is late again')
  await right(store.flush)
  await transact(database, (tx) =>
    TE.fromTask(async () => destroySession(await again(session, store.using?.(tx) as SessionStore))),
  )()
  await until(() => count('set head') === 1)
  await t.rejects(saveSession(append('c')(next)), { name: 'SessionGone' })
})

t.test('the backlog has the saves that are not stored, and the age of the oldest one', async (t) => {
  const { store } = open()
  const session = await begun(store)
  t.strictSame(store.backlog(), { saves: 0, ageMs: 0 })
  await saveSession(append('a')(session))
  await delay(30)
  await saveSession(append('b')(await again(session, store)))
  const { saves, ageMs } = store.backlog()
  t.equal(saves, 2)
  t.ok(ageMs >= 29, String(ageMs))
  await right(store.flush)
  t.strictSame(store.backlog(), { saves: 0, ageMs: 0 })
})

t.test('drain stores all saves, and later saves wait for the store', async (t) => {
  const { store, plain, names } = open()
  const sessions = await Promise.all(Array.from({ length: 20 }, () => begun(store)))
  const late = await Promise.all(sessions.map((session) => saveSession(append('a')(session))))
  t.strictSame(await store.drain(), E.right(undefined))
  for (const session of late) t.strictSame(listOf(await again(session, plain)), ['a'])
  names()
  await saveSession(append('b')(late[0] as Session))
  t.ok(names().includes('session.save'))
})

t.test('if too many saves are behind, or for too long, saves wait for the store', async (t) => {
  for (const options of [{ maxJournal: 3 }, { maxBehindMs: 0 }]) {
    const { store, names } = open(options)
    let session = await begun(store)
    for (let save = 0; save < 3; save += 1) session = await saveSession(append(String(save))(session))
    await delay(5)
    names()
    await saveSession(append('through')(session))
    t.ok(names().includes('session.save'), JSON.stringify(options))
  }
})

t.test('a store without late saves, and options out of range, are errors', async (t) => {
  t.throws(() => writeBehind(memoryStore(), testCache(), { secrets }), TypeError)
  const { plain } = open()
  const evicting = { ...testCache(), mayEvict: true }
  t.throws(() => writeBehind(plain, evicting, { secrets }), /allowEviction/)
  t.equal(writeBehind(plain, evicting, { secrets, allowEviction: true }).lifetime, plain.lifetime)
  for (const options of [{ flushMs: -1 }, { maxBehindMs: Number.NaN }, { maxJournal: 0 }, { secrets: [] }])
    t.throws(() => writeBehind(plain, testCache(), { secrets, ...options }), RangeError)
  const short = sessionStore(inner, { schema: freshSchema(), idleMs: 60_000 })
  t.throws(() => writeBehind(cached(short), testCache(), { secrets }), RangeError)
})
