// The terminal, or the program at the other end: data to stdout, and what is said about it to stderr.
import { createInterface } from 'node:readline'
import { told } from './failure.js'
import { json, visible, visibleLines } from './text.js'

export interface Terminal {
  /** The data of a command: `data` for programs, `text` for people. */
  readonly print: (data: unknown, text: () => string) => void
  /** Says what went wrong, in one line; gives the exit code. */
  readonly fail: (failure: unknown) => number
  /** Says how far long work has come; nothing for programs. */
  readonly progress: (text: string) => void
  /** Whether somebody is there to answer a question. */
  readonly canAsk: boolean
  /** Whether the answer was yes; anything else is no, and so is the end of the input or of the command. */
  readonly ask: (question: string, signal: AbortSignal) => Promise<boolean>
}

export const terminalOf = (forPrograms: boolean, secrets: readonly string[]): Terminal => {
  const progress = progressOn(process.stderr)
  return {
    print: (data, text) => {
      progress.end()
      process.stdout.write(`${forPrograms ? json(data) : visibleLines(text())}\n`)
    },
    fail: (failure) => {
      progress.end()
      const found = told(failure, secrets)
      const line = forPrograms ? json({ error: found }) : `keyrow: ${visible(oneLine(found.message))}`
      process.stderr.write(`${line}\n`)
      return found.code
    },
    progress: (text) => {
      if (!forPrograms) progress.tell(visible(text))
    },
    canAsk: process.stdin.isTTY,
    ask,
  }
}

const oneLine = (text: string): string => text.trim().replaceAll(/\s*\n\s*/g, ' ')

const REDRAWN_MS = 100
const LINE_MS = 10_000

/** One line that is written over on a terminal; elsewhere, a line now and then. */
const progressOn = (stream: NodeJS.WriteStream) => {
  const every = stream.isTTY ? REDRAWN_MS : LINE_MS
  let last = performance.now()
  let drawn = false
  return {
    tell: (text: string): void => {
      if (performance.now() - last < every) return
      last = performance.now()
      drawn = stream.isTTY
      stream.write(drawn ? `\r\u001b[K${text}` : `${text}\n`)
    },
    end: (): void => {
      if (drawn) stream.write('\r\u001b[K')
      drawn = false
    },
  }
}

// Not as a terminal's own line editor: that would take Ctrl-C for itself.
const ask = (question: string, signal: AbortSignal): Promise<boolean> =>
  new Promise((resolve) => {
    if (signal.aborted) {
      resolve(false)
      return
    }
    const lines = createInterface({ input: process.stdin, terminal: false })
    const close = (): void => lines.close()
    signal.addEventListener('abort', close)
    lines.once('line', (line) => {
      resolve(/^y(es)?$/i.test(line.trim()))
      close()
    })
    lines.once('close', () => {
      signal.removeEventListener('abort', close)
      resolve(false)
    })
    process.stderr.write(`${visible(question)} [y/N] `)
  })
