// Checks laws 4, 5, 6 and 11 for a store: overlapping requests, ended sessions, expiry.

import assert from 'node:assert/strict'
import { deleted, noEdits, setTo } from '../core/edits.js'
import type { Json } from '../core/json.js'
import { E, O } from '../core/prelude.cjs'
import type { Snapshot } from '../core/session.js'
import { newIdempotencyKey } from '../core/token.js'
import { sessionSet } from '../core/values.js'
import type { OwnLifetime } from '../core/well-known-keys.js'
import { sessionsOf, signIn } from '../request/sign-in.js'
import { buildSession, destroySession, refreshSession, rotateSession, saveSession } from '../request/verbs.js'
import { deleteExpiredSessions } from '../store/cleanup.js'
import type { Session } from '../store/contract.js'
import {
  assertLeft,
  changedAtOnce,
  changeOf,
  edited,
  expirationOf,
  lawsOf,
  lazily,
  newPrincipal,
  reload,
  reloaded,
  request,
  right,
  saveEdits,
  saveNow,
  several,
  stored,
  storedValues,
  tagOf,
} from './subject.js'

export const storeLaws = [
  ...lawsOf(4, {
    'requests that change different keys at once all keep their changes': async ({ store }) => {
      await changedAtOnce(store, (session) => reload(session))
    },
  }),
  ...lawsOf(5, {
    'sets and deletes are blind writes: the later revision wins, for that key only': async ({ store }) => {
      for (let round = 0; round < 25; round += 1) {
        const session = await stored(store, { other: round })
        const [set, del] = [noEdits.set('key', setTo<Json>(round)), noEdits.set('key', deleted())]
        const saves = [right(saveEdits(session, set)), right(saveEdits(session, del))] as const
        const [first, second] = await Promise.all(saves)
        const values = await storedValues(session)
        // A save may read the session again after its write. The save then returns the result of this read.
        for (const { revision, entries } of [first, second])
          if (revision === 3) assert.deepEqual(entries.toObject(), values)
          else assert.equal(revision, 2)
        if (first.revision === second.revision) assert.equal(first.revision, 3)
        else
          assert.deepEqual(
            values,
            first.revision > second.revision ? { other: round, key: round } : { other: round },
          )
      }
    },
  }),
  ...lawsOf(6, {
    'a destroyed session is never written again by requests that still hold it': async ({ store }) => {
      const session = await stored(store, { user: 'ada' })
      const current = await several(10, () => reload(session))
      const saves = current.map((mine, index) => saveSession(sessionSet('late', index % 5)(mine)))
      const tasks = [...saves.slice(0, 5), destroySession(session), ...saves.slice(5)]
      const results = await Promise.all(tasks.map((task) => task()))
      for (const result of results) if (E.isLeft(result)) assert.equal(tagOf(result.left), 'SessionGone')
      assert.equal(await reloaded(session), undefined)
      const later = current.map((mine) => saveSession(sessionSet('later', true)(mine)))
      await assertLeft('SessionGone', ...later, refreshSession(session), rotateSession(session))
      assert.equal(await reloaded(session), undefined)
    },
    'an expired session is never written again': {
      lifetime: { idleMs: 60_000 },
      check: async ({ store, elapse }) => {
        const session = await reload(await stored(store, { user: 'ada' }))
        await elapse(61_000)
        const save = saveSession(sessionSet('late', true)(session))
        const touch = store.touch(session.id)
        await assertLeft('SessionGone', save, refreshSession(session), rotateSession(session), touch)
        assert.equal(await reloaded(session), undefined)
      },
    },
    'a session that was destroyed before any load is not created again': async ({ store }) => {
      const built = edited(buildSession(store), { user: 'ada' })
      await saveNow(built)
      await right(destroySession(built))
      for (const second of [built, sessionSet('more', 1)(built), await right(rotateSession(built))])
        await assertLeft('SessionGone', saveSession(second))
      assert.equal(await reloaded(built), undefined)
      const never = edited(buildSession(store), { user: 'bob' })
      await right(destroySession(never))
      await assertLeft('SessionGone', saveSession(never))
    },
    'creating is an insert, and destroying twice is no error': async ({ store }) => {
      const built = edited(buildSession(store), { first: 1 })
      await saveNow(built)
      const third = built.store.set('third', 3)
      const create = store.create(built.id, built.token.hash, newIdempotencyKey(), third)
      await assertLeft('SaveConflict', saveSession(sessionSet('second', 2)(built)), create)
      assert.deepEqual(await storedValues(built), { first: 1 })
      await right(destroySession(built))
      await right(destroySession(built))
      await right(destroySession(buildSession(store)))
    },
  }),
  ...lawsOf(11, {
    'a load that begins after a save or an end was answered sees it': async ({ store }) => {
      const sessions = await several(20, (n) => stored(store, { n }))
      const saved = await Promise.all(sessions.map((session, n) => saveNow(session, { n: n + 20 })))
      for (const [n, session] of saved.entries()) assert.deepEqual(await storedValues(session), { n: n + 20 })
      for (const session of saved) {
        await right(destroySession(session))
        assert.equal(await reloaded(session), undefined)
      }
    },
    'a session unused for the idle time expires, a used one lives on': {
      lifetime: { idleMs: 60_000, absoluteMs: 3_600_000, touchFraction: 0 },
      check: async (subject) => {
        const session = await stored(subject.store, { a: 1 })
        let last = 0
        for (let use = 0; use < 3; use += 1) {
          await subject.elapse(40_000)
          const now = expirationOf(await saveNow(await reload(session)))
          assert.ok(now > last, 'the expiration moves forward')
          last = now
        }
        await subject.elapse(61_000)
        assert.equal(await reloaded(session), undefined)
      },
    },
    'the absolute time ends a session, however much it is used': {
      lifetime: { idleMs: 60_000, absoluteMs: 100_000, touchFraction: 0 },
      check: async (subject) => {
        const session = await stored(subject.store, { a: 1 })
        await subject.elapse(50_000)
        await saveNow(await reload(session), { a: 2 })
        await subject.elapse(49_000)
        await right(refreshSession(await reload(session)))
        await saveNow(await reload(session), { a: 3 })
        await subject.elapse(2_000)
        assert.equal(await reloaded(session), undefined)
      },
    },
    'no expiration is later than the absolute time, from the creation on': {
      lifetime: { idleMs: 100_000, absoluteMs: 50_000 },
      check: async (subject) => {
        const session = await stored(subject.store, { a: 1 })
        const { revision } = await right(subject.store.touch(session.id))
        assert.equal(revision, 1, 'a touch is no save')
        await saveNow(await reload(session), { a: 2 })
        await subject.elapse(51_000)
        assert.equal(await reloaded(session), undefined)
      },
    },
    'the expiration moves only when a touch is due, and never backwards': {
      lifetime: { idleMs: 100_000, touchFraction: 0.1 },
      check: async (subject) => {
        const session = await stored(subject.store, { a: 1 })
        const atFirst = expirationOf(await reload(session))
        await subject.elapse(5_000)
        const early = await right(refreshSession(await reload(session)))
        assert.equal(expirationOf(early), expirationOf(await reload(session)))
        await subject.elapse(6_000)
        const due = await reload(session)
        const refreshed = expirationOf(await right(refreshSession(due)))
        assert.ok(refreshed > expirationOf(due), 'a refresh moves it when it is due')
        assert.equal(refreshed, expirationOf(await reload(session)))
        const saved = expirationOf(await saveNow(await reload(session), { a: 2 }))
        assert.ok(saved >= refreshed && Math.abs(atFirst - saved) < 60_000 * 60)
      },
    },
  }),
]

