// A process that runs programs one after the other, each as if it were a process of its own: with its own arguments,
// environment and input, and nothing may stay behind that would keep a process alive. See runs.ts for the other end.

import { PassThrough } from 'node:stream'
import { setTimeout as delay } from 'node:timers/promises'

const LINGERS_MS = 20_000
const EVENTS = ['SIGINT', 'SIGTERM', 'uncaughtException']

let runs = 0

/** Takes the place of what is written to the stream; gives what ends that, and tells what was written. */
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

/** How many there are of each kind of thing that keeps this process alive. */
const active = () => {
  const counts = new Map()
  for (const kind of process.getActiveResourcesInfo()) counts.set(kind, (counts.get(kind) ?? 0) + 1)
  return counts
}

// The pipe to the parent, and those of the output, are there before and after.
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
    // Under another name the module runs again; what it imports stays loaded.
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
