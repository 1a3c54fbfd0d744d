// Law 11 for sessions with a lifetime of their own ("remember me"), which overrides the store's in every operation.
import assert from 'node:assert/strict'
import * as O from 'fp-ts/lib/Option.js'
import { noEdits, setTo } from '../core/edits.js'
import type { Json } from '../core/json.js'
import type { Snapshot } from '../core/session.js'
import { newIdempotencyKey } from '../core/token.js'
import { sessionSet } from '../core/values.js'
import type { OwnLifetime } from '../core/well-known-keys.js'
import { sessionsOf, signIn } from '../request/sign-in.js'
import { buildSession, refreshSession, rotateSession } from '../request/verbs.js'
import { withSession } from '../request/with-session.js'
import { deleteExpiredSessions } from '../store/cleanup.js'
import type { Session, SessionStore } from '../store/contract.js'
import {
  expirationOf,
  type Law,
  lawsOf,
  lazily,
  reload,
  reloaded,
  right,
  saveNow,
  snapshotOf,
  stored,
  withLifetime,
} from './subject.js'

const store = { idleMs: 60_000, absoluteMs: 100_000, touchFraction: 0.1 }
const long: OwnLifetime = { idleMs: 1_000_000, absoluteMs: 5_000_000 }

/** Signs a session in and loads it again. */
const signedIn = async (session: Session, principal: string, lifetime?: OwnLifetime): Promise<Session> => {
  const ended = await right(withSession(session, () => signIn(principal, { lifetime })))
  return reload(ended)
}

const newPrincipal = (): string => `ada ${String(Math.random())}`

/** Every use of a session that may extend its expiration. */
const uses: Readonly<Record<string, (session: Session) => Promise<unknown>>> = {
  touch: (session) => right(session.handle.touch(session.id)),
  'a save of nothing': (session) => saveNow(session),
  'a save': (session) => saveNow(sessionSet('a', Math.random())(session)),
  'a save of some keys': async (session) =>
    saveNow(sessionSet('a', Math.random())(await lazily(session, 'b'))),
  'a refresh': (session) => right(refreshSession(session)),
  'a refresh of some keys': async (session) => right(refreshSession(await lazily(session, 'b'))),
  'a save with others': (session) => saveTogether(session.handle, session),
}

const saveTogether = async ({ batch }: SessionStore, session: Session): Promise<unknown> => {
  const since = snapshotOf(session)
  const [edits, entries] = [noEdits.set('a', setTo<Json>(1)), since.entries.set('a', 1)]
  const change = { save: newIdempotencyKey(), edits, since, entries }
  if (batch === undefined) return right(session.handle.save(session.id, change))
  const [saved] = await right(batch.save([{ id: session.id, changes: [change], edits, since, entries }]))
  assert.ok(saved !== undefined && O.isSome(saved))
  return saved
}

export const lifetimeLaws: readonly Law[] = [
  ...lawsOf(
    11,
    {
      'a session with a lifetime of its own expires by that, however it is used': async (subject) => {
        const ada = newPrincipal()
        const session = await signedIn(sessionSet('a', 1)(buildSession(subject.store)), ada, long)
        await subject.elapse(101_000)
        assert.ok(await reload(session), "it outlives the store's times")
        for (const [name, use] of Object.entries(uses)) {
          await subject.elapse(550_000)
          const before = await reload(session)
          await use(before)
          assert.ok(
            expirationOf(await reload(session)) - expirationOf(before) > 400_000,
            `${name} moves it by its own idle time`,
          )
        }
        await right(deleteExpiredSessions(subject.store))
        assert.equal((await right(sessionsOf(subject.store, ada))).length, 1)
        await subject.elapse(5_000_000 - 101_000 - 550_000 * Object.keys(uses).length)
        assert.equal(await reloaded(session), undefined, 'its absolute time ends it')
      },
      'an own lifetime decides when a touch is due, and a rotation keeps it': async (subject) => {
        const first = await signedIn(await stored(subject.store, sessionSet('a', 1)), newPrincipal(), long)
        assert.ok(
          expirationOf(first) - expirationOf(await stored(subject.store, sessionSet('a', 1))) > 500_000,
        )
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
      'a session with a shorter lifetime of its own expires by that, and is then deleted': withLifetime(
        { idleMs: 1_000_000, absoluteMs: 5_000_000 },
        async (subject) => {
          const [ada, short] = [newPrincipal(), { idleMs: 10_000, absoluteMs: 15_000 }]
          const used = await signedIn(await stored(subject.store, sessionSet('a', 1)), ada, short)
          const unused = await signedIn(sessionSet('a', 1)(buildSession(subject.store)), ada, short)
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
      ),
      "a later sign-in restarts its own lifetime, or gives it the store's again": async (subject) => {
        const ada = newPrincipal()
        let session = await signedIn(await stored(subject.store, sessionSet('a', 1)), ada, long)
        for (let second = 0; second < 6; second += 1) {
          await subject.elapse(900_000)
          session = await signedIn(await reload(session), ada, long)
        }
        session = await signedIn(session, ada)
        await subject.elapse(50_000)
        await saveNow(sessionSet('a', 2)(await reload(session)))
        await subject.elapse(51_000)
        assert.equal(await reloaded(session), undefined, "the store's absolute time")
        const other = await signedIn(
          await signedIn(await stored(subject.store, sessionSet('a', 1)), ada, long),
          ada,
        )
        await subject.elapse(61_000)
        assert.equal(await reloaded(other), undefined, "the store's idle time")
        assert.ok((await right(deleteExpiredSessions(subject.store))).sessions >= 2, 'both are deleted')
      },
      'an invalid lifetime is rejected, and the session stays as it is': async (subject) => {
        const session = await stored(subject.store, sessionSet('a', 1))
        for (const wrong of [0, -1, Number.NaN, Number.POSITIVE_INFINITY, 1e30, '60000' as unknown as number])
          for (const lifetime of [
            { ...long, idleMs: wrong },
            { ...long, absoluteMs: wrong },
          ])
            assert.throws(() => signIn('ada', { lifetime }), {
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
