// Tests session values without a store: allowed values, codecs, and the laws of edits.

import { inspect, isDeepStrictEqual } from 'node:util'
import fc from 'fast-check'
import * as E from 'fp-ts/lib/Either.js'
import { flow } from 'fp-ts/lib/function.js'
import * as O from 'fp-ts/lib/Option.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import { Map as HashMap } from 'immutable'
import * as D from 'io-ts'
import tap from 'tap'
import { applyEdits, composeEdits, type Edits, type Entries, noEdits, sinceEdits } from '../lib/core/edits.js'
import { DecodeError, DriverError, EncodeError } from '../lib/core/errors.js'
import { sessionKey } from '../lib/core/key.js'
import { emptySnapshot, storedSession } from '../lib/core/session.js'
import { sessionDel, sessionRef, sessionRefStrict, sessionSet, sessionUpdate } from '../lib/core/values.js'
import {
  buildSession,
  loadSession,
  saveSession,
  sessionFor,
  sessionPrincipal,
  sessionToken,
  signedInWithin,
  signIn,
  withSession,
} from '../lib/index.js'
import type { Session } from '../lib/store/contract.js'
import { memoryStore } from '../lib/store/memory.js'
import { right } from './support/stores.js'

const empty = buildSession(memoryStore())
const setAny = (key: string, value: unknown) => sessionSet(key, value as never)

const refusal = (act: () => unknown): EncodeError => {
  try {
    act()
  } catch (error) {
    if (error instanceof EncodeError) return error
    throw error
  }
  throw new Error('it was not refused')
}

const nested = (depth: number): unknown => (depth === 0 ? 'deep' : [nested(depth - 1)])

tap.test('law 1, pure: what is not JSON is refused at the set, with the path to it', (t) => {
  const cycle: { self?: unknown } = {}
  cycle.self = cycle
  const cases: readonly [string, unknown, string][] = [
    ['a function', { on: { click: () => 1 } }, 'on.click'],
    ['a symbol', [Symbol('s')], '0'],
    ['a BigInt', { n: 1n }, 'n'],
    ['NaN', [1, Number.NaN], '1'],
    ['infinity', { a: [Number.POSITIVE_INFINITY] }, 'a.0'],
    ['undefined', undefined, ''],
    ['undefined in an array', [1, undefined], '1'],
    ['a hole in an array', new Array(2), '0'],
    ['a cycle', { a: [cycle] }, 'a.0.self'],
    ['a Date', { at: new Date(0) }, 'at'],
    ['a Map', [new Map()], '0'],
    ['an immutable Map', HashMap({ a: 1 }), ''],
    ['an instance', { e: new Error('no') }, 'e'],
    ['a Buffer', Buffer.from('x'), ''],
    ['U+0000 in a text', { text: 'a\u0000b' }, 'text'],
    ['U+0000 in a name', { 'a\u0000b': 1 }, ''],
    ['a lone surrogate', ['\ud800'], '0'],
    ['a symbol as a name', { [Symbol('s')]: 1 }, ''],
    ['too deep', nested(501), Array(500).fill('0').join('.')],
    ['too long', 'x'.repeat(16 * 1024 * 1024 + 1), ''],
    ['too long in all', Array(20).fill('x'.repeat(1024 * 1024)), '15'],
  ]
  for (const [name, value, path] of cases) {
    const error = refusal(() => setAny('key', value)(empty))
    t.equal(error._tag, 'EncodeError', name)
    t.equal(error.key, 'key', name)
    t.ok(error.path.join('.').startsWith(path), `${name}: ${error.message}`)
  }
  t.end()
})

tap.test('law 1, pure: a name that cannot be stored is refused at the set, and reads as absent', (t) => {
  for (const name of ['a\u0000', '\udfff', 'é'.repeat(513), 'x'.repeat(1_000_000)]) {
    t.equal(refusal(() => setAny(name, 1)(empty))._tag, 'EncodeError')
    t.equal(refusal(() => sessionKey(name, D.number))._tag, 'EncodeError')
    t.strictSame(sessionRef(name)(empty), O.none)
    t.equal(sessionDel(name)(empty), empty)
  }
  t.equal(refusal(() => sessionSet(7 as never, 1 as never)(empty))._tag, 'EncodeError')
  t.end()
})

tap.test('law 1, pure: members that are undefined are left out, and -0 is 0, as in JSON', (t) => {
  const session = setAny('key', { a: undefined, b: -0, c: Object.create(null) as unknown })(empty)
  t.equal(JSON.stringify(session.store.get('key')), '{"b":0,"c":{}}')
  t.ok(Object.is((session.store.get('key') as { b: number }).b, 0))
  t.end()
})

