// Defines JSON as a type. Any other value is rejected as soon as a program sets it, not only at the save. The check
// includes the limits of PostgreSQL's types `text` and `jsonb`. A session keeps a deeply frozen copy of each value.
import { EncodeError } from './errors.js'

/** Any JSON value, deeply read-only. */
export type Json = null | boolean | number | string | readonly Json[] | { readonly [name: string]: Json }

// The maximum number of characters in the JSON of a value, and the maximum depth of its nesting.
const MAX_JSON_SIZE = 16 * 1024 * 1024
const MAX_JSON_DEPTH = 500

/** Returns the reason why PostgreSQL cannot store this text, or `undefined` if it can. */
export const textProblem = (text: string): string | undefined => {
  if (text.includes('\u0000')) return 'U+0000 cannot be stored by PostgreSQL'
  return text.isWellFormed() ? undefined : 'a lone surrogate is not valid Unicode'
}

/** Estimates the number of characters in the JSON text of `value`. */
export const jsonSize = (value: Json): number => {
  if (typeof value === 'string') return value.length + 2
  if (typeof value !== 'object' || value === null) return 8
  return Array.isArray(value)
    ? (value as readonly Json[]).reduce<number>((size, item) => size + jsonSize(item) + 8, 16)
    : Object.entries(value).reduce((size, [name, item]) => size + name.length + jsonSize(item) + 16, 32)
}

interface Walk {
  readonly key: string
  readonly path: string[]
  readonly above: Set<object>
  size: number
}

/**
 * Returns a deeply frozen JSON copy of `value`. As in `JSON.stringify`, `undefined` members are left out and -0 becomes
 * 0.
 *
 * @throws `EncodeError`, with `key` and the path, for functions, symbols, BigInt, NaN, infinities, `undefined` in
 * arrays, cycles, class instances, U+0000 and lone surrogates.
 */
export const toJson = (key: string, value: unknown): Json =>
  copy({ key, path: [], above: new Set(), size: 0 }, value)

const reject = (walk: Walk, reason: string): never => {
  throw new EncodeError(walk.key, [...walk.path], reason)
}

const grow = (walk: Walk, by: number): void => {
  walk.size += by
  if (walk.size > MAX_JSON_SIZE)
    reject(walk, `the value is longer than ${String(MAX_JSON_SIZE)} characters of JSON`)
}

const copy = (walk: Walk, value: unknown): Json => {
  grow(walk, 2)
  if (value === null || typeof value === 'boolean') return value
  if (typeof value === 'number') return copyNumber(walk, value)
  if (typeof value === 'string') return copyText(walk, value)
  if (typeof value === 'object') return copyObject(walk, value)
  return reject(walk, value === undefined ? 'undefined is not JSON' : `a ${typeof value} is not JSON`)
}

const copyNumber = (walk: Walk, value: number): number => {
  if (!Number.isFinite(value)) reject(walk, `${String(value)} is not JSON`)
  // PostgreSQL writes a number of `jsonb` with all its digits, for example 1e308 with 309 digits.
  grow(walk, value === 0 ? 1 : 20 + Math.abs(Math.log10(Math.abs(value))))
  return value === 0 ? 0 : value
}

const copyText = (walk: Walk, value: string): string => {
  grow(walk, value.length + 5 * (value.match(CONTROLS)?.length ?? 0))
  const problem = textProblem(value)
  return problem === undefined ? value : reject(walk, problem)
}

// JSON writes each of these control characters with up to six characters, such as \u0001.
// biome-ignore lint/suspicious/noControlCharactersInRegex: the pattern finds control characters
const CONTROLS = /[\u0001-\u001f]/g

const copyObject = (walk: Walk, value: object): Json => {
  if (walk.above.has(value)) reject(walk, 'a cycle is not JSON')
  if (walk.above.size >= MAX_JSON_DEPTH) reject(walk, `deeper than ${String(MAX_JSON_DEPTH)} levels`)
  walk.above.add(value)
  const copied = Array.isArray(value)
    ? // `Array.from` visits the holes of an array as `undefined`, and `map` would skip them.
      Array.from(value, (item, index) => below(walk, String(index), item))
    : copyMembers(walk, value)
  walk.above.delete(value)
  return Object.freeze(copied)
}

