// Runs many programs in few processes (runs-child.mjs): starting a process and loading modules takes longer than what
// most of them do.
import { type ChildProcess, fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'

export interface Ran {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

export interface Task {
  /** The file of the program: a module that has done all when it is loaded. */
  readonly program: string
  readonly args?: readonly string[]
  readonly env?: Readonly<Record<string, string>>
  /** All of its input. Default: none. */
  readonly input?: string
  /** Whether it finds a terminal at its input. */
  readonly terminal?: boolean
}

interface Reply {
  readonly id: number
  readonly ran?: Ran
  readonly failure?: string
}

const script = fileURLToPath(new URL('./runs-child.mjs', import.meta.url))

/**
 * Runs a task in one of as many processes, which end with this one. A run that fails to end is a failure. The processes
 * begin with this module of `support`.
 */
export const runsIn = (processes: number, preload?: string): ((task: Task) => Promise<Ran>) => {
  const execArgv = preload === undefined ? [] : ['--import', new URL(preload, import.meta.url).href]
  const waiting = new Map<number, (reply: Reply) => void>()
  const children: ChildProcess[] = []
  let runs = 0

  const start = (): ChildProcess => {
    const child = fork(script, { execArgv, env: { ...process.env, NODE_OPTIONS: '' } })
    child.on('message', (reply: Reply) => {
      waiting.get(reply.id)?.(reply)
      waiting.delete(reply.id)
      // Between runs they keep this process no longer alive.
      if (waiting.size === 0) for (const { channel } of children) channel?.unref()
    })
    child.once('exit', (code) => {
      for (const [id, answer] of waiting) answer({ id, failure: `its process has ended (${String(code)})` })
    })
    child.unref()
    return child
  }

  return async ({ program, args = [], env = {}, input = '', terminal = false }) => {
    const id = runs++
    const index = id % processes
    const child = children[index] ?? start()
    children[index] = child
    const { ran, failure = '' } = await new Promise<Reply>((resolve) => {
      waiting.set(id, resolve)
      child.channel?.ref()
      child.send({ id, program, args, env, input, terminal })
    })
    if (ran === undefined) throw new Error(`${[program, ...args].join(' ')}: ${failure}`)
    return ran
  }
}
