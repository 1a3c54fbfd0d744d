// What all copies of keyrow in one process have in common: a bundler, or a development server, may load the package
// more than once, and the session that one copy binds has to be the other's current one too.
import timers from 'node:timers'

const KEY = Symbol.for('keyrow:shared')

/** The one value of this name in the process. A name ends in a version, which changes with the value's shape. */
export const shared = <A>(name: `${string}:${number}`, make: () => A): A => {
  const holder = globalThis as { [KEY]?: Map<string, unknown> }
  const all = holder[KEY] ?? new Map<string, unknown>()
  holder[KEY] = all
  const found = all.get(name) ?? make()
  all.set(name, found)
  return found as A
}

// The timers as they were when keyrow was imported. A test that puts fake ones in their place, to let a session or a
// cache of its own expire, must not stop what keyrow waits for: a turn of the event loop, a database's answer.

export const { setImmediate, setTimeout, clearTimeout } = timers

export const nextTick = process.nextTick.bind(process)

/** The version of this package: a database is told which release made its tables. */
export const RELEASE = '0.1.0'