tap.test('law 1, pure: the value that was set may change afterwards; what is stored does not', (t) => {
  const mine = { lines: ['tea'] }
  const session = sessionSet('cart', mine)(empty)
  mine.lines.push('milk')
  t.strictSame(sessionRef('cart')(session), O.some({ lines: ['tea'] }))
  t.end()
})

const Day = new D.Type<Date, string>(
  'Day',
  (value): value is Date => value instanceof Date,
  (input, context) =>
    typeof input === 'string' && !Number.isNaN(Date.parse(input))
      ? D.success(new Date(input))
      : D.failure(input, context),
  (day) => day.toISOString(),
)

interface PositiveBrand {
  readonly Positive: unique symbol
}
const Positive = D.brand(D.number, (n): n is D.Branded<number, PositiveBrand> => n > 0, 'Positive')

tap.test('typed keys: a Date or a branded type goes out as JSON and comes back as itself', (t) => {
  const seen = sessionKey('seen', D.type({ first: Day, days: D.array(Day) }))
  const session = sessionSet(seen, { first: new Date(1), days: [new Date(2)] })(empty)
  t.strictSame(session.store.get('seen'), {
    first: '1970-01-01T00:00:00.001Z',
    days: ['1970-01-01T00:00:00.002Z'],
  })
  const back = sessionRef(seen, null)(session)
  t.ok(back?.first instanceof Date)
  t.equal(back?.days[0]?.getTime(), 2)
  t.equal(sessionSet(seen, back ?? { first: new Date(0), days: [] })(session), session)
  const count = sessionKey('count', Positive)
  t.equal(
    refusal(() => sessionSet(count, -1 as never)(empty)).message,
    'cannot store "count": the value is no Positive',
  )
  t.end()
})

tap.test(
  'typed keys: what a codec or a getter throws, and a name put in by a spread, are EncodeErrors too',
  (t) => {
    const seen = sessionKey('seen', Day)
    t.match(refusal(() => sessionSet(seen, new Date(Number.NaN))(empty)).message, /Invalid time value/)
    t.match(refusal(() => sessionSet({ ...seen, name: 'a\u0000b' }, new Date(0))(empty)).reason, /U\+0000/)
    const getter = {
      get bad(): number {
        throw new Error('no')
      },
    }
    t.equal(refusal(() => setAny('key', getter)(empty))._tag, 'EncodeError')
    t.equal(
      refusal(() => setAny('key', Object.create(Object.create(null) as object))(empty))._tag,
      'EncodeError',
    )
    t.ok(refusal(() => setAny('key', { ['x'.repeat(100_000)]: 1n })(empty)).message.length < 1_000)
    t.equal(
      refusal(() => setAny('key', Array(60_000).fill(1e308))(empty))._tag,
      'EncodeError',
      'its digits count',
    )
    t.end()
  },
)

tap.test('law 1, pure: a value that a codec froze in part is frozen whole', (t) => {
  const Shallow = new D.Type<{ list: string[] }>(
    'Shallow',
    (value): value is { list: string[] } => typeof value === 'object',
    () => D.success(Object.freeze({ list: ['a'] })),
    (value) => value,
  )
  const key = sessionKey('key', Shallow)
  const read = sessionRef(key, { list: [] })(sessionSet(key, { list: ['a'] })(empty)) as { list: string[] }
  t.throws(() => read.list.push('b'), TypeError)
  t.end()
})

tap.test('typed keys: a Map or Set that a codec makes is locked too', (t) => {
  const tags = sessionKey(
    'tags',
    new D.Type<Set<string>, string[]>(
      'Tags',
      (value): value is Set<string> => value instanceof Set,
      (input) => E.right(new Set(input as string[])),
      (set) => [...set],
    ),
  )
  const read = sessionRef(tags, null)(sessionSet(tags, new Set(['a']))(empty)) as Set<string>
  t.throws(() => read.add('b'), TypeError)
  t.throws(() => read.clear(), TypeError)
  t.strictSame([...read], ['a'])
  t.end()
})

tap.test(
  'typed keys: a stored value that no longer fits is absent when read, a DecodeError when read strictly',
  (t) => {
    const cart = sessionKey('cart', D.array(D.type({ sku: D.string, count: D.number })))
    const session = setAny('cart', [{ sku: 'tea', count: 'two' }])(empty)
    t.strictSame(sessionRef(cart)(session), O.none)
    t.strictSame(sessionRef(cart, [])(session), [])
    const strict = sessionRefStrict(cart)(session)
    t.ok(E.isLeft(strict) && strict.left instanceof DecodeError)
    t.match(E.isLeft(strict) ? strict.left.problems : [], [/expected number at 0\.count/])
    t.notMatch(String(E.isLeft(strict) && strict.left.message), /two/, 'the message does not show the value')
    t.strictSame(session.store.get('cart'), [{ sku: 'tea', count: 'two' }], 'the value stays')
    t.strictSame(sessionRefStrict(cart)(empty), E.right(O.none))
    t.strictSame(sessionRefStrict(cart)(sessionSet(cart, [])(session)), E.right(O.some([])))
    t.end()
  },
)

