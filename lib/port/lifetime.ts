// How long a session lives, and when moving its expiration is worth a write. All enforced by the store, on
// its own clock.

import { LONGEST_MS, type OwnLifetime } from '../session/own-lifetime.js'

export interface Lifetime {
  /** A session unused for this many milliseconds expires. Default: 30 minutes. */
  readonly idleMs: number
  /** A session this many milliseconds old expires, used or not. Default: 12 hours. */
  readonly absoluteMs: number
  /**
   * The expiration is moved by a request that stores nothing once it can move forward by this fraction of
   * `idleMs`; a request that stores something moves it anyway. From 0 (always) to 1. Default: 0.1.
   */
  readonly touchFraction: number
  /** For this many milliseconds after a rotation the old secret still opens the session. Default: 0. */
  readonly rotationGraceMs: number
}

const minute = 60_000

const defaults: Lifetime = {
  idleMs: 30 * minute,
  absoluteMs: 12 * 60 * minute,
  touchFraction: 0.1,
  rotationGraceMs: 0,
}

/** The lifetime with defaults filled in; throws a `RangeError` for a figure that makes no sense. */
export const lifetimeOf = (options: Partial<Lifetime>): Lifetime => {
  const lifetime: Lifetime = {
    idleMs: options.idleMs ?? defaults.idleMs,
    absoluteMs: options.absoluteMs ?? Math.max(defaults.absoluteMs, options.idleMs ?? 0),
    touchFraction: options.touchFraction ?? defaults.touchFraction,
    rotationGraceMs: options.rotationGraceMs ?? defaults.rotationGraceMs,
  }
  within('idleMs', lifetime.idleMs, 1, LONGEST_MS)
  within('absoluteMs', lifetime.absoluteMs, 1, LONGEST_MS)
  within('touchFraction', lifetime.touchFraction, 0, 1)
  within('rotationGraceMs', lifetime.rotationGraceMs, 0, LONGEST_MS)
  return Object.freeze(lifetime)
}

/** The same figures; throws a `RangeError` for one that makes no sense. */
export const checkedLifetime = ({ idleMs, absoluteMs }: OwnLifetime): OwnLifetime => {
  within('lifetime.idleMs', idleMs, 1, LONGEST_MS)
  within('lifetime.absoluteMs', absoluteMs, 1, LONGEST_MS)
  return { idleMs, absoluteMs }
}

// Not every caller is type-checked: a text of digits would be compared like a number, and added like a text.
const within = (name: string, figure: unknown, least: number, most: number): void => {
  if (!(typeof figure === 'number' && figure >= least && figure <= most))
    throw new RangeError(`${name} is ${String(figure)}; it must be from ${String(least)} to ${String(most)}`)
}
