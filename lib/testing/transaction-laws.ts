// Laws 5 to 7 for the current session in transactions of its own database.
import assert from 'node:assert/strict'
import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import { sessionRef, sessionSet } from '../core/values.js'
import { sessionFlash, sessionFlashes, sessionPrincipal } from '../core/well-known-keys.js'
import { type Database, transact } from '../db/database.js'
import { signIn, signOut } from '../request/sign-in.js'
import { buildSession, rotateSession } from '../request/verbs.js'
import { currentSession, updateCurrentSession, withSession } from '../request/with-session.js'
import type { Session, SessionStore } from '../store/contract.js'
import {
  add,
  inOrder,
  type Law,
  lawsOf,
  left,
  reload,
  reloaded,
  right,
  set,
  several,
  stored,
  storedValues,
  tagOf,
} from './subject.js'

type Body = TE.TaskEither<unknown, unknown>

/** Checks only stores that are in a database with transactions. */
const withDatabase =
  (check: (store: SessionStore, database: Database) => Promise<void>): Law['check'] =>
  async ({ store, database }) => {
    if (database !== undefined) await check(store, database)
  }

const increment = (key: string) => updateCurrentSession(add(key))

const fail: Body = TE.left('failed')

/** A transaction whose failure does not fail the body around it. */
const ignoringFailure = (database: Database, body: (tx: Database) => Body): Body =>
  TE.fromTask(transact(database, body))

export const transactionLaws: readonly Law[] = [
  ...lawsOf(7, {
    'except for edits that its transactions committed': withDatabase(async (store, database) => {
      for (const end of [TE.right('done'), fail]) {
        const session = await stored(store, sessionSet('n', 1))
        const request = withSession(session, () =>
          inOrder(
            set('before', 1),
            transact(database, () =>
              inOrder(increment('n'), set('inside', 1), updateCurrentSession(sessionFlash('info', 'x'))),
            ),
            ignoringFailure(database, () => inOrder(set('inside', 2), increment('n'), fail)),
            set('after', 1),
            end,
          ),
        )
        const ended = await request()
        assert.equal(E.isRight(ended), end !== fail)
        const now = await reload(session)
        const { n, inside, before, after } = now.store.toObject()
        assert.deepEqual({ n, inside, flashes: sessionFlashes(now).length }, { n: 2, inside: 1, flashes: 1 })
        assert.deepEqual([before, after], end === fail ? [undefined, undefined] : [1, 1])
      }
    }),
    'edits made in a savepoint are dropped when it rolls back': withDatabase(async (store, database) => {
      const session = await stored(store, sessionSet('n', 0))
      const request = withSession(session, () =>
        pipe(
          transact(database, (tx) =>
            inOrder(
              increment('n'),
              transact(tx, () => inOrder(increment('n'), set('kept', 1))),
              ignoringFailure(tx, (inner) =>
                inOrder(
                  increment('n'),
                  transact(inner, () => set('gone', 1)),
                  fail,
                ),
              ),
              increment('n'),
            ),
          ),
          TE.chainW(() => currentSession),
          TE.map((current) => [sessionRef('n')(current), current.edits.size]),
        ),
      )
      const [n, pending] = await right(request)
      assert.deepEqual([n, pending], [{ _tag: 'Some', value: 3 }, 0])
      assert.deepEqual(await storedValues(session), { n: 3, kept: 1 })
    }),
    'an update in a transaction also writes the unsaved edits of its key, once': withDatabase(
      async (store, database) => {
        for (const end of [TE.right('done'), fail]) {
          const session = await stored(store, sessionSet('a', 1), sessionSet('b', 1), sessionSet('c', 1))
          const request = withSession(session, () =>
            inOrder(
              set('a', 10),
              increment('b'),
              set('c', 10),
              transact(database, () => inOrder(increment('a'), increment('b'))),
              TE.fromTask(() =>
                several(2, () => right(transact(database, () => inOrder(increment('b'), increment('b'))))),
              ),
              increment('b'),
              end,
            ),
          )
          await request()
          const expected = end === fail ? { a: 11, b: 7, c: 1 } : { a: 11, b: 8, c: 10 }
          assert.deepEqual(await storedValues(session), expected)
        }
      },
    ),
    'concurrent transactions write an unsaved update once': withDatabase(async (store, database) => {
      const session = await stored(store, sessionSet('n', 0))
      const both = TE.fromTask(() => several(2, () => right(transact(database, () => increment('n')))))
      await right(withSession(session, () => inOrder(increment('n'), both, increment('n'))))
      assert.deepEqual(await storedValues(session), { n: 4 })
    }),
    'a sign-in in a transaction is kept by its commit, and undone by its rollback': withDatabase(
      async (store, database) => {
        for (const visitor of [buildSession(store), await stored(store, sessionSet('cart', 'tea'))]) {
          const seen: Session[] = []
          const signing = (outcome: Body) =>
            withSession(visitor, () =>
              inOrder(
                ignoringFailure(database, () => inOrder(signIn('ada'), outcome)),
                pipe(
                  currentSession,
                  TE.map((session) => seen.push(session)),
                ),
                fail,
              ),
            )
          await left(signing(fail))
          assert.equal(seen[0]?.token, visitor.token)
          assert.deepEqual((await reloaded(visitor))?.store.has('keyrow:principal') ?? false, false)
          await left(signing(TE.right('done')))
          const signedIn = seen[1] ?? assert.fail('it has none')
          assert.equal(sessionRef(sessionPrincipal, '')(await reload(signedIn)), 'ada')
          assert.equal(await reloaded(visitor), undefined)
        }
      },
    ),
    'a sign-out or a rotation in a transaction is undone by its rollback': withDatabase(
      async (store, database) => {
        const session = await stored(store, sessionSet('n', 1))
        const rotate = pipe(currentSession, TE.chainW(rotateSession))
        const request = withSession(session, () =>
          inOrder(
            ignoringFailure(database, () => inOrder(rotate, signOut, fail)),
            increment('n'),
          ),
        )
        await right(request)
        assert.deepEqual(await storedValues(session), { n: 2 })
        const ended = withSession(session, () =>
          inOrder(
            transact(database, () => signOut),
            increment('n'),
          ),
        )
        assert.equal(tagOf(await left(ended)), 'SessionGone')
        assert.equal(await reloaded(session), undefined)
      },
    ),
  }),
  ...lawsOf(5, {
    'overlapping requests that update in transactions are all applied': withDatabase(
      async (store, database) => {
        const session = await stored(store, sessionSet('n', 0))
        const request = (index: number) =>
          right(
            withSession(session, () =>
              inOrder(
                increment('n'),
                transact(database, () => inOrder(increment('n'), set(`key ${String(index)}`, index))),
                increment('n'),
              ),
            ),
          )
        await several(8, request)
        const { n, ...keys } = await storedValues(session)
        assert.deepEqual([n, Object.keys(keys).length], [24, 8])
      },
    ),
  }),
  ...lawsOf(6, {
    'a transaction that edits an ended session is rolled back': withDatabase(async (store, database) => {
      const session = await stored(store, sessionSet('n', 0))
      const late = withSession(session, () =>
        inOrder(
          // As another request does it: this one gets no event.
          store.destroy(session.id),
          transact(database, () => increment('n')),
        ),
      )
      assert.equal(tagOf(await left(late)), 'SessionGone')
      assert.equal(await reloaded(session), undefined)
    }),
  }),
]
