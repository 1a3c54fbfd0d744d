// Checks laws 5 to 9 and 12 for the current session.

import assert from 'node:assert/strict'
import { E, pipe, TE } from '../core/prelude.cjs'
import { sessionRef, sessionSet } from '../core/values.js'
import { csrfToken, resetSession, signIn, signOut, takeFlashes } from '../request/sign-in.js'
import { buildSession, destroySession, refreshSession, rotateSession, saveSession } from '../request/verbs.js'
import {
  callWithSession,
  currentSession,
  updateCurrentSession,
  withSession,
} from '../request/with-session.js'
import type { Session } from '../store/contract.js'
import {
  assertLeft,
  counted,
  countedSession,
  currentVisits,
  increment,
  inOrder,
  lawsOf,
  left,
  onCurrent,
  outlive,
  reload,
  reloaded,
  request,
  right,
  set,
  stored,
  storedValues,
  type Task,
  tagOf,
} from './subject.js'

/** Returns a task for each operation that writes a session to its store. */
const writes = (session: Session): readonly Task[] => [
  saveSession(session),
  rotateSession(session),
  withSession(session, () => set('late', 2)),
  callWithSession(session, (late) => TE.right([1, late] as const)),
]

const tagsOf = (tasks: readonly Task[]): Promise<readonly unknown[]> =>
  Promise.all(tasks.map(async (task) => tagOf(await left(task))))

