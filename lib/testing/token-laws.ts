// Checks laws 6, 12 and 13: tokens, sessions of a principal, and the cleanup of expired sessions.

import assert from 'node:assert/strict'
import { inspect } from 'node:util'
import { E, O, TE } from '../core/prelude.cjs'
import { freshId } from '../core/token.js'
import { sessionDel, sessionRef, sessionSet } from '../core/values.js'
import { sessionFor, sessionPrincipal } from '../core/well-known-keys.js'
import { destroySessionsOf, limitSessionsOf, sessionsOf, signIn } from '../request/sign-in.js'
import {
  buildSession,
  destroySession,
  loadSession,
  rotateSession,
  saveSession,
  sessionToken,
} from '../request/verbs.js'
import { currentSession } from '../request/with-session.js'
import { deleteExpiredSessions } from '../store/cleanup.js'
import type { Session, SessionStore } from '../store/contract.js'
import {
  assertLeft,
  counted,
  lawsOf,
  newPrincipal,
  reload,
  reloaded,
  request,
  right,
  saveNow,
  set,
  several,
  stored,
  storedValues,
  tagOf,
} from './subject.js'

const malformed = (token: string): readonly string[] => [
  '',
  'x',
  token.slice(0, -1),
  `${token}A`,
  ` ${token}`,
  `${token}\n`,
  token.toUpperCase(),
  token.replace('.', ':'),
  `${token.slice(0, -1)}=`,
  `'; drop schema keyrow; --${token}`,
  '\u0000'.repeat(80),
  'é'.repeat(80),
  token.repeat(20_000),
]

const idsOf = async (store: SessionStore, principal: string): Promise<readonly string[]> =>
  (await right(sessionsOf(store, principal))).map(({ id }) => id).toSorted()

const ids = (...sessions: readonly Session[]): readonly string[] => sessions.map(({ id }) => id).toSorted()

