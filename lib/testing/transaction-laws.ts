// Checks laws 5 to 7 for the current session in transactions of the database that stores it.

import assert from 'node:assert/strict'
import { E, pipe, TE } from '../core/prelude.cjs'
import { sessionRef } from '../core/values.js'
import { sessionFlash, sessionFlashes, sessionPrincipal } from '../core/well-known-keys.js'
import { type Database, transact } from '../db/database.js'
import { resetSession, signIn, signOut } from '../request/sign-in.js'
import { buildSession, rotateSession } from '../request/verbs.js'
import { currentSession, updateCurrentSession } from '../request/with-session.js'
import type { Session, SessionStore } from '../store/contract.js'
import {
  assertLeft,
  increment,
  inOrder,
  lawsOf,
  left,
  onCurrent,
  reload,
  reloaded,
  request,
  right,
  set,
  several,
  stored,
  storedValues,
  type Task,
} from './subject.js'

type Check = (store: SessionStore, database: Database) => Promise<void>

/** Makes checks for stores in a database with transactions. For any other store these checks do nothing. */
const databaseLaws = (law: 5 | 6 | 7, checks: Readonly<Record<string, Check>>) =>
  Object.entries(checks).flatMap(([name, check]) =>
    lawsOf(law, {
      [name]: async ({ store, database }) => {
        if (database !== undefined) await check(store, database)
      },
    }),
  )

const fail: Task = TE.left('failed')

/** Makes a transaction that runs the tasks one after the other. */
const inTransaction = (database: Database, ...tasks: readonly [...Task[], Task]) =>
  transact(database, () => inOrder(...tasks))

/** Runs the transaction, and ignores its failure, so that the request around the transaction does not fail. */
const ignoringFailure = (transaction: Task): Task => TE.fromTask(transaction)

export const transactionLaws = [
  ...databaseLaws(7, {
    'except for edits that its transactions committed': async (store, database) => {
      const flash = updateCurrentSession(sessionFlash('info', 'x'))
      for (const end of [TE.right('done'), fail]) {
        const session = await stored(store, { n: 1 })
        const committed = inTransaction(database, increment('n'), set('inside', 1), flash)
        const failed = inTransaction(database, set('inside', 2), increment('n'), fail)
        const body = [set('before', 1), committed, ignoringFailure(failed), set('after', 1)]
        const ended = await request(session, ...body, end)()
        assert.equal(E.isRight(ended), end !== fail)
        const now = await reload(session)
        const { n, inside, before, after } = now.store.toObject()
        assert.deepEqual({ n, inside, flashes: sessionFlashes(now).length }, { n: 2, inside: 1, flashes: 1 })
        assert.deepEqual([before, after], end === fail ? [undefined, undefined] : [1, 1])
      }
    },
    'edits made in a savepoint are dropped when it rolls back': async (store, database) => {
      const session = await stored(store, { n: 0 })
      const rolledBack = (tx: Database) =>
        transact(tx, (inner) => inOrder(increment('n'), inTransaction(inner, set('gone', 1)), fail))
      const transaction = transact(database, (tx) =>
        inOrder(
          increment('n'),
          inTransaction(tx, increment('n'), set('kept', 1)),
          ignoringFailure(rolledBack(tx)),
          increment('n'),
        ),
      )
      const seen = pipe(
        currentSession,
        TE.map((current) => [sessionRef('n')(current), current.edits.size]),
      )
      const [n, pending] = await right(request(session, transaction, seen))
      assert.deepEqual([n, pending], [{ _tag: 'Some', value: 3 }, 0])
      assert.deepEqual(await storedValues(session), { n: 3, kept: 1 })
    },
    'an update in a transaction also writes the unsaved edits of its key, once': async (store, database) => {
      for (const end of [TE.right('done'), fail]) {
        const session = await stored(store, { a: 1, b: 1, c: 1 })
        const twice = inTransaction(database, increment('b'), increment('b'))
        await request(
          session,
          set('a', 10),
          increment('b'),
          set('c', 10),
          inTransaction(database, increment('a'), increment('b')),
          TE.fromTask(() => several(2, () => right(twice))),
          increment('b'),
          end,
        )()
        const expected = end === fail ? { a: 11, b: 7, c: 1 } : { a: 11, b: 8, c: 10 }
        assert.deepEqual(await storedValues(session), expected)
      }
    },
    'concurrent transactions write an unsaved update once': async (store, database) => {
      const session = await stored(store, { n: 0 })
      const both = TE.fromTask(() => several(2, () => right(inTransaction(database, increment('n')))))
      await right(request(session, increment('n'), both, increment('n')))
      assert.deepEqual(await storedValues(session), { n: 4 })
    },
    'a sign-in in a transaction is kept by a commit, undone by a rollback': async (store, database) => {
      for (const visitor of [buildSession(store), await stored(store, { cart: 'tea' })]) {
        const seen: Session[] = []
        const see = TE.map((session: Session) => seen.push(session))(currentSession)
        const signing = (outcome: Task) => inTransaction(database, signIn('ada'), outcome)
        await left(request(visitor, ignoringFailure(signing(fail)), see, fail))
        assert.equal(seen[0]?.token, visitor.token)
        assert.deepEqual((await reloaded(visitor))?.store.has('keyrow:principal') ?? false, false)
        await left(request(visitor, ignoringFailure(signing(TE.right('done'))), see, fail))
        const signedIn = seen[1] ?? assert.fail('it has none')
        assert.equal(sessionRef(sessionPrincipal, '')(await reload(signedIn)), 'ada')
        assert.equal(await reloaded(visitor), undefined)
      }
    },
    'a sign-out or a rotation in a transaction is undone by its rollback': async (store, database) => {
      const session = await stored(store, { n: 1 })
      const failed = inTransaction(database, onCurrent(rotateSession), signOut, fail)
      await right(request(session, ignoringFailure(failed), increment('n')))
      assert.deepEqual(await storedValues(session), { n: 2 })
      await assertLeft('SessionGone', request(session, inTransaction(database, signOut), increment('n')))
      assert.equal(await reloaded(session), undefined)
    },
  }),
  ...databaseLaws(5, {
    'overlapping requests that update in transactions are all applied': async (store, database) => {
      const session = await stored(store, { n: 0 })
      await several(8, (index) => {
        const transaction = inTransaction(database, increment('n'), set(`key ${index}`, index))
        return right(request(session, increment('n'), transaction, increment('n')))
      })
      const { n, ...keys } = await storedValues(session)
      assert.deepEqual([n, Object.keys(keys).length], [24, 8])
    },
  }),
  ...databaseLaws(6, {
    'a session cannot be reset in a transaction': async (store, database) => {
      const session = await stored(store, { n: 0 })
      const reset = request(session, inTransaction(database, resetSession))
      await assert.rejects(right(reset), { name: 'TypeError' })
      assert.deepEqual(await storedValues(session), { n: 0 })
    },
    'a transaction that edits an ended session is rolled back': async (store, database) => {
      const session = await stored(store, { n: 0 })
      // `store.destroy` does not update the scope of this request, so the scope still has the ended session.
      const late = request(session, store.destroy(session.id), inTransaction(database, increment('n')))
      await assertLeft('SessionGone', late)
      assert.equal(await reloaded(session), undefined)
    },
  }),
]