tap.test('typed keys: a codec that throws is a DecodeError, never a crash', (t) => {
  const broken = new D.Type<number>(
    'Broken',
    (value): value is number => typeof value === 'number',
    () => {
      throw new Error('no')
    },
    (value) => value,
  )
  const session = setAny('key', 1)(empty)
  t.strictSame(sessionRef(sessionKey('key', broken), 7)(session), 7)
  t.ok(E.isLeft(sessionRefStrict(sessionKey('key', broken))(session)))
  t.end()
})

tap.test(
  'law 7: a session prints its id and the names of its keys, never its secret, its values or its store',
  (t) => {
    const session = setAny('__proto__', 1)(setAny('cart', ['a private thing'])(empty))
    t.equal(
      inspect(session),
      `Session { id: '${session.id}', keys: [ 'cart', '__proto__' ], edits: [ 'cart', '__proto__' ] }`,
    )
    t.equal(inspect({ deep: { er: { session } } }, { depth: 1 }).length < 300, true)
    const large = Array.from({ length: 500 }, (_, n) => setAny(`key ${n}`, n)).reduce(
      (before, set) => set(before),
      empty,
    )
    t.equal(inspect(large), `Session { id: '${large.id}', keys: 500, edits: 500 }`)
    t.end()
  },
)

// There are few names, so that several edits have the same key.
const names = fc.constantFrom('a', 'b', '__proto__', '')
const values = fc.jsonValue({ maxDepth: 3 }).filter((value) => isStorable(value))
const isStorable = (value: unknown): boolean => {
  try {
    setAny('key', value)(empty)
    return true
  } catch {
    return false
  }
}

type Step = (session: Session) => Session
const steps: fc.Arbitrary<Step[]> = fc.array(
  fc.oneof(
    fc.tuple(names, values).map(([name, value]): Step => setAny(name, value)),
    names.map((name): Step => sessionDel(name)),
    fc.tuple(names, fc.nat(9)).map(([name, n]): Step => sessionUpdate(name, (value) => [value, n], null)),
  ),
)

/** Applies the steps to a stored session with the values of `before`. */
const onTop = (before: Session, after: readonly Step[]): Session => {
  const snapshot = { ...emptySnapshot, revision: 1, entries: before.store }
  return after.reduce(
    (session, step) => step(session),
    storedSession(before.handle, before.token, snapshot, noEdits),
  )
}

tap.test(
  'law 1, pure: the JSON of a session and of its store has every key and value, and no handle or secret',
  (t) => {
    const values = { a: 1, ['__proto__']: { ['__proto__']: [2] }, constructor: 3, toJSON: 4 }
    const edited = Object.entries(values).reduce(
      (session, [key, value]) => setAny(key, value)(session),
      empty,
    )
    const stored = onTop(edited, [])
    for (const session of [edited, stored, onTop(edited, [setAny('b', 5), sessionDel('b')])]) {
      const entries = Object.entries(JSON.parse(JSON.stringify(session.store)) as object)
      t.strictSame(entries, Object.entries(values))
      const { id, expiration, store } = JSON.parse(JSON.stringify(session)) as Record<string, unknown>
      t.strictSame(id, session.id)
      t.strictSame(expiration, O.toNullable(session.expiration))
      t.strictSame(Object.entries(store as object), Object.entries(values))
      t.notMatch(JSON.stringify(session), session.token.reveal().split('.')[1] ?? '')
    }
    t.end()
  },
)

const equal = (one: Entries, two: Entries): boolean => isDeepStrictEqual(new Map(one), new Map(two))