export const currentLaws = [
  ...lawsOf(6, {
    'a session destroyed within its own request is not saved at its end': async (subject) => {
      const { store, calls } = counted(subject.store)
      const session = await stored(store, { user: 'ada' })
      const farewell = request(session, set('farewell', 1), onCurrent(destroySession), TE.of('signed out'))
      assert.equal(await right(farewell), 'signed out')
      assert.deepEqual(calls, ['create', 'destroy'])
      assert.equal(await reloaded(session), undefined)
      const late = request(await stored(store, { user: 'bob' }), onCurrent(destroySession), set('late', 1))
      await assertLeft('SessionGone', late)
    },
    'a reset ends the session, and a new session has only the values that are set later': async (subject) => {
      const { store, calls } = counted(subject.store)
      const ends = {
        'a reset': TE.right(undefined),
        'a sign-out and a reset': signOut,
        'two resets': resetSession,
      }
      for (const [how, before] of Object.entries(ends)) {
        const session = await stored(store, { user: 'ada' })
        calls.splice(0)
        const visit = request(
          session,
          set('lost', 1),
          before,
          resetSession,
          set('farewell', 1),
          currentSession,
        )
        const fresh = await right(visit)
        assert.notEqual(fresh.id, session.id, how)
        assert.deepEqual(calls, ['destroy', 'create'], how)
        assert.deepEqual(await storedValues(fresh), { farewell: 1 }, how)
        assert.equal(await reloaded(session), undefined, how)
        await assertLeft('SessionGone', saveSession(sessionSet('late', 2)(session)))
      }
      const unused = await right(request(await stored(store, { user: 'bob' }), resetSession, currentSession))
      assert.equal(await reloaded(unused), undefined)
    },
    'a sign-in that keeps some keys ends the session, and a new session has these keys': async ({
      store,
    }) => {
      const session = await stored(store, { cart: 1, draft: 1 })
      const keep = ['cart', 'none']
      const signedIn = await right(request(session, set('cart', 2), signIn('ada', { keep })))
      assert.notEqual(signedIn.id, session.id)
      const { cart, draft, ...own } = await storedValues(signedIn)
      assert.deepEqual([cart, draft, own['keyrow:principal']], [2, undefined, 'ada'])
      assert.equal(await reloaded(session), undefined)
      await assertLeft('EncodeError', request(signedIn, signIn('', { keep })))
      assert.equal(sessionRef('cart', 0)(await reload(signedIn)), 2)
      const some = await reload(signedIn, { keys: ['cart'] })
      await assertLeft('KeyNotLoaded', request(some, signIn('bob', { keep: ['draft'] })))
      const next = await right(request(some, signIn('bob', { keep: ['cart'] })))
      assert.equal((await storedValues(next))['cart'], 2)
    },
    'a sign-in whose rotation fails leaves the session without its principal': async ({ store }) => {
      const session = await stored(store, { n: 1 })
      const mine = await reload(session)
      const rotated = await right(rotateSession(await reload(session)))
      const failure: Task = TE.swap(signIn('ada'))
      await right(request(mine, failure, set('n', 2)))
      const { n, ...own } = await storedValues(rotated)
      assert.deepEqual([n, own], [2, {}])
    },
    'a sign-in that keeps some keys keeps what other requests have stored meanwhile': async ({ store }) => {
      const mine = await stored(store, { cart: 1 })
      await right(request(await reload(mine), set('cart', 2)))
      const signedIn = await right(request(mine, signIn('ada', { keep: ['cart'] })))
      assert.equal((await storedValues(signedIn))['cart'], 2)
    },
    'a request whose session was ended by another fails if it had something to store': {
      lifetime: { touchFraction: 0 },
      check: async ({ store }) => {
        const session = await stored(store, { user: 'ada' })
        const ended = <A>(body: TE.TaskEither<unknown, A>) =>
          request(session, store.destroy(session.id), body)
        await assertLeft('SessionGone', ended(set('late', 1)))
        assert.equal(await right(ended(currentVisits)), 0)
        assert.equal(await reloaded(session), undefined)
      },
    },
  }),
  ...lawsOf(7, {
    'the request fails with its own error': async (subject) => {
      const { session, calls } = await countedSession(subject, { visits: 1 })
      const mine = new Error('mine')
      const throwing = (): never => {
        throw mine
      }
      const failing = (failure: Task) => request(session, set('visits', 2), failure)
      assert.equal(await left(failing(TE.left(mine))), mine)
      const rejected = failing(() => Promise.reject(mine))
      await assert.rejects(rejected, mine)
      await assert.rejects(failing(throwing), mine)
      await assert.rejects(withSession(session, throwing), mine)
      assert.equal(await left(callWithSession(session, () => TE.left(mine))), mine)
      assert.deepEqual(calls, [])
      assert.deepEqual(await storedValues(session), { visits: 1 })
    },
    'except with saveOnFailure': async ({ store }) => {
      const session = await stored(store, { visits: 1 })
      const mine = new Error('mine')
      const body = () => inOrder(set('visits', 2), TE.left(mine))
      assert.equal(await left(withSession(session, body, { saveOnFailure: true })), mine)
      assert.deepEqual(await storedValues(session), { visits: 2 })
    },
    'a value that cannot be stored fails the set, and so the body': async ({ store }) => {
      const session = await stored(store, { visits: 1 })
      const body = () => inOrder(set('visits', 2), set('bad', Number.NaN))
      await assertLeft('EncodeError', withSession(session, body))
      assert.deepEqual(await storedValues(session), { visits: 1 })
    },
  }),
  ...lawsOf(8, {
    'code that outlives its request cannot change the session': async ({ store }) => {
      const session = await stored(store, { visits: 1 })
      const late = await outlive(session, set('visits', 2), () => left(set('late', 1)))
      assert.equal(tagOf(late), 'SessionClosed')
      assert.deepEqual(await storedValues(session), { visits: 2 })
    },
    'code that outlives its request cannot save, rotate or open a scope': async ({ store }) => {
      const session = await stored(store, { visits: 1 })
      const late = (current: Session) => tagsOf(writes(sessionSet('late', 1)(current)))
      const tags = await outlive(session, set('visits', 2), late)
      const closed = writes(session).map(() => 'SessionClosed')
      assert.deepEqual(tags, closed)
      assert.deepEqual(await storedValues(session), { visits: 2 })
    },
    'an ended scope has no current session; a session value can still be read': async ({ store }) => {
      const session = await stored(store, { visits: 1 })
      const tasks = [currentSession, takeFlashes, csrfToken, signOut]
      const late = async (current: Session) => [sessionRef('visits', 0)(current), ...(await tagsOf(tasks))]
      for (const outcome of [E.right('done'), E.left('failed')]) {
        const seen = await outlive(session, currentSession, late, outcome)
        assert.deepEqual(seen, [1, ...tasks.map(() => 'SessionClosed')])
      }
      assert.deepEqual(await storedValues(session), { visits: 1 })
    },
    "code of an ended request gets neither an outer nor another request's session": async ({ store }) => {
      const [one, two] = [await stored(store, { n: 1 }), await stored(store, { n: 2 })]
      const outer = TE.fromTask(async () => {
        const late = await outlive(two, currentSession, () => left(currentSession))
        return [tagOf(late), (await right(currentSession)).id]
      })
      assert.deepEqual(await right(request(one, outer)), ['SessionClosed', one.id])
    },
    'there is no current session outside a request, and a task is bound when it runs': async ({ store }) => {
      const [one, two] = [buildSession(store), buildSession(store)]
      const task = currentSession
      await assertLeft('NoCurrentSession', task, set('a', 1))
      const built = withSession(one, () => task)
      assert.equal((await right(withSession(two, () => task))).id, two.id)
      assert.equal((await right(built)).id, one.id)
    },
  }),
  ...lawsOf(9, {
    'one scope and one save for the same session': async (subject) => {
      const { session, calls } = await countedSession(subject, { visits: 1 })
      const inner = request(session, set('inner', 1))
      const brought = request(sessionSet('brought', 1)(session), set('visits', 3))
      await right(request(session, set('visits', 2), inner, brought, set('outer', 1)))
      assert.deepEqual(calls.toSorted(), ['edit brought', 'edit inner', 'edit outer', 'edit visits', 'save'])
      assert.deepEqual(await storedValues(session), { visits: 3, inner: 1, brought: 1, outer: 1 })
    },
    'different sessions nest independently': async ({ store }) => {
      const [one, two] = [await stored(store, { n: 1 }), await stored(store, { n: 2 })]
      const innermost = request(one, set('back', 1))
      const inner = request(two, set('inner', 2), innermost, set('after', 2))
      await right(request(one, inner, set('outer', 1)))
      assert.deepEqual(await storedValues(one), { n: 1, back: 1, outer: 1 })
      assert.deepEqual(await storedValues(two), { n: 2, inner: 2, after: 2 })
    },
    'an operation that ran within a request is not repeated at its end': async (subject) => {
      const { session, calls } = await countedSession(subject, { visits: 1 })
      const save = [set('visits', 2), onCurrent(saveSession)]
      const others = [set('after', 1), onCurrent(rotateSession), onCurrent(refreshSession)]
      const last = await right(request(session, ...save, ...others, currentSession))
      assert.deepEqual(calls, ['save', 'edit visits', 'rotate', 'refresh', 'save', 'edit after'])
      assert.deepEqual(await storedValues(last), { visits: 2, after: 1 })
    },
  }),
  ...lawsOf(12, {
    'an older state of the session does not bring the old secret back': async ({ store }) => {
      let current = await stored(store, { visits: 1 })
      const acts = [
        (before: Session) => saveSession(sessionSet('user', 'ada')(before)),
        (before: Session) => refreshSession(before),
        (before: Session) => updateCurrentSession(() => sessionSet('user', 'ada')(before)),
      ]
      for (const act of acts) {
        const body = onCurrent((before) => inOrder(rotateSession(before), act(before), currentSession))
        current = await right(request(current, body))
        assert.deepEqual(Object.keys(await storedValues(current)).includes('visits'), true)
      }
      assert.deepEqual(await storedValues(current), { visits: 1, user: 'ada' })
    },
  }),
  ...lawsOf(5, {
    'an older state of the session does not undo changes of the current one': async ({ store }) => {
      const session = await stored(store, { n: 0 })
      const body = onCurrent((before) =>
        inOrder(
          pipe(increment('n'), TE.chainW(saveSession)),
          saveSession(before),
          rotateSession(before),
          request(before, increment('n')),
          currentSession,
        ),
      )
      assert.deepEqual(await storedValues(await right(request(session, body))), { n: 2 })
    },
  }),
]
