// Laws 5 and 7 as the current session keeps them inside of transactions of its own database.
import assert from 'node:assert/strict'
import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import { sessionRef, sessionSet, sessionUpdate } from '../core/values.js'
import { sessionFlash, sessionFlashes, sessionPrincipal } from '../core/well-known-keys.js'
import { type Database, transact } from '../db/database.js'
import { signIn, signOut } from '../request/sign-in.js'
import { buildSession, rotateSession } from '../request/verbs.js'
import { currentSession, updateCurrentSession, withSession } from '../request/with-session.js'
import type { Session, SessionStore } from '../store/contract.js'
import {
  inOrder,
  type Law,
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

/** A law of stores that live in a database with transactions; of another store it says nothing. */
const inDatabase = (
  law: number,
  name: string,
  check: (store: SessionStore, database: Database) => Promise<void>,
): Law => ({
  law,
  name,
  check: async ({ store, database }) => {
    if (database !== undefined) await check(store, database)
  },
})

const add = (key: string) => updateCurrentSession(sessionUpdate(key, (n) => Number(n) + 1, 0))

const fail: Body = TE.left('failed')

/** A transaction whose failure the body around it overlooks. */
const attempts = (database: Database, body: (tx: Database) => Body): Body =>
  TE.fromTask(transact(database, body))

const keepingLaws: readonly Law[] = [
  inDatabase(
    7,
    'a failed request leaves nothing behind, but for what a transaction of it committed, and not what was rolled back',
    async (store, database) => {
      for (const end of [TE.right('done'), fail]) {
        const session = await stored(store, sessionSet('n', 1))
        const request = withSession(session, () =>
          inOrder<unknown, unknown>(
            set('before', 1),
            transact(database, () =>
              inOrder(add('n'), set('inside', 1), updateCurrentSession(sessionFlash('info', 'x'))),
            ),
            attempts(database, () => inOrder(set('inside', 2), add('n'), fail)),
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
    },
  ),
  inDatabase(
    7,
    'a failed request leaves nothing behind: a savepoint that went back takes its edits along',
    async (store, database) => {
      const session = await stored(store, sessionSet('n', 0))
      const request = withSession(session, () =>
        pipe(
          transact(database, (tx) =>
            inOrder<unknown, unknown>(
              add('n'),
              transact(tx, () => inOrder(add('n'), set('kept', 1))),
              attempts(tx, (inner) =>
                inOrder(
                  add('n'),
                  transact(inner, () => set('gone', 1)),
                  fail,
                ),
              ),
              add('n'),
            ),
          ),
          TE.chainW(() => currentSession),
          TE.map((current) => [sessionRef('n')(current), current.edits.size]),
        ),
      )
      const [n, pending] = await right(request)
      assert.deepEqual([n, pending], [{ _tag: 'Some', value: 3 }, 0])
      assert.deepEqual(await storedValues(session), { n: 3, kept: 1 })
    },
  ),
  inDatabase(
    7,
    'a failed request leaves nothing behind: an update in a transaction brings the unsaved edits of its key, once',
    async (store, database) => {
      for (const end of [TE.right('done'), fail]) {
        const session = await stored(store, sessionSet('a', 1), sessionSet('b', 1), sessionSet('c', 1))
        const request = withSession(session, () =>
          inOrder<unknown, unknown>(
            set('a', 10),
            add('b'),
            set('c', 10),
            transact(database, () => inOrder(add('a'), add('b'))),
            TE.fromTask(() => several(2, () => right(transact(database, () => inOrder(add('b'), add('b')))))),
            add('b'),
            end,
          ),
        )
        await request()
        const expected = end === fail ? { a: 11, b: 7, c: 1 } : { a: 11, b: 8, c: 10 }
        assert.deepEqual(await storedValues(session), expected)
      }
    },
  ),
  inDatabase(
    7,
    'a failed request leaves nothing behind: transactions at the same time write an unsaved update of it once',
    async (store, database) => {
      const session = await stored(store, sessionSet('n', 0))
      const both = TE.fromTask(() => several(2, () => right(transact(database, () => add('n')))))
      await right(withSession(session, () => inOrder<unknown, unknown>(add('n'), both, add('n'))))
      assert.deepEqual(await storedValues(session), { n: 4 })
    },
  ),
]

const secretLaws: readonly Law[] = [
  inDatabase(
    7,
    'a failed request leaves nothing behind: a sign-in in a transaction stays with its commit, and goes with its rollback',
    async (store, database) => {
      for (const visitor of [buildSession(store), await stored(store, sessionSet('cart', 'tea'))]) {
        const seen: Session[] = []
        const signing = (outcome: Body) =>
          withSession(visitor, () =>
            inOrder<unknown, unknown>(
              attempts(database, () => inOrder(signIn('ada'), outcome)),
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
  inDatabase(
    7,
    'a failed request leaves nothing behind: a sign-out, or a rotation, in a transaction is undone by its rollback',
    async (store, database) => {
      const session = await stored(store, sessionSet('n', 1))
      const rotate = pipe(currentSession, TE.chainW(rotateSession))
      const request = withSession(session, () =>
        inOrder<unknown, unknown>(
          attempts(database, () => inOrder<unknown, unknown>(rotate, signOut, fail)),
          add('n'),
        ),
      )
      await right(request)
      assert.deepEqual(await storedValues(session), { n: 2 })
      const ended = withSession(session, () =>
        inOrder<unknown, unknown>(
          transact(database, () => signOut),
          add('n'),
        ),
      )
      assert.equal(tagOf(await left(ended)), 'SessionGone')
      assert.equal(await reloaded(session), undefined)
    },
  ),
]

const overlapLaws: readonly Law[] = [
  inDatabase(
    5,
    'no lost updates: overlapping requests that update in transactions are all done',
    async (store, database) => {
      const session = await stored(store, sessionSet('n', 0))
      const request = (index: number) =>
        right(
          withSession(session, () =>
            inOrder<unknown, unknown>(
              add('n'),
              transact(database, () => inOrder(add('n'), set(`key ${String(index)}`, index))),
              add('n'),
            ),
          ),
        )
      await several(8, request)
      const { n, ...keys } = await storedValues(session)
      assert.deepEqual([n, Object.keys(keys).length], [24, 8])
    },
  ),
  inDatabase(
    6,
    'no resurrection: a transaction whose edit meets an ended session is rolled back',
    async (store, database) => {
      const session = await stored(store, sessionSet('n', 0))
      const late = withSession(session, () =>
        inOrder<unknown, unknown>(
          // By another request: this one does not hear of it.
          store.destroy(session.id),
          transact(database, () => add('n')),
        ),
      )
      assert.equal(tagOf(await left(late)), 'SessionGone')
      assert.equal(await reloaded(session), undefined)
    },
  ),
]

export const transactionLaws: readonly Law[] = [...keepingLaws, ...secretLaws, ...overlapLaws]
