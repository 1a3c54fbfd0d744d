// Checks laws 1 to 3 and 5: the session as a value, the cost of reading and writing it, and the replay of updates.

import assert from 'node:assert/strict'
import type { Json } from '../core/json.js'
import { sessionKey } from '../core/key.js'
import { O, pipe, t } from '../core/prelude.cjs'
import { newIdempotencyKey } from '../core/token.js'
import { sessionDel, sessionRef, sessionSet, sessionUpdate } from '../core/values.js'
import { buildSession, refreshSession, saveSession } from '../request/verbs.js'
import {
  add,
  assertLeft,
  changeOf,
  counted,
  countedSession,
  currentVisits,
  edited,
  increment,
  lawsOf,
  onCurrent,
  reload,
  reloaded,
  request,
  right,
  saveNow,
  several,
  snapshotOf,
  stored,
  storedValues,
} from './subject.js'

const IsoDate = new t.Type<Date, string>(
  'Date',
  (value): value is Date => value instanceof Date,
  (input, context) => {
    const date = new Date(String(input))
    return Number.isNaN(date.getTime()) ? t.failure(input, context) : t.success(date)
  },
  (date) => date.toISOString(),
)

/** Keys and values that stores tend to alter or lose. */
const hardValues = {
  null: null,
  no: false,
  '': 'the empty name',
  'with "quotes", {braces} and \\': [[], {}, ''],
  constructor: 'toString',
  numbers: [0, -1.5, 1e21, 5e-324, Number.MAX_SAFE_INTEGER, Number.MAX_VALUE],
  text: 'é 漢字 🙂 \u0001 \u2028 \\u0000',
  nested: { b: { a: [1, { deep: [true, null] }] }, aa: 2 },
  'snake_case and camelCase': { snake_case: 1, camelCase: 2 },
  ['long name '.repeat(100)]: 'x'.repeat(1_000_000),
} as const

