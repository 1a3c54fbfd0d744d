// Laws 5 to 9 and 12 for the current session.
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
  lawsOf,
  left,
  reload,
  reloaded,
  right,
  set,
  stored,
  storedValues,
  tagOf,
  withLifetime,
} from './subject.js'

/** Every way to write a session value. */
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

export const currentLaws: readonly Law[] = [
  ...lawsOf(6, {
    'a session destroyed within its own request is not saved at its end': async (subject) => {
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
    'a request whose session was ended by another fails if it had something to store': withLifetime(
      { touchFraction: 0 },
      async ({ store }) => {
        const session = await stored(store, sessionSet('user', 'ada'))
        const ended = (body: TE.TaskEither<unknown, unknown>) =>
          withSession(session, () =>
            inOrder(
              TE.fromTask(() => right(store.destroy(session.id))),
              body,
            ),
          )
        assert.equal(tagOf(await left(ended(set('late', 1)))), 'SessionGone')
        assert.equal(await right(ended(currentVisits)), 0)
        assert.equal(await reloaded(session), undefined)
      },
    ),
  }),
  ...lawsOf(7, {
    'the request fails with its own error': async (subject) => {
      const { store, calls } = counted(subject.store)
      const session = await reload(await stored(store, sessionSet('visits', 1)))
      calls.length = 0
      const mine = new Error('mine')
      const throwing = (): never => {
        throw mine
      }
      const failing = (failure: TE.TaskEither<unknown, never>) =>
        withSession(session, () => inOrder(set('visits', 2), failure))
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
    'except with saveOnFailure': async ({ store }) => {
      const session = await stored(store, sessionSet('visits', 1))
      const mine = new Error('mine')
      const body = () => inOrder(set('visits', 2), TE.left(mine))
      assert.equal(await left(withSession(session, body, { saveOnFailure: true })), mine)
      assert.deepEqual(await storedValues(session), { visits: 2 })
    },
    'a value that cannot be stored fails the set, and so the body': async ({ store }) => {
      const session = await stored(store, sessionSet('visits', 1))
      const body = () => inOrder(set('visits', 2), set('bad', Number.NaN))
      assert.equal(tagOf(await left(withSession(session, body))), 'EncodeError')
      assert.deepEqual(await storedValues(session), { visits: 1 })
    },
  }),
  ...lawsOf(8, {
    'code that outlives its request cannot change the session': async ({ store }) => {
      const session = await stored(store, sessionSet('visits', 1))
      const [ended, go] = gate()
      let late: Promise<unknown> = Promise.resolve()
      const body = inOrder(
        TE.fromIO(() => {
          late = ended.then(() => left(set('late', 1)))
        }),
        set('visits', 2),
      )
      await right(withSession(session, () => body))
      go()
      assert.equal(tagOf(await late), 'SessionClosed')
      assert.deepEqual(await storedValues(session), { visits: 2 })
    },
    'code that outlives its request cannot save, rotate or open a scope with its session': async ({
      store,
    }) => {
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
    'an ended scope has no current session; a session value can still be read': async ({ store }) => {
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
    "code of an ended request gets neither an outer nor another request's session": async ({ store }) => {
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
    'there is no current session outside a request, and a task is bound when it runs': async ({ store }) => {
      const [one, two] = [buildSession(store), buildSession(store)]
      const task = currentSession
      assert.equal(tagOf(await left(task)), 'NoCurrentSession')
      assert.equal(tagOf(await left(set('a', 1))), 'NoCurrentSession')
      const built = withSession(one, () => task)
      assert.equal((await right(withSession(two, () => task))).id, two.id)
      assert.equal((await right(built)).id, one.id)
    },
  }),
  ...lawsOf(9, {
    'one scope and one save for the same session': async (subject) => {
      const { store, calls } = counted(subject.store)
      const session = await reload(await stored(store, sessionSet('visits', 1)))
      calls.length = 0
      const inner = withSession(session, () => set('inner', 1))
      const brought = withSession(sessionSet('brought', 1)(session), () => set('visits', 3))
      await right(withSession(session, () => inOrder(set('visits', 2), inner, brought, set('outer', 1))))
      assert.deepEqual(calls.toSorted(), ['edit brought', 'edit inner', 'edit outer', 'edit visits', 'save'])
      assert.deepEqual(await storedValues(session), { visits: 3, inner: 1, brought: 1, outer: 1 })
    },
    'different sessions nest independently': async ({ store }) => {
      const [one, two] = [await stored(store, sessionSet('n', 1)), await stored(store, sessionSet('n', 2))]
      const innermost = withSession(one, () => set('back', 1))
      const inner = withSession(two, () => inOrder(set('inner', 2), innermost, set('after', 2)))
      await right(withSession(one, () => inOrder(inner, set('outer', 1))))
      assert.deepEqual(await storedValues(one), { n: 1, back: 1, outer: 1 })
      assert.deepEqual(await storedValues(two), { n: 2, inner: 2, after: 2 })
    },
    'an operation that ran within a request is not repeated at its end': async (subject) => {
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
  }),
  ...lawsOf(12, {
    'an older state of the session does not bring the old secret back': async ({ store }) => {
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
  }),
  ...lawsOf(5, {
    'an older state of the session does not undo changes of the current one': async ({ store }) => {
      const session = await stored(store, sessionSet('n', 0))
      const add = updateCurrentSession(sessionUpdate('n', (n) => Number(n) + 1, 0))
      const body = pipe(
        currentSession,
        TE.chainFirstW(() => pipe(add, TE.chainW(saveSession))),
        TE.chainFirstW(saveSession),
        TE.chainFirstW(rotateSession),
        TE.chainW((before) => withSession(before, () => add)),
      )
      const last = await right(withSession(session, () => inOrder(body, currentSession)))
      assert.deepEqual(await storedValues(last), { n: 2 })
    },
  }),
]