export const tokenLaws = [
  ...lawsOf(12, {
    'a malformed token is no session and costs no query': async (subject) => {
      const session = await stored(subject.store, { user: 'ada' })
      const { store, calls } = counted(subject.store)
      for (const token of malformed(sessionToken(session)))
        assert.ok(O.isNone(await right(loadSession(store, token))), token.slice(0, 100))
      assert.deepEqual(calls, [])
    },
    'an unknown, forged or swapped token opens nothing and is never adopted': async ({ store }) => {
      const [ada, bob] = [await stored(store, { user: 'ada' }), await stored(store, { user: 'bob' })]
      const [adaSecret, bobSecret] = [ada, bob].map((session) => sessionToken(session).split('.')[1])
      const forged = [
        `${ada.id}.${String(bobSecret)}`,
        `${bob.id}.${String(adaSecret)}`,
        `${ada.id}.${'A'.repeat(43)}`,
        sessionToken(buildSession(store)),
      ]
      for (const token of forged) assert.ok(O.isNone(await right(loadSession(store, token))), token)
      assert.deepEqual(await storedValues(ada), { user: 'ada' })
    },
    'a store with verifiable ids recognises those of ended sessions, and no others': {
      lifetime: { idleMs: 60_000 },
      check: async ({ store, elapse }) => {
        await right(store.prepare)
        const { ids } = store
        if (ids === undefined) return
        const [ended, expired] = [await stored(store, { a: 1 }), await stored(store, { a: 1 })]
        await right(destroySession(ended))
        await elapse(61_000)
        await right(deleteExpiredSessions(store))
        for (const { id } of [ended, expired, buildSession(store)]) assert.equal(ids.originOf(id), 'own')
        assert.notEqual(ended.id, expired.id)
        for (let n = 0; n < 100; n += 1) assert.notEqual(ids.originOf(freshId()), 'own')
      },
    },
    'rotation changes only the secret, and the old one is invalid': async ({ store }) => {
      const before = sessionSet('unsaved', 1)(await stored(store, { user: 'ada' }))
      const after = await right(rotateSession(before))
      assert.equal(after.id, before.id)
      assert.equal(after.edits, before.edits)
      assert.equal(await reloaded(before), undefined)
      assert.deepEqual(await storedValues(after), { user: 'ada' })
      assert.deepEqual(await storedValues(await saveNow(after)), { user: 'ada', unsaved: 1 })
    },
    'exactly one of many concurrent rotations wins': async ({ store }) => {
      const session = await stored(store, { user: 'ada' })
      const results = await several(10, () => rotateSession(session)())
      const winners = results.filter(E.isRight)
      for (const loser of results.filter(E.isLeft)) assert.equal(tagOf(loser.left), 'SaveConflict')
      assert.equal(winners.length, 1)
      for (const winner of winners) assert.deepEqual(await storedValues(winner.right), { user: 'ada' })
    },
    'during the grace period the previous secret opens the session, but does not rotate it': {
      lifetime: { rotationGraceMs: 10_000 },
      check: async (subject) => {
        const before = await stored(subject.store, { user: 'ada' })
        const after = await right(rotateSession(before))
        await subject.elapse(5_000)
        assert.deepEqual(await storedValues(before), { user: 'ada' })
        await assertLeft('SaveConflict', rotateSession(before))
        await subject.elapse(6_000)
        assert.equal(await reloaded(before), undefined)
        assert.deepEqual(await storedValues(after), { user: 'ada' })
      },
    },
    'a session that is printed does not show its secret': async ({ store }) => {
      const session = await reload(await stored(store, { user: 'ada' }))
      const secret = sessionToken(session).split('.')[1] ?? assert.fail('no secret')
      const inspected = inspect(session, { depth: 9, showHidden: true })
      for (const print of [inspected, JSON.stringify(session.token), String(session.token)])
        assert.ok(!print.includes(secret), print)
      assert.ok(sessionToken(session).includes(session.id))
    },
  }),
  ...lawsOf(6, {
    'the sessions of a principal are listed, whenever the principal was set': async ({ store }) => {
      const [ada, bob] = [newPrincipal(), newPrincipal('bob')]
      const first = await stored(store, sessionFor(ada))
      const second = await saveNow(await stored(store, { a: 1 }), sessionFor(ada))
      const other = await stored(store, sessionFor(bob))
      assert.deepEqual(await idsOf(store, ada), ids(first, second))
      const [listed] = await right(sessionsOf(store, bob))
      assert.ok(listed !== undefined && listed.createdAt < listed.expiration)
      assert.equal(sessionRef(sessionPrincipal, '')(await reload(second)), ada)
      await saveNow(first, sessionFor(bob))
      await saveNow(other, sessionDel(sessionPrincipal))
      assert.deepEqual([await idsOf(store, ada), await idsOf(store, bob)], [ids(second), ids(first)])
      const current = (await right(request(first, sessionsOf(store, bob)))).map((each) => each.current)
      assert.deepEqual(current, [true])
    },
    'the sessions of a principal are listed with the time of their last use and their device': {
      lifetime: { idleMs: 100_000, touchFraction: 0 },
      check: async ({ store, elapse }) => {
        const ada = newPrincipal()
        const device = { userAgent: 'a browser', network: '203.0.113.0/24' }
        const lifetime = { idleMs: 200_000, absoluteMs: 400_000 }
        const signedIn = await right(
          request(await stored(store, { a: 1 }), signIn(ada, { device, lifetime })),
        )
        await stored(store, sessionFor(ada))
        const listed = async () => {
          const all = await right(sessionsOf(store, ada))
          return all.find(({ id }) => id === signedIn.id) ?? assert.fail('it is not listed')
        }
        const before = await listed()
        assert.deepEqual(before.device, device)
        assert.deepEqual(
          (await right(sessionsOf(store, ada))).map((one) => one.device !== undefined).toSorted(),
          [false, true],
        )
        assert.ok(before.lastSeen >= before.createdAt && before.lastSeen <= before.expiration - 199_000)
        await elapse(20_000)
        await saveNow(signedIn, sessionSet('a', 2))
        const after = await listed()
        assert.ok(after.lastSeen - after.createdAt >= 19_000)
        // The session has no device any more, and again the lifetime of the store.
        await right(request(await reload(signedIn), signIn(ada)))
        const { device: none, lastSeen, expiration } = await listed()
        assert.equal(none, undefined)
        assert.ok(Math.abs(expiration - lastSeen - 100_000) < 5)
      },
    },
    'sessions that are ended while requests use them do not come back': async ({ store }) => {
      const ada = newPrincipal()
      const mine = await several(5, () => stored(store, sessionFor(ada), { n: 0 }))
      const other = await stored(store, { n: 0 })
      const current = await several(100, (index) => reload(mine[index % 5] ?? other))
      const save = (session: Session, index: number) => saveSession(sessionSet(`late ${index}`, 1)(session))()
      const results = Promise.all(current.slice(0, 50).map(save))
      const ended = await right(destroySessionsOf(store, ada))
      for (const result of [...(await results), ...(await Promise.all(current.slice(50).map(save)))])
        if (E.isLeft(result)) assert.equal(tagOf(result.left), 'SessionGone')
      assert.deepEqual(ended.toSorted(), ids(...mine))
      for (const session of current) assert.equal(await reloaded(session), undefined)
      assert.deepEqual([await idsOf(store, ada), (await reload(other)).id], [[], other.id])
    },
    'ending some keeps the others, and ending the current one closes its request': async ({ store }) => {
      const ada = newPrincipal()
      const [here, there] = [await stored(store, sessionFor(ada)), await stored(store, sessionFor(ada))]
      assert.deepEqual(await right(destroySessionsOf(store, ada, { except: here.id })), [there.id])
      assert.deepEqual(await idsOf(store, ada), [here.id])
      const foreign = await stored(store, sessionFor(`bob ${ada}`))
      assert.deepEqual(await right(destroySessionsOf(store, ada, { only: foreign.id })), [])
      assert.ok(await reload(foreign), 'a session of another principal is not ended')
      const another = await stored(store, sessionFor(ada))
      assert.deepEqual(await right(destroySessionsOf(store, ada, { only: another.id })), [another.id])
      assert.equal(await reloaded(another), undefined)
      const closed = TE.chainFirstTaskK(() => currentSession)(destroySessionsOf(store, ada))
      assert.deepEqual(await right(request(await reload(here), set('left', 1), closed)), [here.id])
      await assertLeft('SessionGone', saveSession(sessionSet('more', 1)(here)))
    },
    'a limit ends the oldest sessions, and never the current one': async ({ store, elapse }) => {
      const ada = newPrincipal()
      const made: Session[] = []
      for (let count = 0; count < 5; count += 1) {
        made.push(await stored(store, sessionFor(ada)))
        await elapse(20)
      }
      const [first, second, third, fourth, fifth] = made as [Session, Session, Session, Session, Session]
      assert.deepEqual(await right(limitSessionsOf(store, ada, 5)), [])
      assert.deepEqual(await right(limitSessionsOf(store, ada, 4)), [first.id])
      const limited = (session: Session) =>
        request(session, set('n', 1), TE.chain(() => limitSessionsOf(store, ada, 2))(TE.right(undefined)))
      assert.deepEqual(await right(limited(await reload(second))), [fourth.id, third.id])
      assert.deepEqual((await idsOf(store, ada)).toSorted(), ids(second, fifth))
      // A session that is not stored yet counts, too.
      const built = sessionFor(ada)(buildSession(store))
      assert.deepEqual(await right(limited(built)), [second.id])
      assert.deepEqual((await idsOf(store, ada)).toSorted(), ids(fifth, built))
    },
  }),
  ...lawsOf(
    13,
    {
      'batches are bounded, and hold only expired sessions': async ({ store, elapse }) => {
        const old = await several(25, () => stored(store, { a: 1, b: 2 }))
        await elapse(40_000)
        const [used, young] = [old.slice(0, 5), await several(5, () => stored(store, { a: 1 }))]
        for (const session of used) await saveNow(await reload(session), { a: 2 })
        await elapse(21_000)
        const first = await right(store.deleteExpired(10))
        assert.ok(first.sessions <= 10, 'a batch is bounded')
        const rest = await right(deleteExpiredSessions(store, { batchSize: 10, delayMs: 0 }))
        assert.deepEqual([first.sessions + rest.sessions, rest.finished], [20, true])
        for (const session of [...used, ...young]) assert.ok((await reload(session)).store.size > 0)
        // After this time, the sessions in `used` and `young` have expired too.
        await elapse(61_000)
        assert.equal((await right(deleteExpiredSessions(store))).sessions, 10)
      },
      'any number of cleanups may run at once, beside the requests': async ({ store, elapse }) => {
        await several(60, () => stored(store, { a: 1 }))
        await elapse(61_000)
        const live = await several(10, () => stored(store, { n: 0 }))
        const cleanups = several(4, () => right(deleteExpiredSessions(store, { batchSize: 7, delayMs: 0 })))
        const saved = await several(50, async (index) =>
          saveNow(await reload(live[index % 10] as Session), { [`key ${index}`]: 1 }),
        )
        const sessions = (await cleanups).reduce((sum, each) => sum + each.sessions, 0)
        assert.deepEqual([sessions, saved.length], [60, 50])
        for (const session of live) assert.equal((await reload(session)).store.size, 6)
      },
    },
    { idleMs: 60_000 },
  ),
]
