// Errors that another copy of keyrow in this process has made: `instanceof` knows them by a brand and their tag.

import { shared } from './shared.js'

const BRAND = Symbol.for('keyrow:error')

interface ErrorClass {
  readonly prototype: object
}

interface Known {
  readonly prototypes: Set<object>
  readonly visitors: ((prototype: object) => void)[]
}

const known = shared('error-prototypes:1', (): Known => ({ prototypes: new Set(), visitors: [] }))

/** Has `instanceof` know the errors of a class, and of all that have its `family`, whichever copy made them. */
export const brandErrors = (
  base: ErrorClass,
  family: string,
  classes: Readonly<Record<string, ErrorClass>>,
): void => {
  Object.defineProperty(base.prototype, BRAND, { value: family })
  recognize(base, (error) => error[BRAND] === family)
  for (const [tag, type] of Object.entries(classes))
    recognize(type, (error) => error[BRAND] === family && error._tag === tag)
  known.prototypes.add(base.prototype)
  for (const visit of known.visitors) visit(base.prototype)
}

interface MaybeError {
  readonly [BRAND]?: unknown
  readonly _tag?: unknown
}

const recognize = (type: ErrorClass, isForeign: (error: MaybeError) => boolean): void => {
  Object.defineProperty(type, Symbol.hasInstance, {
    value(this: ErrorClass, value: unknown): boolean {
      if (typeof value !== 'object' || value === null) return false
      // A class that a program derives has instances of its own only.
      return Object.prototype.isPrototypeOf.call(this.prototype, value) || (this === type && isForeign(value))
    },
  })
}

/** Calls `visit` with the prototype of each family of errors, of all copies: those that are loaded, and later ones. */
export const eachErrorPrototype = (visit: (prototype: object) => void): void => {
  for (const prototype of known.prototypes) visit(prototype)
  known.visitors.push(visit)
}