// Checks law 11 for sessions with their own lifetime ("remember me"), which overrides the store's lifetime.

const store = { idleMs: 60_000, absoluteMs: 100_000, touchFraction: 0.1 }
const long: OwnLifetime = { idleMs: 1_000_000, absoluteMs: 5_000_000 }

/** Signs the principal in to the session, and loads the session again. */
const signedIn = async (session: Session, principal: string, lifetime?: OwnLifetime): Promise<Session> =>
  reload(await right(request(session, signIn(principal, { lifetime }))))

/** The uses of a session that may extend its expiration. */
const uses: Readonly<Record<string, (session: Session) => Promise<unknown>>> = {
  touch: (session) => right(session.handle.touch(session.id)),
  'a save of nothing': (session) => saveNow(session),
  'a save': (session) => saveNow(session, { a: Math.random() }),
  'a save of some keys': async (session) => saveNow(await lazily(session, 'b'), { a: Math.random() }),
  'a refresh': (session) => right(refreshSession(session)),
  'a refresh of some keys': async (session) => right(refreshSession(await lazily(session, 'b'))),
  'a save with others': (session) => saveTogether(session),
}

const saveTogether = async (session: Session): Promise<unknown> => {
  const { save, batch } = session.handle
  const change = changeOf(session, noEdits.set('a', setTo<Json>(1)))
  if (batch === undefined) return right(save(session.id, change))
  const [saved] = await right(batch.save([{ id: session.id, changes: [change], ...change }]))
  assert.ok(saved !== undefined && E.isRight(saved))
  return saved
}

