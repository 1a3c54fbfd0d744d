// Runs programs one after the other in one process. Each program has its own arguments, environment and input, and must
// leave nothing that keeps a process alive. runs.ts starts this process.

import { PassThrough } from 'node:stream'
import { setTimeout as delay } from 'node:timers/promises'

const LINGERS_MS = 20_000
const EVENTS = ['SIGINT', 'SIGTERM', 'uncaughtException']

let runs = 0

/** Captures the output of a stream. Returns a function that ends the capture and returns the output. */
const capture = (stream) => {
  const { write } = stream
  let text = ''
  stream.write = (piece, ...rest) => {
    text += piece
    rest.findLast((argument) => typeof argument === 'function')?.()
    return true
  }
  return () => {
    stream.write = write
    stream.removeAllListeners('error')
    return text
  }
}

const setInput = (input, terminal) => {
  const stdin = new PassThrough()
  stdin.end(input)
  const value = Object.assign(stdin, terminal ? { isTTY: true } : {})
  Object.defineProperty(process, 'stdin', { value, configurable: true })
}

/** Returns the number of resources of each kind that keep this process alive. */
const active = () => {
  const counts = new Map()
  for (const kind of process.getActiveResourcesInfo()) counts.set(kind, (counts.get(kind) ?? 0) + 1)
  return counts
}

// Waits until the program has released its resources. The pipes of this process were already open before.
const settled = async (before) => {
  const lingering = () => [...active()].filter(([kind, count]) => count > (before.get(kind) ?? 0))
  const deadline = performance.now() + LINGERS_MS
  while (lingering().length > 0) {
    if (performance.now() > deadline) throw new Error(`it would not end: ${String(lingering())}`)
    await delay(5)
  }
}

const withoutNewHandlers = async (act) => {
  const handlers = EVENTS.map((name) => [name, process.listeners(name)])
  try {
    return await act()
  } finally {
    for (const [name, kept] of handlers)
      for (const listener of process.listeners(name))
        if (!kept.includes(listener)) process.removeListener(name, listener)
  }
}

const run = async ({ program, args, env, input, terminal }) => {
  process.argv = [process.argv[0], program, ...args]
  Object.assign(process.env, env)
  setInput(input, terminal)
  const [stdout, stderr] = [capture(process.stdout), capture(process.stderr)]
  const before = active()
  runs += 1
  try {
    // With another URL the module runs again. Its imports stay loaded.
    await import(`${program}?${runs}`)
    const code = process.exitCode ?? 0
    process.exitCode = undefined
    await settled(before)
    return { code, stdout: stdout(), stderr: stderr() }
  } finally {
    stdout()
    stderr()
  }
}

let queue = Promise.resolve()
process.on('message', ({ id, ...task }) => {
  queue = queue
    .then(() => withoutNewHandlers(() => run(task)))
    .then(
      (ran) => process.send({ id, ran }),
      (error) => process.send({ id, failure: String(error?.stack ?? error) }),
    )
})
process.on('disconnect', () => process.exit())
