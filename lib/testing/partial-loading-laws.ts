// Checks laws 1, 2, 4 to 9 and 12 for partially loaded sessions. A key that was not loaded never counts as absent.

import assert from 'node:assert/strict'
import { KeyNotLoaded } from '../core/errors.js'
import { sessionKey } from '../core/key.js'
import { flow, O, pipe, TE, t } from '../core/prelude.cjs'
import { keysOf } from '../core/session.js'
import { sessionDel, sessionRef, sessionRefStrict, sessionSet, sessionUpdate } from '../core/values.js'
import { sessionFlash, sessionFlashes, sessionFor, sessionPrincipal } from '../core/well-known-keys.js'
import {
  destroySession,
  loadCurrentKeys,
  loadKeys,
  refreshSession,
  rotateSession,
  saveSession,
} from '../request/verbs.js'
import { updateCurrentSession } from '../request/with-session.js'
import {
  abc,
  add,
  assertLeft,
  changedAtOnce,
  countedSession,
  currentVisits,
  edited,
  increment,
  lawsOf,
  lazily,
  left,
  notLoaded,
  outlive,
  reload,
  reloaded,
  request,
  right,
  saveNow,
  set,
  several,
  snapshotOf,
  stored,
  storedValues,
  tagOf,
} from './subject.js'