export const lifetimeLaws = [
  ...lawsOf(
    11,
    {
      'a session with a lifetime of its own expires by that, however it is used': async (subject) => {
        const ada = newPrincipal()
        const session = await signedIn(edited(buildSession(subject.store), { a: 1 }), ada, long)
        await subject.elapse(101_000)
        assert.ok(await reload(session), "it outlives the store's times")
        for (const [name, use] of Object.entries(uses)) {
          await subject.elapse(550_000)
          const before = await reload(session)
          await use(before)
          const extended = expirationOf(await reload(session)) - expirationOf(before)
          assert.ok(extended > 400_000, `${name} moves it by its own idle time`)
        }
        await right(deleteExpiredSessions(subject.store))
        assert.equal((await right(sessionsOf(subject.store, ada))).length, 1)
        await subject.elapse(5_000_000 - 101_000 - 550_000 * Object.keys(uses).length)
        assert.equal(await reloaded(session), undefined, 'its absolute time ends it')
      },
      'an own lifetime decides when a touch is due, and a rotation keeps it': async (subject) => {
        const first = await signedIn(await stored(subject.store, { a: 1 }), newPrincipal(), long)
        assert.ok(expirationOf(first) - expirationOf(await stored(subject.store, { a: 1 })) > 500_000)
        const session = await reload(await right(rotateSession(first)))
        const dueAfter = async (ms: number): Promise<boolean> => {
          await subject.elapse(ms)
          const loaded = [await reload(session), await lazily(session, 'a')].map(({ snapshot }) => snapshot)
          const due = [...loaded, ...(await loadedWithOthers(session))].map(
            (snapshot) => O.isSome(snapshot) && snapshot.value.touchDue,
          )
          assert.equal(new Set(due).size, 1)
          return due[0] ?? assert.fail('not loaded')
        }
        assert.equal(await dueAfter(50_000), false)
        assert.equal(await dueAfter(51_000), true)
      },
      'a session with a shorter lifetime of its own expires by that, and is then deleted': {
        lifetime: { idleMs: 1_000_000, absoluteMs: 5_000_000 },
        check: async (subject) => {
          const [ada, short] = [newPrincipal(), { idleMs: 10_000, absoluteMs: 15_000 }]
          const used = await signedIn(await stored(subject.store, { a: 1 }), ada, short)
          const unused = await signedIn(edited(buildSession(subject.store), { a: 1 }), ada, short)
          await subject.elapse(9_000)
          for (const use of Object.values(uses)) await use(await reload(used))
          await subject.elapse(2_000)
          assert.ok(await reload(used))
          assert.equal(await reloaded(unused), undefined)
          await subject.elapse(5_000)
          assert.equal(await reloaded(used), undefined)
          assert.deepEqual(await right(sessionsOf(subject.store, ada)), [])
          const { sessions } = await right(deleteExpiredSessions(subject.store))
          assert.ok(sessions >= 2, 'both are deleted')
        },
      },
      "a later sign-in restarts its own lifetime, or gives it the store's again": async (subject) => {
        const ada = newPrincipal()
        let session = await signedIn(await stored(subject.store, { a: 1 }), ada, long)
        for (let second = 0; second < 6; second += 1) {
          await subject.elapse(900_000)
          session = await signedIn(await reload(session), ada, long)
        }
        session = await signedIn(session, ada)
        await subject.elapse(50_000)
        await saveNow(await reload(session), { a: 2 })
        await subject.elapse(51_000)
        assert.equal(await reloaded(session), undefined, "the store's absolute time")
        const other = await signedIn(await signedIn(await stored(subject.store, { a: 1 }), ada, long), ada)
        await subject.elapse(61_000)
        assert.equal(await reloaded(other), undefined, "the store's idle time")
        assert.ok((await right(deleteExpiredSessions(subject.store))).sessions >= 2, 'both are deleted')
      },
      'an invalid lifetime is rejected, and the session stays as it is': async (subject) => {
        const session = await stored(subject.store, { a: 1 })
        for (const wrong of [0, -1, Number.NaN, Number.POSITIVE_INFINITY, 1e30, '60000' as unknown as number])
          for (const time of ['idleMs', 'absoluteMs'])
            assert.throws(() => signIn('ada', { lifetime: { ...long, [time]: wrong } }), {
              name: 'RangeError',
              message: new RegExp(String(wrong).replace('+', '\\+')),
            })
        assert.equal((await reload(session)).store.size, 1)
      },
    },
    store,
  ),
]

const loadedWithOthers = async ({ id, token, handle }: Session): Promise<readonly O.Option<Snapshot>[]> =>
  handle.batch === undefined
    ? []
    : (await right(handle.batch.load([{ id, secret: token.hash }]))).map(O.fromEither)
