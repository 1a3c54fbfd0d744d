// Laws 6 to 9 as the current session keeps them.

import assert from 'node:assert/strict'
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import {
  callWithSession,
  currentSession,
  updateCurrentSession,
  withSession,
} from '../current/current-session.js'
import { buildSession, destroySession, refreshSession, rotateSession, saveSession } from '../current/verbs.js'
import { sessionRef, sessionSet } from '../session/values.js'
import { counted, type Law, left, reload, reloaded, right, stored, storedValues, tagOf } from './subject.js'

export const currentVisits = pipe(currentSession, TE.map(sessionRef('visits', 0)))

const set = (key: string, value: number) => updateCurrentSession(sessionSet(key, value))

/** Runs the tasks one after the other; gives what the last one gave. */
const inOrder = <L, A>(
  first: TE.TaskEither<L, A>,
  ...rest: readonly TE.TaskEither<L, A>[]
): TE.TaskEither<L, A> =>
  rest.reduce(
    (before, next) =>
      pipe(
        before,
        TE.chain(() => next),
      ),
    first,
  )

const failureLaws: readonly Law[] = [
  {
    law: 6,
    name: 'no resurrection: a session destroyed within its own request is not saved at its end',
    check: async (subject) => {
      const { store, calls } = counted(subject.store)
      const session = await stored(store, sessionSet('user', 'ada'))
      const body = pipe(
        set('farewell', 1),
        TE.chainW(destroySession),
        TE.chainW(() => TE.of('signed out')),
      )
      assert.equal(await right(withSession(session, () => body)), 'signed out')
      assert.deepEqual(calls, ['create', 'destroy'])
      assert.equal(await reloaded(session), undefined)
      const late = withSession(await stored(store, sessionSet('user', 'bob')), () =>
        pipe(
          currentSession,
          TE.chainW(destroySession),
          TE.chainW(() => set('late', 1)),
        ),
      )
      assert.equal(tagOf(await left(late)), 'SessionGone')
    },
  },
  {
    law: 6,
    name: 'no resurrection: a request whose session was ended by another fails if it had something to store',
    lifetime: { touchFraction: 0 },
    check: async ({ store }) => {
      const session = await stored(store, sessionSet('user', 'ada'))
      const ended = (body: TE.TaskEither<unknown, unknown>) =>
        withSession(session, () =>
          pipe(
            TE.fromTask(() => right(store.destroy(session.id))),
            TE.chainW(() => body),
          ),
        )
      assert.equal(tagOf(await left(ended(set('late', 1)))), 'SessionGone')
      assert.equal(await right(ended(currentVisits)), 0)
      assert.equal(await reloaded(session), undefined)
    },
  },
  {
    law: 7,
    name: 'a failed request leaves nothing behind, and its own error comes out',
    check: async (subject) => {
      const { store, calls } = counted(subject.store)
      const session = await reload(await stored(store, sessionSet('visits', 1)))
      calls.length = 0
      const mine = new Error('mine')
      const throwing = (): never => {
        throw mine
      }
      const failing = (failure: TE.TaskEither<unknown, never>) =>
        withSession(session, () =>
          pipe(
            set('visits', 2),
            TE.chainW(() => failure),
          ),
        )
      assert.equal(await left(failing(TE.left(mine))), mine)
      await assert.rejects(
        failing(() => Promise.reject(mine)),
        mine,
      )
      await assert.rejects(failing(throwing), mine)
      await assert.rejects(withSession(session, throwing), mine)
      assert.equal(await left(callWithSession(session, () => TE.left(mine))), mine)
      assert.deepEqual(calls, [])
      assert.deepEqual(await storedValues(session), { visits: 1 })
    },
  },
  {
    law: 7,
    name: 'a failed request leaves nothing behind, unless it was asked to',
    check: async ({ store }) => {
      const session = await stored(store, sessionSet('visits', 1))
      const mine = new Error('mine')
      const body = () =>
        pipe(
          set('visits', 2),
          TE.chainW(() => TE.left(mine)),
        )
      assert.equal(await left(withSession(session, body, { saveOnFailure: true })), mine)
      assert.deepEqual(await storedValues(session), { visits: 2 })
    },
  },
  {
    law: 7,
    name: "a failed request leaves nothing behind: what cannot be stored is refused at the set, as the body's failure",
    check: async ({ store }) => {
      const session = await stored(store, sessionSet('visits', 1))
      const body = () =>
        pipe(
          set('visits', 2),
          TE.chain(() => set('bad', Number.NaN)),
        )
      assert.equal(tagOf(await left(withSession(session, body))), 'EncodeError')
      assert.deepEqual(await storedValues(session), { visits: 1 })
    },
  },
]

