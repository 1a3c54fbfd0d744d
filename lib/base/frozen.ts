// Values that cannot be changed in place, in types and in fact: an attempt throws, it is never lost in
// silence.
import { isPlain } from './json.js'

/** `A`, read only all the way down. A `Date` keeps its type, though its setters throw. */
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

const refuseChange = (): never => {
  throw new TypeError('a value read from a session cannot be changed in place: set a new one')
}

const dateSetters = Object.getOwnPropertyNames(Date.prototype).filter((name) => name.startsWith('set'))
const collectionSetters = ['set', 'add', 'delete', 'clear']

const refused = { value: refuseChange, writable: false, enumerable: false, configurable: false }

// One by one, and with a descriptor that says all: that takes two thirds of the time of `defineProperties`.
const lock = (value: object, setters: readonly string[]): void => {
  if (!Object.isExtensible(value)) return
  for (const setter of setters) Object.defineProperty(value, setter, refused)
  Object.freeze(value)
}

/**
 * Freezes arrays and plain objects deeply, and locks the setters of `Date`, `Map` and `Set` within them.
 * Instances of other classes are their authors' concern; typed arrays cannot be frozen in JavaScript.
 */
export const deepFreeze = <A>(value: A): DeepReadonly<A> => {
  if (typeof value !== 'object' || value === null) return value as DeepReadonly<A>
  if (value instanceof Date) lock(value, dateSetters)
  else if (!deeplyFrozen.has(value)) {
    deeplyFrozen.add(value)
    freezeObject(value)
  }
  return value as DeepReadonly<A>
}

// Not `Object.isFrozen`, which says nothing of what is below.
const deeplyFrozen = new WeakSet<object>()

const freezeObject = (value: object): void => {
  if (Array.isArray(value) || isPlain(value)) {
    Object.freeze(value)
    for (const member of Object.values(value)) deepFreeze(member)
  } else if (value instanceof Map || value instanceof Set) {
    lock(value, collectionSetters)
    for (const [key, member] of value.entries()) {
      deepFreeze(key)
      deepFreeze(member)
    }
  }
}