export const valueLaws = [
  ...lawsOf(1, {
    'editing does no I/O and changes no existing session value': async (subject) => {
      const { store, calls } = counted(subject.store)
      const before = pipe(buildSession(store), sessionSet('a', 1))
      const after = pipe(before, sessionSet('b', 2), sessionDel('a'))
      assert.deepEqual([before.store.toObject(), after.store.toObject()], [{ a: 1 }, { b: 2 }])
      assert.deepEqual(calls, [])
      await Promise.resolve()
    },
    'a set to an equal value, and a delete of an absent key, give the same session': async ({ store }) => {
      const session = await reload(await stored(store, { cart: { lines: [1, { tea: 2 }], aa: 0, b: null } }))
      assert.equal(sessionSet('cart', { b: null, lines: [1, { tea: 2 }], aa: 0 })(session), session)
      assert.equal(sessionDel('basket')(session), session)
      assert.notEqual(sessionSet('cart', { b: null, lines: [1, { tea: 3 }], aa: 0 })(session), session)
    },
    'a value that was read cannot be changed in place': async ({ store }) => {
      const since = sessionKey('since', t.type({ dates: t.array(IsoDate) }))
      const dates = sessionSet(since, { dates: [new Date(0)] })
      const session = await reload(await stored(store, { cart: { lines: [{ tea: 1 }] } }, dates))
      const cart = sessionRef('cart', null)(session) as { lines: { tea: number }[] }
      assert.throws(() => cart.lines.push({ tea: 2 }), TypeError)
      assert.throws(() => Object.assign(cart.lines[0] ?? {}, { tea: 2 }), TypeError)
      const date = sessionRef(since, { dates: [] })(session).dates[0]
      assert.throws(() => date?.setTime(1), TypeError)
      assert.equal(date?.getTime(), 0)
      assert.deepEqual(sessionRef('cart', null)(session), { lines: [{ tea: 1 }] })
    },
    'any key and any value comes back as it was stored': async ({ store }) => {
      const odd = JSON.parse('{"__proto__": {"polluted": true}, "a": {"__proto__": 1}}') as Json
      const session = await stored(store, hardValues, { odd }, sessionSet('__proto__', 'a key'))
      const back = (await reload(session)).store
      assert.equal(back.size, Object.keys(hardValues).length + 2)
      for (const [key, value] of Object.entries(hardValues))
        assert.deepEqual(back.get(key), value, key.slice(0, 20))
      assert.deepEqual(back.get('odd'), odd)
      assert.equal(back.get('__proto__'), 'a key')
      assert.equal(({} as { polluted?: boolean }).polluted, undefined)
    },
  }),
  ...lawsOf(2, {
    'a request costs one of each, and an unchanged one writes nothing': async (subject) => {
      const { session, calls } = await countedSession(subject, { a: 1, b: 2 })
      await saveNow(await reload(session), { a: 2 }, sessionDel('b'))
      assert.deepEqual(calls, ['load', 'save', 'edit a', 'edit b'])
      calls.length = 0
      await saveNow(await reload(session), { a: 2 })
      await right(request(await reload(session), currentVisits))
      assert.deepEqual(calls, ['load', 'load'])
    },
    'a visitor who stored nothing has no row': async (subject) => {
      const { store, calls } = counted(subject.store)
      const visitor = pipe(buildSession(store), sessionSet('a', 1), sessionDel('a'))
      const saved = await saveNow(visitor)
      assert.deepEqual(calls, [])
      assert.ok(O.isNone(saved.expiration))
      assert.equal(await reloaded(visitor), undefined)
    },
    'a touch that is due costs one write': {
      lifetime: { idleMs: 60_000, touchFraction: 0.5 },
      check: async (subject) => {
        const { store, calls } = counted(subject.store)
        const session = await stored(store, { a: 1 })
        await subject.elapse(29_000)
        await saveNow(await reload(session))
        await subject.elapse(2_000)
        await saveNow(await reload(session))
        await saveNow(await reload(session))
        assert.deepEqual(calls, ['create', 'load', 'load', 'touch', 'load'])
      },
    },
  }),
  ...lawsOf(3, {
    '3 changed keys of 5,000 write 3 rows': async (subject) => {
      const names = Array.from({ length: 5_000 }, (_, index) => `key ${index}`)
      const rows = Object.fromEntries(names.map((name) => [name, { name }]))
      const { session, calls } = await countedSession(subject, rows)
      assert.equal(session.store.size, 5_000)
      await saveNow(session, { 'key 7': 1, 'key 4999': 2 }, sessionDel('key 0'))
      assert.deepEqual(calls.toSorted(), ['edit key 0', 'edit key 4999', 'edit key 7', 'save'])
      const values = await storedValues(session)
      assert.equal(Object.keys(values).length, 4_999)
      assert.deepEqual([values['key 7'], values['key 4999'], values['key 1']], [1, 2, { name: 'key 1' }])
    },
  }),
  ...lawsOf(5, {
    'n concurrent updates of one key are all applied': async ({ store }) => {
      const session = await stored(store, { n: 0 })
      const loaded = await several(20, () => reload(session))
      const saved = await Promise.all(loaded.map((mine) => saveNow(mine, add('n'))))
      assert.deepEqual(await storedValues(session), { n: 20 })
      const seen = saved.map((mine) => Number(sessionRef('n', 0)(mine)))
      assert.ok(new Set(seen).size > 0 && seen.every((n) => n >= 1 && n <= 20))
    },
    'an update is applied to the value at the save: changed, deleted or new': async ({ store }) => {
      const first = await stored(store, { changed: 1, deleted: 1, same: 1 })
      const updates = ['changed', 'deleted', 'same', 'new'].map((key) => add(key, 10))
      const mine = edited(await reload(first), ...updates)
      assert.deepEqual(mine.store.toObject(), { changed: 11, deleted: 11, same: 11, new: 10 })
      await saveNow(await reload(first), { changed: 2, new: 3 }, sessionDel('deleted'))
      const saved = await saveNow(mine)
      const expected = { changed: 12, deleted: 10, same: 11, new: 13 }
      assert.deepEqual(saved.store.toObject(), expected)
      assert.deepEqual(await storedValues(first), expected)
      await saveNow(saved, add('changed', 100))
      assert.equal((await storedValues(first))['changed'], 112)
    },
    'mixed edits of one key in one request compose in their order': async ({ store }) => {
      const session = await stored(store, { a: 1, b: 1, c: 1 })
      const hundred = sessionUpdate('b', (value) => (O.isSome(value) ? Number(value.value) + 100 : 0))
      const ofA = [{ a: 5 }, add('a'), sessionDel('a'), add('a', 7)]
      const ofB = [add('b'), add('b', 10), hundred]
      const mine = edited(await reload(session), ...ofA, ...ofB, add('c'), { c: 50 })
      await saveNow(await reload(session), { a: 1000, b: 1000, c: 1000 })
      assert.deepEqual((await saveNow(mine)).store.toObject(), { a: 7, b: 1111, c: 50 })
      assert.deepEqual(await storedValues(session), { a: 7, b: 1111, c: 50 })
    },
    'an update that throws fails the edit or the save, and writes nothing': async ({ store }) => {
      const session = await stored(store, { n: 1, m: 1 })
      const mine = new Error('too many')
      const below = (most: number) => (n: Json) => {
        if (Number(n) >= most) throw mine
        return Number(n) + 1
      }
      assert.throws(() => sessionUpdate('n', below(1), 0)(session), mine)
      const full = edited(await reload(session), { m: 2 }, sessionUpdate('n', below(2), 0))
      const notOne = sessionUpdate('n', (n) => (n === 1 ? 1 : Number.NaN), 0)
      const bad = edited(await reload(session), { m: 2 }, notOne)
      await saveNow(session, { n: 2 })
      await assert.rejects(saveSession(full), mine)
      await assertLeft('EncodeError', saveSession(bad))
      assert.deepEqual(await storedValues(session), { n: 2, m: 1 })
    },
    "a save gives the session as saved, with other requests' changes": async ({ store }) => {
      const session = await reload(await stored(store, { a: 1, b: 1 }))
      const other = await saveNow(session, { a: 2, c: 2 }, sessionDel('b'))
      const mine = await saveNow(session, { d: 3 })
      assert.deepEqual(mine.store.toObject(), { a: 2, c: 2, d: 3 })
      const [before, after] = [snapshotOf(other).revision, snapshotOf(mine).revision]
      assert.equal(after, before + 1)
      const refreshed = await right(refreshSession(add('a')(other)))
      assert.deepEqual([refreshed.store.toObject(), refreshed.edits.size], [{ a: 3, c: 2, d: 3 }, 1])
    },
    'a save or a creation that is sent twice is done once': async ({ store }) => {
      const [built, save] = [sessionSet('n', 1)(buildSession(store)), newIdempotencyKey()]
      const create = store.create(built.id, built.token.hash, save, built.store)
      assert.deepEqual(await right(create), await right(create))
      const mine = add('n')(await reload(built))
      const change = changeOf(mine, mine.edits)
      const first = await right(store.save(built.id, change))
      await saveNow(await reload(built), add('n', 10))
      const second = await right(store.save(built.id, change))
      assert.deepEqual([first.entries.toObject(), second.entries.toObject()], [{ n: 2 }, { n: 12 }])
      assert.deepEqual(await storedValues(built), { n: 12 })
    },
    'an update that was saved within its request is not applied again at its end': async (subject) => {
      const { session, calls } = await countedSession(subject, { n: 0 })
      const update = increment('n')
      const inner = onCurrent((now) => request(now, update))
      const body = [update, onCurrent(saveSession), update, inner, onCurrent(refreshSession)]
      await right(request(session, ...body, update))
      assert.deepEqual(await storedValues(session), { n: 4 })
      assert.equal(calls.filter((call) => call === 'save').length, 2)
    },
  }),
]