const endLaws: readonly Law[] = [
  {
    law: 8,
    name: 'nothing after the end: what outlives its request cannot change the session',
    check: async ({ store }) => {
      const session = await stored(store, sessionSet('visits', 1))
      let go = (): void => undefined
      const ended = new Promise<void>((resolve) => {
        go = resolve
      })
      let late: Promise<unknown> = Promise.resolve()
      const body = pipe(
        TE.fromIO(() => {
          late = ended.then(() => left(set('late', 1)))
        }),
        TE.chainW(() => set('visits', 2)),
      )
      await right(withSession(session, () => body))
      go()
      assert.equal(tagOf(await late), 'SessionClosed')
      assert.deepEqual(await storedValues(session), { visits: 2 })
    },
  },
  {
    law: 8,
    name: 'nothing after the end: there is no current session outside, and a task is bound when it runs',
    check: async ({ store }) => {
      const [one, two] = [buildSession(store), buildSession(store)]
      const task = currentSession
      assert.equal(tagOf(await left(task)), 'NoCurrentSession')
      assert.equal(tagOf(await left(set('a', 1))), 'NoCurrentSession')
      const built = withSession(one, () => task)
      assert.equal((await right(withSession(two, () => task))).id, two.id)
      assert.equal((await right(built)).id, one.id)
    },
  },
]

const nestingLaws: readonly Law[] = [
  {
    law: 9,
    name: 'nesting joins: one frame and one save for the same session',
    check: async (subject) => {
      const { store, calls } = counted(subject.store)
      const session = await reload(await stored(store, sessionSet('visits', 1)))
      calls.length = 0
      const inner = withSession(session, () => set('inner', 1))
      const brought = withSession(sessionSet('brought', 1)(session), () => set('visits', 3))
      await right(withSession(session, () => inOrder(set('visits', 2), inner, brought, set('outer', 1))))
      assert.deepEqual(calls.toSorted(), ['edit brought', 'edit inner', 'edit outer', 'edit visits', 'save'])
      assert.deepEqual(await storedValues(session), { visits: 3, inner: 1, brought: 1, outer: 1 })
    },
  },
  {
    law: 9,
    name: 'nesting joins: different sessions nest independently',
    check: async ({ store }) => {
      const [one, two] = [await stored(store, sessionSet('n', 1)), await stored(store, sessionSet('n', 2))]
      const innermost = withSession(one, () => set('back', 1))
      const inner = withSession(two, () => inOrder(set('inner', 2), innermost, set('after', 2)))
      await right(withSession(one, () => inOrder(inner, set('outer', 1))))
      assert.deepEqual(await storedValues(one), { n: 1, back: 1, outer: 1 })
      assert.deepEqual(await storedValues(two), { n: 2, inner: 2, after: 2 })
    },
  },
  {
    law: 9,
    name: 'nesting joins: what the store did within a request is not done again at its end',
    check: async (subject) => {
      const { store, calls } = counted(subject.store)
      const session = await reload(await stored(store, sessionSet('visits', 1)))
      calls.length = 0
      const body = pipe(
        set('visits', 2),
        TE.chainW(saveSession),
        TE.chainW(() => set('after', 1)),
        TE.chainW(rotateSession),
        TE.chainW(refreshSession),
        TE.chainW(() => currentSession),
      )
      const last = await right(withSession(session, () => body))
      assert.deepEqual(calls, ['save', 'edit visits', 'rotate', 'refresh', 'save', 'edit after'])
      assert.deepEqual(await storedValues(last), { visits: 2, after: 1 })
    },
  },
]

export const currentLaws: readonly Law[] = [...failureLaws, ...endLaws, ...nestingLaws]
