// `sessions`, `show` and `schema`. The hash of a secret is never read; values are read only on request.
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import { SchemaMismatch } from '../core/errors.js'
import { RELEASE } from '../core/process.js'
import { LATEST } from '../sql/migrations.js'
import {
  bare,
  type MadeVersion,
  type SchemaState,
  schemaSql,
  schemaState,
  upgradeSchema,
} from '../sql/schema.js'
import { adminOver, type SessionSummary, type ShownRow } from './admin.js'
import type { CommandOf } from './arguments.js'
import { type Context, onCurrentSchema, type Task } from './open.js'
import {
  duration,
  EXIT,
  type Failure,
  iso,
  pairs,
  plural,
  Rejection,
  size,
  type Terminal,
  table,
  time,
} from './terminal.js'

type SessionsCommand = CommandOf<'sessions'>
type ShowCommand = CommandOf<'show'>

export const sessions = (context: Context, { principal, limit }: SessionsCommand): Task =>
  pipe(
    adminOver(context.database, context.schema).sessions(limit + 1, principal),
    TE.map((found) => {
      printSessions(context.terminal, found.slice(0, limit), found.length > limit)
      return EXIT.done
    }),
    onCurrentSchema(context),
  )

const printSessions = (terminal: Terminal, found: readonly SessionSummary[], more: boolean): void => {
  const data = found.map((session) => ({
    ...session,
    created: iso(session.created),
    expiration: iso(session.expiration),
  }))
  terminal.print({ sessions: data, more }, () =>
    found.length === 0
      ? 'There are no live sessions.'
      : [linesOf(found), ...(more ? ['There are more; say --limit N.'] : [])].join('\n'),
  )
}

const linesOf = (found: readonly SessionSummary[]): string =>
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

export const show = (context: Context, { id, values }: ShowCommand): Task =>
  pipe(
    adminOver(context.database, context.schema).show(id, values),
    TE.filterOrElseW(
      (rows) => rows.length > 0,
      () => new Rejection(EXIT.notFound, `there is no session ${id}`),
    ),
    TE.map((rows) => {
      printShown(context.terminal, rows, values)
      return EXIT.done
    }),
    onCurrentSchema(context),
  )

const printShown = (terminal: Terminal, rows: readonly ShownRow[], values: boolean): void => {
  const [head] = rows
  if (head === undefined) return
  const stored = rows.flatMap(({ key, bytes, value }) =>
    key === null ? [] : [{ key, bytes: bytes ?? 0, value }],
  )
  const entries = stored.map(({ key, bytes, value }) =>
    values ? { key, bytes, value: JSON.parse(value ?? 'null') as unknown } : { key, bytes },
  )
  const { id, principal, live, revision } = head
  const times = { created: iso(head.created), expiration: iso(head.expiration), absolute: iso(head.absolute) }
  terminal.print({ id, principal, live, ...times, revision, entries }, () =>
    [headOf(head, stored), ...(stored.length === 0 ? [] : ['', entriesOf(stored, values)])].join('\n'),
  )
}

interface Stored {
  readonly key: string
  readonly bytes: number
  readonly value: string | null
}

const headOf = (head: ShownRow, stored: readonly Stored[]): string =>
  pairs([
    ['id', head.id],
    ['principal', head.principal ?? ''],
    ['created', time(head.created)],
    ['expires', `${time(head.expiration)}${head.live ? '' : ' (it has expired)'}`],
    ['at the latest', time(head.absolute)],
    ['revision', String(head.revision)],
    ['holds', `${plural(stored.length, 'key')}, ${size(stored.reduce((sum, { bytes }) => sum + bytes, 0))}`],
  ])

const entriesOf = (stored: readonly Stored[], values: boolean): string =>
  table(
    ['BYTES', 'KEY', ...(values ? ['VALUE'] : [])],
    stored.map(({ key, bytes, value }) => [bytes, key, ...(values ? [value ?? ''] : [])]),
  )

// The schema commands work with any state of the database. Only `schema upgrade` changes it.

interface Found {
  readonly state: 'current' | 'missing' | 'older' | 'newer' | 'foreign'
  /** `null` if the tables are not keyrow's. */
  readonly version: number | null
  readonly problem?: string
  readonly made: readonly MadeVersion[]
}

const stateOf = ({ version }: SchemaState): Found['state'] => {
  if (version === 0) return 'missing'
  if (version === LATEST) return 'current'
  return version < LATEST ? 'older' : 'newer'
}

export const schemaStatus = ({ database, schema, terminal }: Context): Task =>
  pipe(
    schemaState(database, schema),
    TE.map((state): Found => ({ state: stateOf(state), version: state.version, made: state.made })),
    TE.orElse(
      (error): TE.TaskEither<Failure, Found> =>
        error instanceof SchemaMismatch
          ? TE.right({ state: 'foreign', version: null, made: [], problem: error.problem })
          : TE.left(error),
    ),
    TE.map((found) => {
      printStatus(terminal, schema, found)
      return found.state === 'current' ? EXIT.done : EXIT.schema
    }),
  )

const printStatus = (terminal: Terminal, schema: string, found: Found): void => {
  const made = found.made.map(({ version, madeAt, madeBy }) => ({ version, madeAt: iso(madeAt), madeBy }))
  terminal.print({ schema: bare(schema), ...found, wanted: LATEST, release: RELEASE, made }, () =>
    [
      pairs([
        ['schema', bare(schema)],
        ['state', STATES[found.state]],
        ['version', found.version === null ? 'none' : String(found.version)],
        ['wanted', `${String(LATEST)} by keyrow ${RELEASE}`],
        ...(found.problem === undefined ? [] : [['problem', found.problem] as const]),
      ]),
      ...(made.length === 0 ? [] : ['', historyOf(found.made)]),
    ].join('\n'),
  )
}

const STATES: Readonly<Record<Found['state'], string>> = {
  current: 'current',
  missing: 'missing: keyrow schema upgrade creates the tables',
  older: 'older: keyrow schema upgrade upgrades the tables',
  newer: 'newer: a newer release of keyrow is needed',
  foreign: "foreign: its tables are not keyrow's",
}

const historyOf = (made: readonly MadeVersion[]): string =>
  table(
    ['VERSION', 'MADE AT', 'BY KEYROW'],
    made.map(({ version, madeAt, madeBy }) => [version, time(madeAt), madeBy]),
  )

export const printSchema = (terminal: Terminal, schema: string, from: number): number => {
  const sql = schemaSql(schema, from)
  terminal.print({ schema: bare(schema), from, to: LATEST, sql }, () => sql)
  return EXIT.done
}

export const schemaUpgrade = ({ database, schema, terminal }: Context): Task =>
  pipe(
    upgradeSchema(database, schema),
    TE.map(({ from, to }) => {
      terminal.print({ schema: bare(schema), from, to }, () =>
        from === to
          ? `Schema ${bare(schema)} has version ${String(to)} already.`
          : `Schema ${bare(schema)}: version ${String(to)}, before ${from === 0 ? 'none' : String(from)}.`,
      )
      return EXIT.done
    }),
    reporting(terminal),
  )

/** Reports the elapsed time: one statement may take minutes. */
const reporting =
  (terminal: Terminal) =>
  (task: Task): Task =>
  async () => {
    const began = performance.now()
    const report = (): void => terminal.progress(`upgrading for ${duration(performance.now() - began)}`)
    const timer = setInterval(report, 500)
    try {
      return await task()
    } finally {
      clearInterval(timer)
    }
  }
