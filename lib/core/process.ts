// Shares the current session and more between copies of keyrow in a process. A bundler or development server may load two.
import timers from 'node:timers'

const KEY = Symbol.for('keyrow:shared')

/**
 * Returns the process-wide value with this name, which the first copy of keyrow makes. The name ends in a version, which
 * changes when the value's shape changes.
 */
export const shared = <A>(name: `${string}:${number}`, make: () => A): A => {
  const holder = globalThis as { [KEY]?: Map<string, unknown> }
  const all = holder[KEY] ?? new Map<string, unknown>()
  holder[KEY] = all
  const found = all.get(name) ?? make()
  all.set(name, found)
  return found as A
}

// Keeps the timers as they are at the import. A test may fake timers to let a session or a cache expire. keyrow's own waits
// for the event loop or a database must go on meanwhile.

export const { setImmediate, setTimeout, clearTimeout } = timers

/** The maximum delay of a timer. Node.js fires a timer with a longer delay at once. */
export const MAX_TIMER_MS = 2 ** 31 - 1

export const nextTick = process.nextTick.bind(process)

/** The version of this package. The database stores it with the tables. */
export const RELEASE = '0.1.0'
