// The output of the command line, as text or as JSON. Data goes to stdout. Errors, questions and progress go to stderr.

import querystring from 'node:querystring'
import { createInterface } from 'node:readline'
import { DriverError, type SchemaMismatch } from '../core/errors.js'

export const EXIT = {
  done: 0,
  failed: 1,
  usage: 2,
  notFound: 3,
  schema: 4,
  problem: 5,
  interrupted: 130,
} as const

/** An error that the program reports, such as a wrong argument or a missing session. `code` is the exit code. */
export class Rejection extends Error {
  constructor(
    readonly code: number,
    message: string,
  ) {
    super(message)
  }
}

export const usage = (message: string): Rejection => new Rejection(EXIT.usage, message)

export type Failure = DriverError | SchemaMismatch | Rejection

const NAMES: Readonly<Record<number, string>> = {
  [EXIT.usage]: 'Usage',
  [EXIT.notFound]: 'NotFound',
  [EXIT.interrupted]: 'Interrupted',
}

// Returns what is printed of an error. Text output has only the message, and JSON output also has the name and the
// codes. A message of a server or a library may quote a password, so the `secrets` are replaced by `***`.
const messageOf = (failure: unknown, secrets: readonly string[]) => {
  if (failure instanceof Rejection)
    return { name: NAMES[failure.code] ?? 'Failed', message: failure.message, code: failure.code }
  const { message, _tag } = failure as Partial<Failure & { readonly _tag: string }>
  if (_tag === 'SchemaMismatch') return { name: _tag, message: message ?? '', code: EXIT.schema }
  return {
    name: _tag ?? 'Unexpected',
    message: secrets.reduce((rest, secret) => rest.replaceAll(secret, '***'), message ?? String(failure)),
    code: EXIT.failed,
    sqlState: failure instanceof DriverError ? failure.sqlState : undefined,
  }
}

/** Returns possible passwords in these texts, the longest first. Any text may be the address of a database. */
export const secretsIn = (texts: readonly (string | undefined)[], password?: string): readonly string[] => {
  const all = [...texts.flatMap((text = '') => passwordsIn(text)), password ?? '']
  const decoded = all.flatMap((secret) => [secret, querystring.unescape(secret)])
  return [...new Set(decoded)].filter((secret) => secret !== '').sort((a, b) => b.length - a.length)
}

// A password may contain an `@` that is not encoded. So the password may end at any `@` after the first colon.
const passwordsIn = (text: string): readonly string[] => {
  const [, rest = ''] = /:\/\/(.*)/s.exec(text) ?? []
  const [, afterColon = ''] = /:(.*)/s.exec(rest) ?? []
  const withNames = [...rest.matchAll(/[?&][^=]*pass[^=]*=([^&]*)/gi)].map((match) => match[1] ?? '')
  return [...withNames, ...[...afterColon.matchAll(/@/g)].map(({ index }) => afterColon.slice(0, index))]
}

// Ids, principals and keys may contain any characters. Text output escapes the characters that a terminal would
// interpret: control and formatting characters, and line separators.
const UNSAFE = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu

/** Returns the text with unsafe characters escaped, for example ESC as `\u{1b}`. */
const visible = (text: string): string =>
  text.replace(UNSAFE, (found) => `\\u{${(found.codePointAt(0) ?? 0).toString(16)}}`)