export const partialLoadingLaws = [
  ...lawsOf(1, {
    'a key that was not loaded does not count as absent': async ({ store }) => {
      const session = await lazily(await stored(store, abc), 'a', 'nothing')
      assert.deepEqual(session.store.toObject(), { a: 1 })
      assert.deepEqual([sessionRef('a', 0)(session), sessionRef('nothing', 0)(session)], [1, 0])
      const b = sessionKey('b', t.number)
      for (const read of [sessionRef('b'), sessionRef('b', 7), sessionRef(b, 7), sessionRefStrict(b)])
        assert.throws(() => read(session), notLoaded('b'))
      assert.throws(() => sessionRef('nowhere')(session), notLoaded('nowhere'))
      assert.equal(sessionRef('never \u0000 stored', 0)(session), 0)
      const [set, del] = [sessionSet('b', 2)(session), sessionDel('b')(session)]
      assert.deepEqual([sessionRef('b', 0)(set), sessionRef('b', 0)(del)], [2, 0])
      assert.deepEqual([set.edits.size, del.edits.size], [1, 1], 'an edit of an unloaded key always counts')
      assert.equal(sessionSet('b', 2)(set), set)
      assert.equal(sessionDel('b')(del), del)
    },
    "keyrow's own keys are loaded with every session": async ({ store }) => {
      const session = await lazily(
        await stored(store, abc, sessionFor('ada'), sessionFlash('info', 'Hello.')),
      )
      assert.deepEqual(sessionRef(sessionPrincipal, '')(session), 'ada')
      const texts = sessionFlashes(session).map(({ text }) => text)
      assert.deepEqual(texts, ['Hello.'])
      assert.throws(() => sessionRef('a')(session), notLoaded('a'))
    },
    'loading more keys keeps unsaved edits, and gives all values of one snapshot': async ({ store }) => {
      const whole = await stored(store, abc)
      const mine = edited(await lazily(whole, 'a'), { c: 30 }, add('a', 10))
      await saveNow(await reload(whole), { a: 5, b: 6 })
      assert.equal(sessionRef('a', 0)(mine), 11)
      const fetched = await right(loadKeys('b', 'c', 'nothing')(mine))
      assert.deepEqual(fetched.store.toObject(), { a: 15, b: 6, c: 30 })
      assert.equal(sessionRef('nothing', 0)(fetched), 0)
      assert.equal(snapshotOf(fetched).revision, snapshotOf(mine).revision + 1)
      await saveNow(await reload(whole), sessionDel('b'))
      const refreshed = await right(refreshSession(fetched))
      assert.deepEqual(refreshed.store.toObject(), { a: 15, c: 30 })
      assert.equal(sessionRef('b', 0)(refreshed), 0)
      assert.deepEqual((await saveNow(refreshed)).store.toObject(), { a: 15, c: 30 })
    },
    'a snapshot of a store says which keys it has, and holds no others': async ({ store }) => {
      const session = await stored(store, abc)
      const keys = keysOf(['a', 'b', 'nothing'])
      const loaded = await right(store.load(session.id, session.token.hash, { keys }))
      const known = loaded._tag === 'Right' ? loaded.right : assert.fail('it is not there')
      const second = O.toNullable(await right(store.refresh(session.id, known, keys))) ?? assert.fail()
      for (const { entries, keys: given } of [known, second]) {
        assert.ok(given === undefined || keys.isSubset(given))
        assert.ok(entries.every((_, key) => given?.has(key) ?? true))
        assert.deepEqual([entries.get('a'), entries.get('b')], [1, 2])
      }
    },
  }),
  ...lawsOf(2, {
    'this holds for some keys too, and loaded keys are not loaded again': async (subject) => {
      const { session: whole, calls } = await countedSession(subject, abc)
      const session = await lazily(whole, 'a')
      await right(loadKeys('a')(session))
      await right(loadKeys('b')(sessionSet('b', 1)(session)))
      await right(loadKeys('b')(whole))
      await saveNow(session)
      const saved = await saveNow(session, add('a'), { b: 7 })
      assert.deepEqual(calls, ['load', 'save', 'edit a', 'edit b'])
      assert.deepEqual(saved.store.toObject(), { a: 2, b: 7 })
      await right(loadKeys('b')(saved))
      const fetched = await right(loadKeys('c')(saved))
      assert.deepEqual(calls.slice(4), ['refresh'])
      assert.deepEqual(fetched.store.toObject(), { a: 2, b: 7, c: 3 })
    },
  }),
  ...lawsOf(6, {
    'no key of a destroyed session can be loaded or written': async ({ store }) => {
      const mine = await lazily(await stored(store, abc), 'a')
      await right(destroySession(await lazily(mine)))
      await assertLeft('SessionGone', loadKeys('b')(mine), refreshSession(mine), saveSession(add('b')(mine)))
      assert.equal(await reloaded(mine, { keys: ['a'] }), undefined)
    },
  }),
  ...lawsOf(12, {
    'a rotation keeps the loaded keys, and the old secret opens no key': async ({ store }) => {
      const before = await lazily(await stored(store, abc), 'a')
      const after = await right(rotateSession(sessionSet('b', 7)(before)))
      assert.deepEqual(after.store.toObject(), { a: 1, b: 7 })
      assert.throws(() => sessionRef('c')(after), notLoaded('c'))
      assert.equal(await reloaded(before, { keys: ['a'] }), undefined)
      assert.deepEqual((await lazily(after, 'c')).store.toObject(), { c: 3 })
    },
  }),
  ...lawsOf(9, {
    'keys loaded in the current session are visible in all of its scope, and saved once': async (subject) => {
      const { session: whole, calls } = await countedSession(subject, abc)
      const [session, inner] = [await lazily(whole, 'a'), await lazily(whole, 'visits')]
      const values = pipe(
        updateCurrentSession(flow(add('b'), add('c'), add('visits'))),
        TE.map(({ store }) => store.toObject()),
      )
      const fetched = TE.sequenceArray([loadCurrentKeys('b'), loadCurrentKeys('c', 'b')])
      const seen = await right(request(session, fetched, request(inner, currentVisits), values))
      assert.deepEqual(seen, { a: 1, b: 3, c: 4, visits: 1 })
      const expected = ['edit b', 'edit c', 'edit visits', 'load', 'load', 'refresh', 'refresh', 'save']
      assert.deepEqual(calls.toSorted(), expected)
      assert.deepEqual(await storedValues(session), { a: 1, b: 3, c: 4, visits: 1 })
    },
    'saving a value with fewer keys loses no update of the current session': async ({ store }) => {
      const session = await lazily(await stored(store, abc), 'a')
      const body = [loadCurrentKeys('b'), increment('b', 10), saveSession(add('a', 10)(session))]
      await right(request(session, ...body, increment('b', 100)))
      assert.deepEqual(await storedValues(session), { a: 11, b: 112, c: 3 })
    },
  }),
  ...lawsOf(8, {
    'code that outlives its request cannot load keys': async ({ store }) => {
      await assertLeft('NoCurrentSession', loadCurrentKeys('b'))
      const session = await lazily(await stored(store, abc), 'a')
      const late = await outlive(session, TE.right('done'), () => left(loadCurrentKeys('b')))
      assert.equal(tagOf(late), 'SessionClosed')
    },
  }),
  ...lawsOf(7, {
    'reading a key that was not loaded fails the request': async ({ store }) => {
      const session = await lazily(await stored(store, abc), 'a')
      const body = pipe(set('a', 2), TE.map(sessionRef('b', 0)))
      await assertLeft('KeyNotLoaded', request(session, body))
      assert.deepEqual(await storedValues(session), { a: 1, b: 2, c: 3 })
    },
  }),
  ...lawsOf(4, {
    'requests that loaded different keys, and change others, all keep their changes': async ({ store }) => {
      const saved = await changedAtOnce(store, (whole, index) => lazily(whole, `old ${(index + 1) % 20}`))
      for (const [index, mine] of saved.entries()) {
        assert.equal(sessionRef(`new ${index}`, null)(mine), index)
        assert.equal(sessionRef(`old ${index}`, null)(mine), null)
        assert.throws(() => sessionRef(`old ${(index + 2) % 20}`)(mine), KeyNotLoaded)
      }
    },
    "a save gives others' changes of the loaded keys, and a full load gives all": async ({ store }) => {
      const whole = await stored(store, abc)
      const mine = await lazily(whole, 'a', 'b')
      await saveNow(await lazily(whole, 'c'), sessionDel('a'), { c: 33 })
      const saved = await saveNow(mine, { d: 4 })
      assert.deepEqual(saved.store.toObject(), { b: 2, d: 4 })
      assert.equal(sessionRef('a', 0)(saved), 0)
      assert.throws(() => sessionRef('c')(saved), notLoaded('c'))
      assert.deepEqual((await lazily(whole, 'c')).store.toObject(), { c: 33 })
      assert.deepEqual(await storedValues(whole), { b: 2, c: 33, d: 4 })
    },
    'a save keeps the set of loaded keys, whatever concurrent requests loaded': async ({ store }) => {
      const session = await stored(store, { n: 0, other: 'x' })
      const loaded = await several(12, (index) => (index % 2 === 0 ? lazily(session, 'n') : reload(session)))
      const saved = await Promise.all(loaded.map((mine) => saveNow(mine, add('n'))))
      for (const [index, mine] of saved.entries())
        if (index % 2 === 0) assert.throws(() => sessionRef('other')(mine), notLoaded('other'))
        else assert.equal(sessionRef('other', '')(mine), 'x')
      assert.deepEqual(await storedValues(session), { n: 12, other: 'x' })
    },
  }),
  ...lawsOf(5, {
    'requests that loaded different keys of a session apply all their updates': async ({ store }) => {
      const whole = await stored(store, { n: 0, other: 'x' })
      const keys = [['n'], ['n', 'm'], undefined, []]
      const loaded = await several(24, (index) => reload(whole, { keys: keys[index % 4] }))
      const saved = await Promise.all(loaded.map((mine) => saveNow(mine, add('n'), add('m', 10))))
      assert.deepEqual(await storedValues(whole), { n: 24, m: 240, other: 'x' })
      for (const mine of saved) assert.equal(sessionRef('m', 0)(mine), Number(sessionRef('n', 0)(mine)) * 10)
    },
    'an update of an unloaded key is applied to its stored value at the save or load': async ({ store }) => {
      const whole = await stored(store, abc)
      const mine = edited(await lazily(whole, 'a'), add('b', 10), add('b', 100), add('new', 1000))
      assert.throws(() => sessionRef('b')(mine), notLoaded('b'))
      assert.deepEqual(mine.store.toObject(), { a: 1 })
      const fetched = await right(loadKeys('b')(mine))
      assert.deepEqual([sessionRef('b', 0)(fetched), fetched.edits.size], [112, 2])
      assert.equal(sessionRef('b', 0)(edited(mine, { b: 1 }, add('b', 1))), 2)
      const saved = await saveNow(mine)
      assert.deepEqual(saved.store.toObject(), { a: 1, b: 112, new: 1000 })
      assert.deepEqual(await storedValues(whole), { a: 1, b: 112, c: 3, new: 1000 })
      const second = await saveNow(saved, add('b', 1))
      assert.equal(sessionRef('b', 0)(second), 113)
    },
    'an update of an unloaded key that throws fails the save and writes nothing': async ({ store }) => {
      const whole = await stored(store, abc)
      const own = new Error('of its own')
      const failing = sessionUpdate('b', () => {
        throw own
      })
      const mine = edited(await lazily(whole, 'a'), { a: 2 }, failing)
      await assert.rejects(saveSession(mine), own)
      const bad = sessionUpdate('b', () => Number.NaN)
      await assertLeft('EncodeError', saveSession(bad(await lazily(whole))))
      assert.deepEqual(await storedValues(whole), { a: 1, b: 2, c: 3 })
    },
  }),
]
