// Implements the parts of tap that the adapters' suite uses, for runtimes without tap. It prints TAP for the tap that
// has started the process.

import { isDeepStrictEqual } from 'node:util'
import type { Test } from 'tap'

interface Running {
  readonly name: string
  count: number
  failed: number
  readonly teardowns: (() => unknown)[]
  /** Tests run one after the other. A test waits for its inner tests. */
  last: Promise<unknown>
}

const print = (depth: number, text: string): void => console.log('    '.repeat(depth) + text)

const matches = (value: unknown, pattern: unknown): boolean => {
  if (pattern instanceof RegExp) return typeof value === 'string' && pattern.test(value)
  if (typeof pattern === 'string' && typeof value === 'string') return value.includes(pattern)
  if (typeof pattern !== 'object' || pattern === null) return Object.is(value, pattern)
  if (typeof value !== 'object' || value === null) return false
  return Object.entries(pattern).every(([key, wanted]) => matches(Reflect.get(value, key), wanted))
}

const said = (value: unknown): string =>
  value instanceof Error
    ? String(value.stack)
    : value === undefined
      ? 'nothing'
      : JSON.stringify(value, null, 1)

const note = (running: Running, depth: number, isRight: boolean, name: string, seen?: unknown): boolean => {
  running.count += 1
  if (!isRight) running.failed += 1
  print(depth, `${isRight ? 'ok' : 'not ok'} ${String(running.count)} - ${name.replaceAll(/[\n#]/g, ' ')}`)
  if (!isRight) for (const line of said(seen).split('\n')) print(depth, `# ${line}`)
  return isRight
}

const newRunning = (name: string): Running => ({
  name,
  count: 0,
  failed: 0,
  teardowns: [],
  last: Promise.resolve(),
})

type Body = (t: Test) => unknown

const testOf = (running: Running, depth: number): Test => {
  const check = (isRight: boolean, name: unknown, seen?: unknown): boolean =>
    note(running, depth, isRight, typeof name === 'string' ? name : 'should hold', seen)
  return {
    ok: (value: unknown, name?: unknown) => check(Boolean(value), name, value),
    notOk: (value: unknown, name?: unknown) => check(!value, name, value),
    equal: (value: unknown, wanted: unknown, name?: unknown) =>
      check(Object.is(value, wanted), name, { value, wanted }),
    not: (value: unknown, other: unknown, name?: unknown) => check(!Object.is(value, other), name, value),
    strictSame: (value: unknown, wanted: unknown, name?: unknown) =>
      check(isDeepStrictEqual(value, wanted), name, { value, wanted }),
    match: (value: unknown, wanted: unknown, name?: unknown) =>
      check(matches(value, wanted), name, { value, wanted: String(wanted) }),
    notMatch: (value: unknown, wanted: unknown, name?: unknown) =>
      check(!matches(value, wanted), name, value),
    fail: (name: string) => check(false, name),
    teardown: (f: () => unknown) => void running.teardowns.push(f),
    test: (name: string, body: Body) => {
      const done = running.last.then(() => run(name, body, running, depth))
      running.last = done
      return done
    },
  } as unknown as Test
}

const run = async (name: string, body: Body, within: Running, depth: number): Promise<void> => {
  const running = newRunning(name)
  print(depth, `# Subtest: ${name}`)
  try {
    await body(testOf(running, depth + 1))
    await running.last
  } catch (error) {
    note(running, depth + 1, false, 'it throws nothing', error)
  }
  for (const teardown of running.teardowns.toReversed()) await teardown()
  print(depth + 1, `1..${String(running.count)}`)
  note(within, depth, running.failed === 0, name)
}

/** Runs the tests of `body`. The exit code shows whether all tests passed. */
export const runTests = async (body: Body): Promise<void> => {
  const running = newRunning('all')
  console.log('TAP version 14')
  await run('the suite', body, running, 0)
  console.log(`1..${String(running.count)}`)
  process.exitCode = running.failed === 0 ? 0 : 1
}
