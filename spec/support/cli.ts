// Runs the built command line. The output of all runs is kept, and searched for secrets. Most runs share two processes
// (runs.ts). In slow/cli.spec.ts each run has its own process.
import { type ChildProcessByStdio, spawn } from 'node:child_process'
import { once } from 'node:events'
import type { Readable, Writable } from 'node:stream'
import { fileURLToPath } from 'node:url'
import { isLong } from './at-length.js'
import { type Ran, runsIn } from './runs.js'

export type { Ran } from './runs.js'

export const MAIN = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))

export interface Running {
  readonly child: ChildProcessByStdio<Writable, Readable, Readable>
  readonly ended: Promise<Ran>
}

interface RunOptions {
  readonly env?: Readonly<Record<string, string>>
  /** Options of Node.js, and another program than the built command line. */
  readonly node?: readonly string[]
  readonly main?: string
  /** Whether the input is a terminal. */
  readonly terminal?: boolean
  /** The whole input. Default: none. */
  readonly input?: string
  /** Whether the run needs its own process. Default: true if `node` or `main` is set. */
  readonly alone?: boolean
}

const said: string[] = []

/** Returns the output of all runs so far. */
export const everythingSaid = (): string => said.join('\n')

const asTerminal = ['--import', 'data:text/javascript,process.stdin.isTTY=true']

export const startKeyrow = (
  args: readonly string[],
  { env = {}, node = [], main = MAIN, terminal = false }: RunOptions = {},
): Running => {
  const child = spawn(process.execPath, [...node, ...(terminal ? asTerminal : []), main, ...args], {
    // tap adds its module loader to the NODE_OPTIONS of each child. An empty variable has no effect.
    env: { ...process.env, NODE_OPTIONS: '', DATABASE_URL: '', PGPASSWORD: '', ...env },
    stdio: ['pipe', 'pipe', 'pipe'],
  })
  child.stdin.on('error', () => undefined)
  return { child, ended: outcome(child) }
}

const outcome = async (child: Running['child']): Promise<Ran> => {
  let stdout = ''
  let stderr = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text))
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text))
  const deadline = setTimeout(() => child.kill('SIGKILL'), 60_000)
  const [code] = (await once(child, 'close')) as [number | null]
  clearTimeout(deadline)
  said.push(stdout, stderr)
  return { code, stdout, stderr }
}

const runShared = runsIn(2)

const inShared = async (args: readonly string[], options: RunOptions): Promise<Ran> => {
  const env = { DATABASE_URL: '', PGPASSWORD: '', ...options.env }
  const { input = '', terminal = false } = options
  const ran = await runShared({ program: MAIN, args, env, input, terminal })
  said.push(ran.stdout, ran.stderr)
  return ran
}

/** Runs the command line and waits for its end. */
export const keyrow = (args: readonly string[], options: RunOptions = {}): Promise<Ran> => {
  const { node, main, alone = isLong || node !== undefined || main !== undefined } = options
  if (!alone) return inShared(args, options)
  const { child, ended } = startKeyrow(args, options)
  child.stdin.end(options.input ?? '')
  return ended
}

/** Calls `act` for each element, a few at a time, because a run mostly waits for the start of a process. */
export const forEach = async <A>(all: readonly A[], act: (one: A) => Promise<void>): Promise<void> => {
  const queue = all.values()
  const work = async () => {
    for (const one of queue) await act(one)
  }
  await Promise.all([work(), work(), work()])
}

/** Resolves once the child has written this text to stderr. */
export const saying = ({ child }: Running, text: string): Promise<void> =>
  new Promise((resolve, reject) => {
    let heard = ''
    child.stderr.on('data', (piece: string) => {
      heard += piece
      if (heard.includes(text)) resolve()
    })
    child.once('close', () => reject(new Error(`it ended and said: ${heard}`)))
  })

/** Repeats the check until it returns true. */
export const until = async (what: string, asked: () => Promise<boolean>): Promise<void> => {
  const start = performance.now()
  while (!(await asked())) {
    if (performance.now() - start > 30_000) throw new Error(`in vain: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}
