// Laws 1 to 3: the session as a value, and what reading and writing it cost.

import assert from 'node:assert/strict'
import { pipe } from 'fp-ts/lib/function.js'
import * as O from 'fp-ts/lib/Option.js'
import * as t from 'io-ts'
import { withSession } from '../current/current-session.js'
import { buildSession, loadSession, saveSession, sessionToken } from '../current/verbs.js'
import { sessionKey } from '../session/key.js'
import { sessionDel, sessionRef, sessionSet } from '../session/values.js'
import { currentVisits } from './bodies.js'
import { counted, type Law, reload, right, stored, storedValues } from './subject.js'

const IsoDate = new t.Type<Date, string>(
  'Date',
  (value): value is Date => value instanceof Date,
  (input, context) => {
    const date = new Date(String(input))
    return Number.isNaN(date.getTime()) ? t.failure(input, context) : t.success(date)
  },
  (date) => date.toISOString(),
)

/** Values and names that a careless store would bend, break or lose. */
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

export const valueLaws: readonly Law[] = [
  {
    law: 1,
    name: 'pure: editing does no I/O and changes no session that is there already',
    check: async (subject) => {
      const { store, calls } = counted(subject.store)
      const before = pipe(buildSession(store), sessionSet('a', 1))
      const after = pipe(before, sessionSet('b', 2), sessionDel('a'))
      assert.deepEqual([before.store.toObject(), after.store.toObject()], [{ a: 1 }, { b: 2 }])
      assert.deepEqual(calls, [])
      await Promise.resolve()
    },
  },
  {
    law: 1,
    name: 'pure: a set to an equal value, and a delete of nothing, give the same session',
    check: async ({ store }) => {
      const session = await reload(
        await stored(store, sessionSet('cart', { lines: [1, { tea: 2 }], aa: 0, b: null })),
      )
      assert.equal(sessionSet('cart', { b: null, lines: [1, { tea: 2 }], aa: 0 })(session), session)
      assert.equal(sessionDel('basket')(session), session)
      assert.notEqual(sessionSet('cart', { b: null, lines: [1, { tea: 3 }], aa: 0 })(session), session)
    },
  },
  {
    law: 1,
    name: 'pure: a value that was read cannot be changed in place',
    check: async ({ store }) => {
      const since = sessionKey('since', t.type({ dates: t.array(IsoDate) }))
      const session = await reload(
        await stored(
          store,
          sessionSet('cart', { lines: [{ tea: 1 }] }),
          sessionSet(since, { dates: [new Date(0)] }),
        ),
      )
      const cart = sessionRef('cart', null)(session) as { lines: { tea: number }[] }
      assert.throws(() => cart.lines.push({ tea: 2 }), TypeError)
      assert.throws(() => Object.assign(cart.lines[0] ?? {}, { tea: 2 }), TypeError)
      const date = sessionRef(since, { dates: [] })(session).dates[0]
      assert.throws(() => date?.setTime(1), TypeError)
      assert.equal(date?.getTime(), 0)
      assert.deepEqual(sessionRef('cart', null)(session), { lines: [{ tea: 1 }] })
    },
  },
  {
    law: 1,
    name: 'pure: what is stored comes back as it was, whatever its names and values',
    check: async ({ store }) => {
      const sets = Object.entries(hardValues).map(([key, value]) => sessionSet(key, value))
      const odd: unknown = JSON.parse('{"__proto__": {"polluted": true}, "a": {"__proto__": 1}}')
      const session = await stored(
        store,
        ...sets,
        sessionSet('odd', odd as never),
        sessionSet('__proto__', 'a key'),
      )
      const back = (await reload(session)).store
      assert.equal(back.size, Object.keys(hardValues).length + 2)
      for (const [key, value] of Object.entries(hardValues))
        assert.deepEqual(back.get(key), value, key.slice(0, 20))
      assert.deepEqual(back.get('odd'), odd)
      assert.equal(back.get('__proto__'), 'a key')
      assert.equal(({} as { polluted?: boolean }).polluted, undefined)
    },
  },
  {
    law: 2,
    name: 'one load, one save: a request costs one of each, and an unchanged one writes nothing',
    check: async (subject) => {
      const { store, calls } = counted(subject.store)
      const token = sessionToken(await stored(store, sessionSet('a', 1), sessionSet('b', 2)))
      calls.length = 0
      const load = async () =>
        O.toNullable(await right(loadSession(store, token))) ?? assert.fail('not loaded')
      await right(saveSession(pipe(await load(), sessionSet('a', 2), sessionDel('b'))))
      assert.deepEqual(calls, ['load', 'save', 'edit a', 'edit b'])
      calls.length = 0
      await right(saveSession(pipe(await load(), sessionSet('a', 2))))
      await right(withSession(await load(), () => currentVisits))
      assert.deepEqual(calls, ['load', 'load'])
    },
  },
  {
    law: 2,
    name: 'one load, one save: a visitor who stored nothing has no row',
    check: async (subject) => {
      const { store, calls } = counted(subject.store)
      const visitor = pipe(buildSession(store), sessionSet('a', 1), sessionDel('a'))
      const saved = await right(saveSession(visitor))
      assert.deepEqual(calls, [])
      assert.ok(O.isNone(saved.expiration))
      assert.ok(O.isNone(await right(loadSession(store, sessionToken(visitor)))))
    },
  },
  {
    law: 2,
    name: 'one load, one save: an expiration that is due is moved by one write',
    lifetime: { idleMs: 60_000, touchFraction: 0.5 },
    check: async (subject) => {
      const { store, calls } = counted(subject.store)
      const session = await stored(store, sessionSet('a', 1))
      await subject.elapse(29_000)
      await right(saveSession(await reload(session)))
      await subject.elapse(2_000)
      await right(saveSession(await reload(session)))
      await right(saveSession(await reload(session)))
      assert.deepEqual(calls, ['create', 'load', 'load', 'touch', 'load'])
    },
  },
  {
    law: 3,
    name: 'cost follows the change: of 5,000 keys the 3 that changed are written',
    check: async (subject) => {
      const { store, calls } = counted(subject.store)
      const names = Array.from({ length: 5_000 }, (_, index) => `key ${String(index)}`)
      const session = await reload(await stored(store, ...names.map((name) => sessionSet(name, { name }))))
      assert.equal(session.store.size, 5_000)
      calls.length = 0
      await right(
        saveSession(pipe(session, sessionSet('key 7', 1), sessionSet('key 4999', 2), sessionDel('key 0'))),
      )
      assert.deepEqual(calls.toSorted(), ['edit key 0', 'edit key 4999', 'edit key 7', 'save'])
      const values = await storedValues(session)
      assert.equal(Object.keys(values).length, 4_999)
      assert.deepEqual([values['key 7'], values['key 4999'], values['key 1']], [1, 2, { name: 'key 1' }])
    },
  },
]