tap.test('law 1, pure: the laws of ref, set and del', (t) => {
  const run = (all: readonly Step[]): Session => all.reduce((session, step) => step(session), empty)
  const check = <P extends unknown[]>(
    name: string,
    arbitraries: { [K in keyof P]: fc.Arbitrary<P[K]> },
    law: (...params: P) => boolean,
  ) => {
    t.doesNotThrow(
      () =>
        fc.assert(fc.property(...(arbitraries as [fc.Arbitrary<unknown>]), law as never), { numRuns: 300 }),
      name,
    )
  }
  const sees = (session: Session, key: string, value: unknown): boolean =>
    isDeepStrictEqual(sessionRef(key, undefined)(session), JSON.parse(JSON.stringify(value)))
  check<[Step[], string, unknown]>(
    'ref after set sees the value',
    [steps, names, values],
    (all, key, value) => sees(setAny(key, value)(run(all)), key, value),
  )
  check<[Step[], string]>('ref after del sees nothing', [steps, names], (all, key) =>
    O.isNone(sessionRef(key)(sessionDel(key)(run(all)))),
  )
  check<[Step[], string, unknown]>('a set twice is a set once', [steps, names, values], (all, key, value) => {
    const once = setAny(key, value)(run(all))
    return setAny(key, value)(once) === once
  })
  check<[Step[], string, unknown, unknown]>(
    'of two sets the later wins',
    [steps, names, values, values],
    (all, key, one, two) => sees(run([...all, setAny(key, one), setAny(key, two)]), key, two),
  )
  check<[Step[], unknown, unknown]>('different keys commute', [steps, values, values], (all, one, two) => {
    const [a, b] = [setAny('a', one), setAny('b', two)]
    return equal(flow(a, b)(run(all)).store, flow(b, a)(run(all)).store)
  })
  check<[Step[], Step[]]>(
    'the delta replayed on the snapshot is what the session shows',
    [steps, steps],
    (before, after) => {
      const session = onTop(run(before), after)
      return equal(applyEdits(session.edits, run(before).store), session.store)
    },
  )
  t.end()
})

tap.test('law 5, the algebra of edits: compose, replay, and what was done since', (t) => {
  const editsOf = (before: readonly Step[], all: readonly Step[]): Edits =>
    onTop(
      before.reduce((session, step) => step(session), empty),
      all,
    ).edits
  const law = (name: string, holds: (base: Entries, one: Edits, two: Edits) => boolean) => {
    const arbitrary = fc.tuple(steps, steps, steps).map(([base, one, two]) => {
      const before = base.reduce((session, step) => step(session), empty)
      return [before.store, editsOf(base, one), editsOf(base, two)] as const
    })
    t.doesNotThrow(
      () =>
        fc.assert(
          fc.property(arbitrary, (all) => holds(...all)),
          { numRuns: 500 },
        ),
      name,
    )
  }
  law('applying a composition is applying the one, then the other, on any base', (base, one, two) =>
    equal(applyEdits(composeEdits(one, two), base), applyEdits(two, applyEdits(one, base))),
  )
  law(
    'nothing is neutral',
    (_, one) => composeEdits(one, noEdits) === one && composeEdits(noEdits, one).equals(one),
  )
  law('what was done since, on top of what was there, is all that was done', (base, one, two) => {
    const later = composeEdits(one, two)
    return equal(applyEdits(composeEdits(one, sinceEdits(one, later)), base), applyEdits(later, base))
  })
  law('nothing was done since now', (_, one) => sinceEdits(one, one).isEmpty())
  law('composition does not care for brackets', (base, one, two) => {
    const [left, right] = [
      composeEdits(composeEdits(one, two), one),
      composeEdits(one, composeEdits(two, one)),
    ]
    return equal(applyEdits(left, base), applyEdits(right, base))
  })
  t.end()
})

tap.test('a sign-in is recent for the given time only', async (t) => {
  const store = memoryStore({ clock: () => 0 })
  const session = await right(withSession(buildSession(store), () => signIn('ada')))
  const { now } = Date
  t.teardown(() => {
    Date.now = now
  })
  const isRecent = (one: Session) => signedInWithin(60_000)(one)
  t.ok(isRecent(session))
  Date.now = () => now() + 59_000
  t.ok(isRecent(session))
  Date.now = () => now() + 61_000
  t.notOk(isRecent(session))
  const loaded = await right(loadSession(store, sessionToken(session)))
  const again = await right(withSession(O.toNullable(loaded) ?? session, () => signIn('ada')))
  t.ok(isRecent(again), 'a second sign-in counts')
  Date.now = () => now() - 61_000
  t.ok(isRecent(again), 'the clock of another process may be slow')
  t.notOk(isRecent(sessionDel(sessionPrincipal)(again)), 'without a principal nobody is signed in')
  const unknown = sessionFor('ada')(buildSession(memoryStore()))
  t.notOk(
    isRecent(unknown) || signedInWithin(Number.POSITIVE_INFINITY)(unknown),
    'only signIn records a time',
  )
  t.notOk(isRecent(sessionFor('bob')(again)), 'another principal has not signed in')
})

tap.test('a sign-in that cannot end the old session changes nothing', async (t) => {
  const memory = memoryStore()
  const failing = { ...memory, destroy: () => TE.left(new DriverError('it is down', { retryable: true })) }
  const first = await right(saveSession(sessionSet('a', 1)(buildSession(failing))))
  const visit = withSession(first, () => TE.swap(signIn('ada', { keep: ['a'] })))
  t.match(await right(visit), { _tag: 'DriverError' })
  const loaded = await right(loadSession(memory, sessionToken(first)))
  t.strictSame(O.toNullable(loaded)?.store.toObject(), { a: 1 })
})