const copyMembers = (walk: Walk, value: object): { [name: string]: Json } => {
  if (!isPlainObject(value)) {
    const made: unknown = Reflect.get(value, 'constructor')
    const className = typeof made === 'function' ? made.name : 'value without a class'
    reject(walk, `a ${className} is not JSON: give its key a codec`)
  }
  if (Object.getOwnPropertySymbols(value).length > 0) reject(walk, 'a symbol cannot name a member in JSON')
  const members = Object.entries(value as Record<string, unknown>)
    .filter(([, member]) => member !== undefined)
    .map(([name, member]) => [copyText(walk, name), below(walk, name, member)] as const)
  // `Object.fromEntries` defines each member and does not assign it, so a member `__proto__` is kept.
  return Object.fromEntries(members)
}

const below = (walk: Walk, name: string, value: unknown): Json => {
  walk.path.push(name)
  const copied = copy(walk, value)
  walk.path.pop()
  return copied
}

/** Whether the value is a plain object, even of another realm, or an object without a prototype. */
export const isPlainObject = (value: object): boolean => {
  const prototype = Object.getPrototypeOf(value) as object | null
  if (prototype === null) return true
  return Object.getPrototypeOf(prototype) === null && Object.hasOwn(prototype, 'isPrototypeOf')
}

/** The deeply read-only form of `A`. A `Date` keeps its type, but its setters throw. */
export type DeepReadonly<A> = unknown extends A
  ? A
  : A extends string | number | boolean | bigint | symbol | null | undefined | Date
    ? A
    : A extends (...args: never[]) => unknown
      ? A
      : A extends ReadonlyMap<infer K, infer V>
        ? ReadonlyMap<DeepReadonly<K>, DeepReadonly<V>>
        : A extends ReadonlySet<infer V>
          ? ReadonlySet<DeepReadonly<V>>
          : { readonly [K in keyof A]: DeepReadonly<A[K]> }

const rejectChange = (): never => {
  throw new TypeError('a value read from a session cannot be changed in place: set a new one')
}

const setterError = { value: rejectChange, writable: false, enumerable: false, configurable: false }

const dateSetters = Object.getOwnPropertyNames(Date.prototype).filter((name) => name.startsWith('set'))
const collectionSetters = ['set', 'add', 'delete', 'clear']

// Calls of `defineProperty` with a complete descriptor take two thirds of the time of one `defineProperties`.
const lock = (value: object, setters: readonly string[]): void => {
  if (!Object.isExtensible(value)) return
  for (const setter of setters) Object.defineProperty(value, setter, setterError)
  Object.freeze(value)
}

// Freezes arrays and plain objects deeply. The setters of a `Date`, `Map` or `Set`, even of a nested one, then throw.
// Instances of other classes stay as they are, for example typed arrays, which JavaScript cannot freeze.
export const deepFreeze = <A>(value: A): DeepReadonly<A> => {
  if (typeof value !== 'object' || value === null) return value as DeepReadonly<A>
  if (value instanceof Date) lock(value, dateSetters)
  if (deeplyFrozen.has(value)) return value as DeepReadonly<A>
  deeplyFrozen.add(value)
  if (Array.isArray(value) || isPlainObject(value)) {
    Object.freeze(value)
    for (const member of Object.values(value)) deepFreeze(member)
  } else if (value instanceof Map || value instanceof Set) {
    lock(value, collectionSetters)
    for (const member of [...value.entries()].flat()) deepFreeze(member)
  }
  return value as DeepReadonly<A>
}

// The objects that `deepFreeze` has visited. `Object.isFrozen` would not check nested values.
const deeplyFrozen = new WeakSet<object>()
