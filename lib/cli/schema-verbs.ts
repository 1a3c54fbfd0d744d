// `schema status`, `print` and `upgrade`: they work whatever the database holds, and only the last one changes it.
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import { SchemaMismatch } from '../base/errors.js'
import { RELEASE } from '../base/release.js'
import { LATEST } from '../sql/migrations.js'
import { schemaSql, upgradeSchema } from '../sql/schema.js'
import { bare, type MadeVersion, type SchemaState, schemaState } from '../sql/schema-state.js'
import type { Context, Ending } from './context.js'
import { EXIT, type Failure } from './failure.js'
import type { Terminal } from './terminal.js'
import { duration, iso, pairs, table, time } from './text.js'

interface Found {
  readonly state: 'current' | 'missing' | 'older' | 'newer' | 'foreign'
  /** `null`: not ours, so it has none. */
  readonly version: number | null
  readonly problem?: string
  readonly made: readonly MadeVersion[]
}

const stateOf = ({ version }: SchemaState): Found['state'] => {
  if (version === 0) return 'missing'
  if (version === LATEST) return 'current'
  return version < LATEST ? 'older' : 'newer'
}

export const schemaStatus = ({ database, schema, terminal }: Context): Ending =>
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
        ['state', SAID[found.state]],
        ['version', found.version === null ? 'none' : String(found.version)],
        ['wanted', `${String(LATEST)} by keyrow ${RELEASE}`],
        ...(found.problem === undefined ? [] : [['problem', found.problem] as const]),
      ]),
      ...(made.length === 0 ? [] : ['', historyOf(found.made)]),
    ].join('\n'),
  )
}

const SAID: Readonly<Record<Found['state'], string>> = {
  current: 'current',
  missing: 'missing: keyrow schema upgrade makes the tables',
  older: 'older: keyrow schema upgrade upgrades the tables',
  newer: 'newer: a newer release of keyrow is needed',
  foreign: 'foreign: its tables are not of keyrow',
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

export const schemaUpgrade = ({ database, schema, terminal }: Context): Ending =>
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
    telling(terminal),
  )

/** One statement may take minutes: it says for how long. */
const telling =
  (terminal: Terminal) =>
  (task: Ending): Ending =>
  async () => {
    const began = performance.now()
    const tell = (): void => terminal.progress(`upgrading for ${duration(performance.now() - began)}`)
    const timer = setInterval(tell, 500)
    try {
      return await task()
    } finally {
      clearInterval(timer)
    }
  }
