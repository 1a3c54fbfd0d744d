// Laws 1 to 3 and 5: the session as a value, the cost of reading and writing it, and the replay of updates.
import assert from 'node:assert/strict'
import { flow, pipe } from 'fp-ts/lib/function.js'
import * as O from 'fp-ts/lib/Option.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import * as t from 'io-ts'
import { sessionKey } from '../core/key.js'
import { newIdempotencyKey } from '../core/token.js'
import { sessionDel, sessionRef, sessionSet, sessionUpdate } from '../core/values.js'
import { buildSession, loadSession, refreshSession, saveSession, sessionToken } from '../request/verbs.js'
import { currentSession, updateCurrentSession, withSession } from '../request/with-session.js'
import {
  add,
  counted,
  currentVisits,
  type Law,
  lawsOf,
  left,
  reload,
  right,
  saveNow,
  several,
  snapshotOf,
  stored,
  storedValues,
  tagOf,
  withLifetime,
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

export const valueLaws: readonly Law[] = [
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
      const session = await reload(
        await stored(store, sessionSet('cart', { lines: [1, { tea: 2 }], aa: 0, b: null })),
      )
      assert.equal(sessionSet('cart', { b: null, lines: [1, { tea: 2 }], aa: 0 })(session), session)
      assert.equal(sessionDel('basket')(session), session)
      assert.notEqual(sessionSet('cart', { b: null, lines: [1, { tea: 3 }], aa: 0 })(session), session)
    },
    'a value that was read cannot be changed in place': async ({ store }) => {
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
    'any key and any value comes back as it was stored': async ({ store }) => {
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
  }),
  ...lawsOf(2, {
    'a request costs one of each, and an unchanged one writes nothing': async (subject) => {
      const { store, calls } = counted(subject.store)
      const token = sessionToken(await stored(store, sessionSet('a', 1), sessionSet('b', 2)))
      calls.length = 0
      const load = async () =>
        O.toNullable(await right(loadSession(store, token))) ?? assert.fail('not loaded')
      await saveNow(await load(), sessionSet('a', 2), sessionDel('b'))
      assert.deepEqual(calls, ['load', 'save', 'edit a', 'edit b'])
      calls.length = 0
      await saveNow(await load(), sessionSet('a', 2))
      await right(withSession(await load(), () => currentVisits))
      assert.deepEqual(calls, ['load', 'load'])
    },
    'a visitor who stored nothing has no row': async (subject) => {
      const { store, calls } = counted(subject.store)
      const visitor = pipe(buildSession(store), sessionSet('a', 1), sessionDel('a'))
      const saved = await saveNow(visitor)
      assert.deepEqual(calls, [])
      assert.ok(O.isNone(saved.expiration))
      assert.ok(O.isNone(await right(loadSession(store, sessionToken(visitor)))))
    },
    'a touch that is due costs one write': withLifetime(
      { idleMs: 60_000, touchFraction: 0.5 },
      async (subject) => {
        const { store, calls } = counted(subject.store)
        const session = await stored(store, sessionSet('a', 1))
        await subject.elapse(29_000)
        await saveNow(await reload(session))
        await subject.elapse(2_000)
        await saveNow(await reload(session))
        await saveNow(await reload(session))
        assert.deepEqual(calls, ['create', 'load', 'load', 'touch', 'load'])
      },
    ),
  }),
  ...lawsOf(3, {
    '3 changed keys of 5,000 write 3 rows': async (subject) => {
      const { store, calls } = counted(subject.store)
      const names = Array.from({ length: 5_000 }, (_, index) => `key ${String(index)}`)
      const session = await reload(await stored(store, ...names.map((name) => sessionSet(name, { name }))))
      assert.equal(session.store.size, 5_000)
      calls.length = 0
      await saveNow(session, sessionSet('key 7', 1), sessionSet('key 4999', 2), sessionDel('key 0'))
      assert.deepEqual(calls.toSorted(), ['edit key 0', 'edit key 4999', 'edit key 7', 'save'])
      const values = await storedValues(session)
      assert.equal(Object.keys(values).length, 4_999)
      assert.deepEqual([values['key 7'], values['key 4999'], values['key 1']], [1, 2, { name: 'key 1' }])
    },
  }),
  ...lawsOf(5, {
    'n concurrent updates of one key are all applied': async ({ store }) => {
      const session = await stored(store, sessionSet('n', 0))
      const loaded = await several(20, () => reload(session))
      const saved = await Promise.all(loaded.map((mine) => saveNow(add('n')(mine))))
      assert.deepEqual(await storedValues(session), { n: 20 })
      const seen = saved.map((mine) => Number(sessionRef('n', 0)(mine)))
      assert.ok(new Set(seen).size > 0 && seen.every((n) => n >= 1 && n <= 20))
    },
    'an update is applied to the value at the save: changed, deleted or new': async ({ store }) => {
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
      await saveNow(other)
      const saved = await saveNow(mine)
      const expected = { changed: 12, deleted: 10, same: 11, new: 13 }
      assert.deepEqual(saved.store.toObject(), expected)
      assert.deepEqual(await storedValues(first), expected)
      await saveNow(add('changed', 100)(saved))
      assert.equal((await storedValues(first))['changed'], 112)
    },
    'mixed edits of one key in one request compose in their order': async ({ store }) => {
      const session = await stored(store, sessionSet('a', 1), sessionSet('b', 1), sessionSet('c', 1))
      const edit = flow(
        flow(sessionSet('a', 5), add('a'), sessionDel('a'), add('a', 7)),
        flow(
          add('b'),
          add('b', 10),
          sessionUpdate(
            'b',
            O.match(
              () => 0,
              (value) => Number(value) + 100,
            ),
          ),
        ),
        flow(add('c'), sessionSet('c', 50)),
      )
      const mine = edit(await reload(session))
      await saveNow(
        await reload(session),
        sessionSet('a', 1000),
        sessionSet('b', 1000),
        sessionSet('c', 1000),
      )
      assert.deepEqual((await saveNow(mine)).store.toObject(), { a: 7, b: 1111, c: 50 })
      assert.deepEqual(await storedValues(session), { a: 7, b: 1111, c: 50 })
    },
    'an update that throws fails the edit or the save with its own error, and writes nothing': async ({
      store,
    }) => {
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
      await saveNow(sessionSet('n', 2)(session))
      await assert.rejects(saveSession(full), mine)
      assert.equal(tagOf(await left(saveSession(bad))), 'EncodeError')
      assert.deepEqual(await storedValues(session), { n: 2, m: 1 })
    },
  }),
  ...lawsOf(5, {
    "a save gives the session as saved, with other requests' changes": async ({ store }) => {
      const session = await reload(await stored(store, sessionSet('a', 1), sessionSet('b', 1)))
      const other = await saveNow(session, sessionSet('a', 2), sessionDel('b'), sessionSet('c', 2))
      const mine = await saveNow(sessionSet('d', 3)(session))
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
      const since = snapshotOf(mine)
      const change = { save: newIdempotencyKey(), edits: mine.edits, since, entries: mine.store }
      const first = await right(store.save(built.id, change))
      await saveNow(add('n', 10)(await reload(built)))
      const second = await right(store.save(built.id, change))
      assert.deepEqual([first.entries.toObject(), second.entries.toObject()], [{ n: 2 }, { n: 12 }])
      assert.deepEqual(await storedValues(built), { n: 12 })
    },
    'an update that was saved within its request is not applied again at its end': async (subject) => {
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
  }),
]
