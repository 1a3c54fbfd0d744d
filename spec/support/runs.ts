// Runs many programs in few processes (runs-child.mjs), because the start of a process takes longer than most programs.
import { type ChildProcess, fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'

export interface Ran {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

export interface Task {
  /** The file of the program. The program is done when this module is loaded. */
  readonly program: string
  readonly args?: readonly string[]
  readonly env?: Readonly<Record<string, string>>
  /** The whole input. Default: none. */
  readonly input?: string
  /** Whether the input is a terminal. */
  readonly terminal?: boolean
}

interface Reply {
  readonly id: number
  readonly ran?: Ran
  readonly failure?: string
}

const script = fileURLToPath(new URL('./runs-child.mjs', import.meta.url))

/**
 * Returns a function that runs a task in one of several processes, which end with this process. A task that does not
 * end fails. The processes first load the module `preload` of this folder.
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
      // Between runs the children do not keep this process alive.
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