/** Returns JSON in one line, with unsafe characters as JSON escapes. */
const json = (data: unknown): string =>
  JSON.stringify(data).replace(UNSAFE, (found) =>
    found.replaceAll(/./gs, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`),
  )

/** Joins blocks of lines, and leaves out each block that is `undefined` or `false`. */
export const joined = (...blocks: readonly (string | false | undefined)[]): string =>
  blocks.filter((block) => typeof block === 'string').join('\n')

/** Returns a table with aligned columns. Numbers are aligned to the right. */
export const table = (heads: readonly string[], rows: readonly (readonly (string | number)[])[]): string => {
  const cells = rows.map((row) => row.map((cell) => visible(String(cell))))
  const widths = heads.map((head, column) =>
    Math.max(...[head, ...cells.map((row) => row[column] ?? '')].map(width)),
  )
  const isNumber = heads.map((_, column) => typeof rows[0]?.[column] === 'number')
  const line = (row: readonly string[]): string =>
    row
      .map((cell, column) => {
        const space = ' '.repeat((widths[column] ?? 0) - width(cell))
        return isNumber[column] === true ? space + cell : cell + space
      })
      .join('  ')
      .trimEnd()
  return [line(heads), ...cells.map(line)].join('\n')
}

const CHARACTERS = new Intl.Segmenter('en')

const width = (text: string): number => Array.from(CHARACTERS.segment(text)).length

/** Returns a line for each entry, with the name and the value. The values are aligned. */
export const pairs = (entries: readonly (readonly [string, string])[]): string => {
  const longest = Math.max(...entries.map(([name]) => name.length))
  return entries.map(([name, value]) => `${name.padEnd(longest)}  ${visible(value)}`).join('\n')
}

/** Writes a time as `2026-01-31T12:00:00Z`. */
export const time = (milliseconds: number): string => iso(milliseconds).replace(/[.]\d+Z$/, 'Z')

/** Writes a time to the millisecond. A time outside of the range of `Date` becomes the nearest `Date`. */
export const iso = (milliseconds: number): string =>
  new Date(Math.max(-8.64e15, Math.min(8.64e15, milliseconds))).toISOString()

const UNITS = ['bytes', 'kB', 'MB', 'GB', 'TB', 'PB']

/** Writes a size, for example `16 kB`. The units are powers of 1,024, as in PostgreSQL. */
export const size = (bytes: number): string => {
  const power = Math.min(Math.floor(Math.log2(Math.max(bytes, 1)) / 10), UNITS.length - 1)
  const count = bytes / 1024 ** power
  return `${count < 10 && power > 0 ? count.toFixed(1) : String(Math.round(count))} ${UNITS[power] ?? ''}`
}

/** Writes a duration as `3 days`, `5 minutes` or `12 ms`. */
export const duration = (milliseconds: number): string => {
  const found = SPANS.find(([span]) => milliseconds >= 2 * span)
  return found === undefined
    ? `${milliseconds < 10 ? milliseconds.toFixed(1) : String(Math.round(milliseconds))} ms`
    : `${String(Math.floor(milliseconds / found[0]))} ${found[1]}`
}

const SPANS = [
  [86_400_000, 'days'],
  [3_600_000, 'hours'],
  [60_000, 'minutes'],
  [1_000, 'seconds'],
] as const

/** Writes a count as `1 session` or `1,200 sessions`. */
export const plural = (count: number, one: string, plural = `${one}s`): string =>
  `${count.toLocaleString('en-US')} ${count === 1 ? one : plural}`

/** The result of a command. `data` is printed with `--json`, and `text` without it. */
export interface Output {
  readonly data: unknown
  readonly text: () => string
  /** The exit code of the command. Default: `EXIT.done`. */
  readonly exitCode?: number
}

export type Terminal = ReturnType<typeof terminalOf>

export const terminalOf = (asJson: boolean, secrets: readonly string[]) => {
  const progress = progressOn(process.stderr)
  return {
    print: ({ data, text, exitCode = EXIT.done }: Output): number => {
      progress.end()
      const lines = asJson ? json(data) : text().split('\n').map(visible).join('\n')
      process.stdout.write(`${lines}\n`)
      return exitCode
    },
    fail: (failure: unknown): number => {
      progress.end()
      const error = messageOf(failure, secrets)
      const message = error.message.trim().replaceAll(/\s*\n\s*/g, ' ')
      process.stderr.write(`${asJson ? json({ error }) : `keyrow: ${visible(message)}`}\n`)
      return error.code
    },
    /** Reports the progress of long work, but not with `--json`. */
    progress: (text: string): void => {
      if (!asJson) progress.report(visible(text))
    },
    /** Whether stdin is a terminal, so that a person can answer. */
    canAsk: process.stdin.isTTY,
    ask,
  }
}

/** Reports progress. On a terminal it overwrites one line. Elsewhere it writes a line at most every ten seconds. */
const progressOn = (stream: NodeJS.WriteStream) => {
  const everyMs = stream.isTTY ? 100 : 10_000
  let last = performance.now()
  let drawn = false
  return {
    report: (text: string): void => {
      if (performance.now() - last < everyMs) return
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

/** Asks a question, and returns whether the answer was yes. The end of the input and an interruption mean no. */
const ask = (question: string, signal: AbortSignal): Promise<boolean> => {
  if (signal.aborted) return Promise.resolve(false)
  process.stderr.write(`${visible(question)} [y/N] `)
  // `terminal` is false, because the line editor of `readline` would handle Ctrl-C itself.
  const lines = createInterface({ input: process.stdin, terminal: false, signal })
  return new Promise((resolve) => {
    lines.once('line', (line) => {
      resolve(/^y(es)?$/i.test(line.trim()))
      lines.close()
    })
    lines.once('close', () => resolve(false))
  })
}
