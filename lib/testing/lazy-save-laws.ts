// Laws 4 and 5 of sessions of which only some keys were read: what is saved of them, by requests that know different keys.

import assert from 'node:assert/strict'
import { pipe } from 'fp-ts/lib/function.js'
import { KeyNotLoaded } from '../base/errors.js'
import { sessionFetch } from '../current/reading.js'
import { saveSession } from '../current/verbs.js'
import { sessionDel, sessionRef, sessionSet, sessionUpdate } from '../session/values.js'
import { abc, add, lazily, notLoaded } from './lazily.js'
import { type Law, left, many, reload, right, stored, storedValues, tagOf } from './subject.js'

const mergeLaws: readonly Law[] = [
  {
    law: 4,
    name: 'no lost keys: requests that know different keys, and change others, all keep their changes',
    check: async ({ store }) => {
      const names = Array.from({ length: 20 }, (_, index) => `old ${String(index)}`)
      const whole = await stored(store, ...names.map((name) => sessionSet(name, 'old')))
      const loaded = await many(20, (index) => lazily(whole, `old ${String((index + 1) % 20)}`))
      const saved = await Promise.all(
        loaded.map((mine, index) =>
          right(
            saveSession(
              pipe(mine, sessionSet(`new ${String(index)}`, index), sessionDel(`old ${String(index)}`)),
            ),
          ),
        ),
      )
      assert.deepEqual(
        await storedValues(whole),
        Object.fromEntries(names.map((_, index) => [`new ${String(index)}`, index])),
      )
      for (const [index, mine] of saved.entries()) {
        assert.equal(sessionRef(`new ${String(index)}`, null)(mine), index)
        assert.equal(sessionRef(`old ${String(index)}`, null)(mine), null)
        assert.throws(() => sessionRef(`old ${String((index + 2) % 20)}`)(mine), KeyNotLoaded)
      }
    },
  },
  {
    law: 4,
    name: 'no lost keys: a save brings what others changed of what is known, and whoever loads all has all',
    check: async ({ store }) => {
      const whole = await stored(store, ...abc)
      const mine = await lazily(whole, 'a', 'b')
      await right(saveSession(pipe(await lazily(whole, 'c'), sessionDel('a'), sessionSet('c', 33))))
      const saved = await right(saveSession(sessionSet('d', 4)(mine)))
      assert.deepEqual(saved.store.toObject(), { b: 2, d: 4 })
      assert.equal(sessionRef('a', 0)(saved), 0)
      assert.throws(() => sessionRef('c')(saved), notLoaded('c'))
      assert.deepEqual((await lazily(whole, 'c')).store.toObject(), { c: 33 })
      assert.deepEqual(await storedValues(whole), { b: 2, c: 33, d: 4 })
    },
  },
  {
    law: 4,
    name: 'no lost keys: a save leaves known what was known, whatever others know who save at once',
    check: async ({ store }) => {
      const session = await stored(store, sessionSet('n', 0), sessionSet('other', 'x'))
      const loaded = await many(12, (index) => (index % 2 === 0 ? lazily(session, 'n') : reload(session)))
      const saved = await Promise.all(loaded.map((mine) => right(saveSession(add('n')(mine)))))
      for (const [index, mine] of saved.entries())
        if (index % 2 === 0) assert.throws(() => sessionRef('other')(mine), notLoaded('other'))
        else assert.equal(sessionRef('other', '')(mine), 'x')
      assert.deepEqual(await storedValues(session), { n: 12, other: 'x' })
    },
  },
]

const updateLaws: readonly Law[] = [
  {
    law: 5,
    name: 'no lost updates: of requests at once that know different keys of one session, all are applied',
    check: async ({ store }) => {
      const whole = await stored(store, sessionSet('n', 0), sessionSet('other', 'x'))
      const loads = [
        () => lazily(whole, 'n'),
        () => lazily(whole, 'n', 'm'),
        () => reload(whole),
        () => lazily(whole),
      ]
      const loaded = await many(24, (index) => (loads[index % 4] ?? assert.fail())())
      const saved = await Promise.all(
        loaded.map((mine) => right(saveSession(pipe(mine, add('n'), add('m', 10))))),
      )
      assert.deepEqual(await storedValues(whole), { n: 24, m: 240, other: 'x' })
      for (const mine of saved) assert.equal(sessionRef('m', 0)(mine), Number(sessionRef('n', 0)(mine)) * 10)
    },
  },
  {
    law: 5,
    name: 'no lost updates: an update of a key that was not read runs on what is there when it is saved, or fetched',
    check: async ({ store }) => {
      const whole = await stored(store, ...abc)
      const mine = pipe(await lazily(whole, 'a'), add('b', 10), add('b', 100), add('new', 1000))
      assert.throws(() => sessionRef('b')(mine), notLoaded('b'))
      assert.deepEqual(mine.store.toObject(), { a: 1 })
      const fetched = await right(sessionFetch('b')(mine))
      assert.deepEqual([sessionRef('b', 0)(fetched), fetched.edits.size], [112, 2])
      assert.equal(sessionRef('b', 0)(pipe(mine, sessionSet('b', 1), add('b', 1))), 2)
      const saved = await right(saveSession(mine))
      assert.deepEqual(saved.store.toObject(), { a: 1, b: 112, new: 1000 })
      assert.deepEqual(await storedValues(whole), { a: 1, b: 112, c: 3, new: 1000 })
      const again = await right(saveSession(add('b', 1)(saved)))
      assert.equal(sessionRef('b', 0)(again), 113)
    },
  },
  {
    law: 5,
    name: 'no lost updates: one of a key that was not read, and that throws, fails the save and writes nothing',
    check: async ({ store }) => {
      const whole = await stored(store, ...abc)
      const own = new Error('of its own')
      const failing = sessionUpdate('b', () => {
        throw own
      })
      const mine = pipe(await lazily(whole, 'a'), sessionSet('a', 2), failing)
      await assert.rejects(saveSession(mine), own)
      const bad = sessionUpdate('b', () => Number.NaN)
      assert.equal(tagOf(await left(saveSession(bad(await lazily(whole))))), 'EncodeError')
      assert.deepEqual(await storedValues(whole), { a: 1, b: 2, c: 3 })
    },
  },
]

export const lazySaveLaws: readonly Law[] = [...mergeLaws, ...updateLaws]
