// Shares values among the copies of keyrow in one process. A bundler or a development server may load two copies.
import timers from 'node:timers'

const KEY = Symbol.for('keyrow:shared')

/**
 * Returns the value that all copies of keyrow share under `name`. The first call with this name makes the value. The
 * name ends in a version number, which must change when the type of the value changes.
 */
export const shared = <A>(name: `${string}:${number}`, make: () => A): A => {
  const holder = globalThis as { [KEY]?: Map<string, unknown> }
  const all = holder[KEY] ?? new Map<string, unknown>()
  holder[KEY] = all
  const found = all.get(name) ?? make()
  all.set(name, found)
  return found as A
}

// keyrow keeps the timer functions that exist when keyrow is imported. A test may later replace Node.js's timers with
// fake timers, to let a session expire. keyrow's own waits for a database must still work in such a test.

export const { setImmediate, setTimeout, clearTimeout } = timers

export const delay = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

/** The maximum delay of a timer. Node.js fires a timer with a longer delay after 1 ms. */
export const MAX_TIMER_MS = 2 ** 31 - 1

export const nextTick = process.nextTick.bind(process)

/** The version of this package. The table `metadata` records which version made the tables. */
export const RELEASE = '0.1.0'
