// Law 9, and what the current session makes of older states of itself.

import assert from 'node:assert/strict'
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import { currentSession, updateCurrentSession, withSession } from '../current/current-session.js'
import { refreshSession } from '../current/reading.js'
import { rotateSession, saveSession } from '../current/verbs.js'
import type { Session } from '../port/session-store.js'
import { sessionSet, sessionUpdate } from '../session/values.js'
import { inOrder, set } from './bodies.js'
import { counted, type Law, reload, right, stored, storedValues } from './subject.js'

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
