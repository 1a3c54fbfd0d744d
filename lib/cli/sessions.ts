// `sessions` and `show`: what is there. Secrets' hashes are never read, and values only when they are asked for.
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import { operatorOver, type SessionLine, type ShownRow } from '../sql/operator-store.js'
import type { DatabaseCommand } from './arguments.js'
import { type Context, type Ending, onOurSchema } from './context.js'
import { EXIT, Refusal } from './failure.js'
import type { Terminal } from './terminal.js'
import { iso, pairs, plural, size, table, time } from './text.js'

type Listing = Extract<DatabaseCommand, { readonly verb: 'sessions' }>
type Showing = Extract<DatabaseCommand, { readonly verb: 'show' }>

export const sessions = (context: Context, { principal, limit }: Listing): Ending =>
  pipe(
    operatorOver(context.database, context.schema).sessions(limit + 1, principal),
    TE.map((found) => {
      printSessions(context.terminal, found.slice(0, limit), found.length > limit)
      return EXIT.done
    }),
    onOurSchema(context),
  )

const printSessions = (terminal: Terminal, found: readonly SessionLine[], more: boolean): void => {
  const data = found.map((line) => ({
    ...line,
    created: iso(line.created),
    expiration: iso(line.expiration),
  }))
  terminal.print({ sessions: data, more }, () =>
    found.length === 0
      ? 'There are no live sessions.'
      : [linesOf(found), ...(more ? [`There are more; say --limit N.`] : [])].join('\n'),
  )
}

const linesOf = (found: readonly SessionLine[]): string =>
  table(
    ['ID', 'CREATED', 'EXPIRES', 'KEYS', 'BYTES', 'PRINCIPAL'],
    found.map(({ id, created, expiration, keys, bytes, principal }) => [
      id,
      time(created),
      time(expiration),
      keys,
      bytes,
      principal ?? '',
    ]),
  )

export const show = (context: Context, { id, values }: Showing): Ending =>
  pipe(
    operatorOver(context.database, context.schema).show(id, values),
    TE.filterOrElseW(
      (rows) => rows.length > 0,
      () => new Refusal(EXIT.notFound, `there is no session ${id}`),
    ),
    TE.map((rows) => {
      printShown(context.terminal, rows, values)
      return EXIT.done
    }),
    onOurSchema(context),
  )

const printShown = (terminal: Terminal, rows: readonly ShownRow[], values: boolean): void => {
  const [head] = rows
  if (head === undefined) return
  const held = rows.flatMap(({ key, bytes, value }) =>
    key === null ? [] : [{ key, bytes: bytes ?? 0, value }],
  )
  const entries = held.map(({ key, bytes, value }) =>
    values ? { key, bytes, value: JSON.parse(value ?? 'null') as unknown } : { key, bytes },
  )
  const { id, principal, live, revision } = head
  const times = { created: iso(head.created), expiration: iso(head.expiration), absolute: iso(head.absolute) }
  terminal.print({ id, principal, live, ...times, revision, entries }, () =>
    [headOf(head, held), ...(held.length === 0 ? [] : ['', entriesOf(held, values)])].join('\n'),
  )
}

interface Held {
  readonly key: string
  readonly bytes: number
  readonly value: string | null
}

const headOf = (head: ShownRow, held: readonly Held[]): string =>
  pairs([
    ['id', head.id],
    ['principal', head.principal ?? ''],
    ['created', time(head.created)],
    ['expires', `${time(head.expiration)}${head.live ? '' : ' (it has expired)'}`],
    ['at the latest', time(head.absolute)],
    ['revision', String(head.revision)],
    ['holds', `${plural(held.length, 'key')}, ${size(held.reduce((sum, { bytes }) => sum + bytes, 0))}`],
  ])

const entriesOf = (held: readonly Held[], values: boolean): string =>
  table(
    ['BYTES', 'KEY', ...(values ? ['VALUE'] : [])],
    held.map(({ key, bytes, value }) => [bytes, key, ...(values ? [value ?? ''] : [])]),
  )
