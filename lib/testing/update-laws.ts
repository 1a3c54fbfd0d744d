// Law 5: updates are replayed on what is stored, so that none of them is lost.

import assert from 'node:assert/strict'
import { flow, pipe } from 'fp-ts/lib/function.js'
import * as O from 'fp-ts/lib/Option.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import type { Json } from '../base/json.js'
import { currentSession, updateCurrentSession, withSession } from '../current/current-session.js'
import { refreshSession } from '../current/reading.js'
import { buildSession, saveSession } from '../current/verbs.js'
import { freshSaveId } from '../session/token.js'
import { sessionDel, sessionRef, sessionSet, sessionUpdate } from '../session/values.js'
import { counted, type Law, left, many, reload, right, stored, storedValues, tagOf } from './subject.js'

const plus = (by: number) => (value: Json) => Number(value) + by
const add = (key: string, by = 1) => sessionUpdate(key, plus(by), 0)

const replayLaws: readonly Law[] = [
  {
    law: 5,
    name: 'no lost updates: of n requests at once that update one key, all n are applied',
    check: async ({ store }) => {
      const session = await stored(store, sessionSet('n', 0))
      const loaded = await many(20, () => reload(session))
      const saved = await Promise.all(loaded.map((mine) => right(saveSession(add('n')(mine)))))
      assert.deepEqual(await storedValues(session), { n: 20 })
      const seen = saved.map((mine) => Number(sessionRef('n', 0)(mine)))
      assert.ok(new Set(seen).size > 0 && seen.every((n) => n >= 1 && n <= 20))
    },
  },
  {
    law: 5,
    name: 'no lost updates: an update is applied to what is there when it is saved: changed, deleted or new',
    check: async ({ store }) => {
      const first = await stored(
        store,
        sessionSet('changed', 1),
        sessionSet('deleted', 1),
        sessionSet('same', 1),
      )
      const edit = flow(add('changed', 10), add('deleted', 10), add('same', 10), add('new', 10))
      const mine = edit(await reload(first))
      assert.deepEqual(mine.store.toObject(), { changed: 11, deleted: 11, same: 11, new: 10 })
      const other = pipe(
        await reload(first),
        sessionSet('changed', 2),
        sessionDel('deleted'),
        sessionSet('new', 3),
      )
      await right(saveSession(other))
      const saved = await right(saveSession(mine))
      const expected = { changed: 12, deleted: 10, same: 11, new: 13 }
      assert.deepEqual(saved.store.toObject(), expected)
      assert.deepEqual(await storedValues(first), expected)
      await right(saveSession(add('changed', 100)(saved)))
      assert.equal((await storedValues(first))['changed'], 112)
    },
  },
  {
    law: 5,
    name: 'no lost updates: what a request mixes on one key folds to what it says',
    check: async ({ store }) => {
      const session = await stored(store, sessionSet('a', 1), sessionSet('b', 1), sessionSet('c', 1))
      const edit = flow(
        flow(sessionSet('a', 5), add('a'), sessionDel('a'), add('a', 7)),
        flow(
          add('b'),
          add('b', 10),
          sessionUpdate(
            'b',
            O.match(() => 0, plus(100)),
          ),
        ),
        flow(add('c'), sessionSet('c', 50)),
      )
      const mine = edit(await reload(session))
      await right(
        saveSession(
          pipe(await reload(session), sessionSet('a', 1000), sessionSet('b', 1000), sessionSet('c', 1000)),
        ),
      )
      assert.deepEqual((await right(saveSession(mine))).store.toObject(), { a: 7, b: 1111, c: 50 })
      assert.deepEqual(await storedValues(session), { a: 7, b: 1111, c: 50 })
    },
  },
  {
    law: 5,
    name: 'no lost updates: one that throws fails the edit or the save with its own error, and writes nothing',
    check: async ({ store }) => {
      const session = await stored(store, sessionSet('n', 1), sessionSet('m', 1))
      const mine = new Error('too many')
      const atMost = (most: number) =>
        sessionUpdate(
          'n',
          (n) => {
            if (Number(n) >= most) throw mine
            return Number(n) + 1
          },
          0,
        )
      assert.throws(() => atMost(1)(session), mine)
      const full = pipe(await reload(session), sessionSet('m', 2), atMost(2))
      const bad = pipe(
        await reload(session),
        sessionSet('m', 2),
        sessionUpdate('n', (n) => (n === 1 ? 1 : Number.NaN), 0),
      )
      await right(saveSession(sessionSet('n', 2)(session)))
      await assert.rejects(saveSession(full), mine)
      assert.equal(tagOf(await left(saveSession(bad))), 'EncodeError')
      assert.deepEqual(await storedValues(session), { n: 2, m: 1 })
    },
  },
]

const wholeLaws: readonly Law[] = [
  {
    law: 5,
    name: 'no lost updates: a save gives the session as saved, with what others saved meanwhile',
    check: async ({ store }) => {
      const session = await reload(await stored(store, sessionSet('a', 1), sessionSet('b', 1)))
      const other = await right(
        saveSession(pipe(session, sessionSet('a', 2), sessionDel('b'), sessionSet('c', 2))),
      )
      const mine = await right(saveSession(sessionSet('d', 3)(session)))
      assert.deepEqual(mine.store.toObject(), { a: 2, c: 2, d: 3 })
      const [before, after] = [other, mine].map((each) => O.toNullable(each.snapshot)?.revision ?? 0)
      assert.equal(after, (before ?? 0) + 1)
      const refreshed = await right(refreshSession(add('a')(other)))
      assert.deepEqual([refreshed.store.toObject(), refreshed.edits.size], [{ a: 3, c: 2, d: 3 }, 1])
    },
  },
  {
    law: 5,
    name: 'no lost updates: the same save or creation, sent twice, is done once',
    check: async ({ store }) => {
      const [built, save] = [sessionSet('n', 1)(buildSession(store)), freshSaveId()]
      const create = store.create(built.id, built.token.hash, save, built.store)
      assert.deepEqual(await right(create), await right(create))
      const mine = add('n')(await reload(built))
      const since = O.toNullable(mine.snapshot) ?? assert.fail('it was loaded')
      const change = { save: freshSaveId(), edits: mine.edits, since, entries: mine.store }
      const first = await right(store.save(built.id, change))
      await right(saveSession(add('n', 10)(await reload(built))))
      const second = await right(store.save(built.id, change))
      assert.deepEqual([first.entries.toObject(), second.entries.toObject()], [{ n: 2 }, { n: 12 }])
      assert.deepEqual(await storedValues(built), { n: 12 })
    },
  },
  {
    law: 5,
    name: 'no lost updates: an update that was saved within its request is not applied again at its end',
    check: async (subject) => {
      const { store, calls } = counted(subject.store)
      const session = await reload(await stored(store, sessionSet('n', 0)))
      const update = updateCurrentSession(add('n'))
      const inner = pipe(
        currentSession,
        TE.chainW((now) => withSession(now, () => update)),
      )
      const body = pipe(
        update,
        TE.chainW(saveSession),
        TE.chainW(() => update),
        TE.chainW(() => inner),
        TE.chainW(refreshSession),
        TE.chainW(() => update),
      )
      await right(withSession(session, () => body))
      assert.deepEqual(await storedValues(session), { n: 4 })
      assert.equal(calls.filter((call) => call === 'save').length, 2)
    },
  },
]

export const updateLaws: readonly Law[] = [...replayLaws, ...wholeLaws]
