// What is printed, as text: tables, sizes, times. Ids, principals and keys may hold anything: what would act on a
// terminal is shown instead.

// Control and formatting characters (among them those that turn the direction of writing), and line separators.
const ACTING = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu

/** The text as one line that does nothing: ESC as `\u{1b}`. */
export const visible = (text: string): string =>
  text.replace(ACTING, (found) => `\\u{${(found.codePointAt(0) ?? 0).toString(16)}}`)

/** The same for text of several lines. */
export const visibleLines = (text: string): string => text.split('\n').map(visible).join('\n')

/** JSON in one line, in which the same characters are escaped as JSON escapes them. */
export const json = (data: unknown): string => JSON.stringify(data).replace(ACTING, escaped)

const escaped = (found: string): string =>
  found
    .split('')
    .map((unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`)
    .join('')

/** A table with its columns below each other; numbers stand to the right. */
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

/** Names and what they stand for, below each other. */
export const pairs = (entries: readonly (readonly [string, string])[]): string => {
  const longest = Math.max(...entries.map(([name]) => name.length))
  return entries.map(([name, value]) => `${name.padEnd(longest)}  ${visible(value)}`).join('\n')
}

/** `2026-01-31T12:00:00Z` */
export const time = (milliseconds: number): string => iso(milliseconds).replace(/[.]\d+Z$/, 'Z')

/** The same to the millisecond; a time that no `Date` can hold (a session that never ends) is the last that can. */
export const iso = (milliseconds: number): string =>
  new Date(Math.max(-8.64e15, Math.min(8.64e15, milliseconds))).toISOString()

const UNITS = ['bytes', 'kB', 'MB', 'GB', 'TB', 'PB']

/** `16 kB`: in powers of 1,024, as PostgreSQL counts them. */
export const size = (bytes: number): string => {
  const power = Math.min(Math.floor(Math.log2(Math.max(bytes, 1)) / 10), UNITS.length - 1)
  const figure = bytes / 1024 ** power
  return `${figure < 10 && power > 0 ? figure.toFixed(1) : String(Math.round(figure))} ${UNITS[power] ?? ''}`
}

/** `3 days`, `5 minutes`, `12 ms` */
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

/** `1 session`, `1,200 sessions` */
export const plural = (count: number, one: string, many = `${one}s`): string =>
  `${count.toLocaleString('en-US')} ${count === 1 ? one : many}`
