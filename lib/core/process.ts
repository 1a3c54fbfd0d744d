// What all copies of keyrow in a process share. A bundler or development server may load two, with one current session.
import timers from 'node:timers'

const KEY = Symbol.for('keyrow:shared')

/**
 * Returns the process-wide value of this name, which the first copy of keyrow makes. The name ends in a version, which
 * changes with the value's shape.
 */
export const shared = <A>(name: `${string}:${number}`, make: () => A): A => {
  const holder = globalThis as { [KEY]?: Map<string, unknown> }
  const all = holder[KEY] ?? new Map<string, unknown>()
  holder[KEY] = all
  const found = all.get(name) ?? make()
  all.set(name, found)
  return found as A
}

// The timers at the time of the import. A test may fake timers to let a session or a cache expire; keyrow's waits for
// the event loop or a database must go on.

export const { setImmediate, setTimeout, clearTimeout } = timers

/** Node.js fires a timer with a longer delay at once. */
export const MAX_TIMER_MS = 2 ** 31 - 1

export const nextTick = process.nextTick.bind(process)

/** The version of this package. The database stores it with the tables. */
export const RELEASE = '0.1.0'
