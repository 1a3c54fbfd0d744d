// What all copies of keyrow in one process have in common: a bundler, or a development server, may load the package
// more than once, and the session that one copy binds has to be the other's current one too.

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
