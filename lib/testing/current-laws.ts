// Laws 6 to 8 as the current session keeps them.
import assert from 'node:assert/strict'
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import type { SessionError } from '../core/errors.js'
import { sessionRef, sessionSet, sessionUpdate } from '../core/values.js'
import { csrfToken, signOut, takeFlashes } from '../request/sign-in.js'
import { buildSession, destroySession, refreshSession, rotateSession, saveSession } from '../request/verbs.js'
import {
  callWithSession,
  currentSession,
  updateCurrentSession,
  withSession,
} from '../request/with-session.js'
import type { Session } from '../store/contract.js'
import {
  counted,
  currentVisits,
  gate,
  inOrder,
  type Law,
  left,
  reload,
  reloaded,
  right,
  set,
  stored,
  storedValues,
  tagOf,
} from './subject.js'

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

/** All that writes a session value. */
const writes = (given: TE.TaskEither<never, Session>): readonly TE.TaskEither<SessionError, unknown>[] => [
  pipe(given, TE.chainW(saveSession)),
  pipe(given, TE.chainW(rotateSession)),
  pipe(
    given,
    TE.chainW((late) => withSession(late, () => set('late', 2))),
  ),
  pipe(
    given,
    TE.chainW((late) => callWithSession(late, (session) => TE.right([1, session] as const))),
  ),
]

const endLaws: readonly Law[] = [
  {
    law: 8,
    name: 'nothing after the end: what outlives its request cannot change the session',
    check: async ({ store }) => {
      const session = await stored(store, sessionSet('visits', 1))
      const [ended, go] = gate()
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
    name: 'nothing after the end: what outlives its request cannot save, rotate or go on with its session',
    check: async ({ store }) => {
      const session = await stored(store, sessionSet('visits', 1))
      let current = session
      const attempts = writes(TE.fromIO(() => sessionSet('late', 1)(current)))
      const [ended, end] = gate()
      let late: Promise<unknown> = ended
      const body = () => {
        late = ended.then(() => Promise.all(attempts.map(async (attempt) => tagOf(await left(attempt)))))
        return pipe(
          set('visits', 2),
          TE.chainIOK((edited) => () => {
            current = edited
          }),
        )
      }
      await right(withSession(session, body))
      end()
      assert.deepEqual(
        await late,
        attempts.map(() => 'SessionClosed'),
      )
      assert.deepEqual(await storedValues(session), { visits: 2 })
    },
  },
  {
    law: 8,
    name: 'nothing after the end: an ended scope gives nobody a session; a session value can still be read',
    check: async ({ store }) => {
      const session = await stored(store, sessionSet('visits', 1))
      const tasks: readonly TE.TaskEither<unknown, unknown>[] = [
        currentSession,
        takeFlashes,
        csrfToken,
        signOut,
      ]
      for (const outcome of [TE.right('done'), TE.left('failed')]) {
        const [ended, end] = gate()
        let late: Promise<readonly unknown[]> = Promise.resolve([])
        const body = pipe(
          currentSession,
          TE.chainW((current) => {
            late = ended.then(async () => {
              const tags = await Promise.all(tasks.map(async (task) => tagOf(await left(task))))
              return [sessionRef('visits', 0)(current), ...tags]
            })
            return outcome
          }),
        )
        await withSession(session, () => body)()
        end()
        assert.deepEqual(await late, [1, ...tasks.map(() => 'SessionClosed')])
      }
      assert.deepEqual(await storedValues(session), { visits: 1 })
    },
  },
  {
    law: 8,
    name: "nobody else's: code of an ended request has no session of a request around it, nor one begun elsewhere",
    check: async ({ store }) => {
      const [one, two] = [await stored(store, sessionSet('n', 1)), await stored(store, sessionSet('n', 2))]
      const [ended, end] = gate()
      let late: Promise<unknown> = Promise.resolve()
      const inner = withSession(two, () => {
        late = ended.then(() => left(currentSession))
        return TE.right(undefined)
      })
      const outer = pipe(
        inner,
        TE.chainTaskK(() => async () => {
          end()
          return [tagOf(await late), (await right(currentSession)).id]
        }),
      )
      assert.deepEqual(await right(withSession(one, () => outer)), ['SessionClosed', one.id])
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

export const currentLaws: readonly Law[] = [...failureLaws, ...endLaws]

// Law 9, and what the current session makes of older states of itself.

const joinLaws: readonly Law[] = [
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

const stateLaws: readonly Law[] = [
  {
    law: 12,
    name: 'the credential is not the id: an older state of the session does not bring the old secret back',
    check: async ({ store }) => {
      const session = await stored(store, sessionSet('visits', 1))
      const acts = [
        (before: Session) => saveSession(sessionSet('user', 'ada')(before)),
        (before: Session) => refreshSession(before),
        (before: Session) => updateCurrentSession(() => sessionSet('user', 'ada')(before)),
      ]
      let current = session
      for (const act of acts) {
        const body = pipe(
          currentSession,
          TE.chainFirstW(rotateSession),
          TE.chainW(act),
          TE.chainW(() => currentSession),
        )
        current = await right(withSession(current, () => body))
        assert.deepEqual(Object.keys(await storedValues(current)).includes('visits'), true)
      }
      assert.deepEqual(await storedValues(current), { visits: 1, user: 'ada' })
    },
  },
  {
    law: 5,
    name: 'no lost updates: an older state of the session does not rewind the current one',
    check: async ({ store }) => {
      const session = await stored(store, sessionSet('n', 0))
      const add = updateCurrentSession(sessionUpdate('n', (n) => Number(n) + 1, 0))
      const body = pipe(
        currentSession,
        TE.chainFirstW(() => pipe(add, TE.chainW(saveSession))),
        TE.chainFirstW(saveSession),
        TE.chainFirstW(rotateSession),
        TE.chainW((before) => withSession(before, () => add)),
      )
      const last = await right(
        withSession(session, () =>
          pipe(
            body,
            TE.chainW(() => currentSession),
          ),
        ),
      )
      assert.deepEqual(await storedValues(last), { n: 2 })
    },
  },
]

export const nestingLaws: readonly Law[] = [...joinLaws, ...stateLaws]
