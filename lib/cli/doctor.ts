// `doctor`: looks, and changes nothing. A database that is not reached is no finding but a failure.
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import { type DriverError, SchemaMismatch } from '../base/errors.js'
import type { Database } from '../port/database.js'
import {
  clockFigures,
  hazardFigures,
  routeFigures,
  type SchemaFigures,
  schemaFigures,
  serverFigures,
} from '../sql/figures.js'
import { prepareSchema } from '../sql/schema.js'
import { bare, schemaState } from '../sql/schema-state.js'
import {
  type Check,
  clockCheck,
  figureChecks,
  hazardChecks,
  routeCheck,
  schemaCheck,
  serverChecks,
  sizesOf,
} from './checks.js'
import type { Context, Ending } from './context.js'
import { EXIT } from './failure.js'
import type { Terminal } from './terminal.js'
import { iso, size, table } from './text.js'

interface Diagnosis {
  readonly checks: readonly Check[]
  /** None when the schema is not ours. */
  readonly figures?: SchemaFigures
}

export const doctor = ({ database, schema, terminal }: Context): Ending =>
  pipe(
    TE.Do,
    TE.apS('server', examineServer(database, schema)),
    TE.bind('schema', () => examineSchema(database, schema)),
    TE.map(({ server, schema: { checks, figures } }) => {
      const all = [...server, ...checks]
      printDiagnosis(terminal, schema, all, figures)
      return all.some(({ state }) => state === 'problem') ? EXIT.problem : EXIT.done
    }),
  )

const examineServer = (database: Database, schema: string): TE.TaskEither<DriverError, readonly Check[]> =>
  pipe(
    TE.Do,
    TE.apS('server', serverFigures(database)),
    TE.bind('clock', () => clockFigures(database)),
    TE.bind('routes', () => routeFigures(database)),
    // Before the schema is looked at: rows that are hidden make it look like another one.
    TE.bind('hazards', () => hazardFigures(database, schema)),
    TE.map(({ server, clock, routes, hazards }) => [
      ...serverChecks(server, clock.roundTrip),
      routeCheck(routes),
      clockCheck(clock),
      ...hazardChecks(hazards),
    ]),
  )

const examineSchema = (database: Database, schema: string): TE.TaskEither<DriverError, Diagnosis> =>
  pipe(
    prepareSchema(database, schema, false),
    TE.chainW(() => schemaState(database, schema)),
    TE.bindTo('state'),
    TE.bindW('figures', () => schemaFigures(database, schema)),
    TE.map(({ state, figures }): Diagnosis => {
      return { checks: [schemaCheck(state), ...figureChecks(figures)], figures }
    }),
    TE.orElse((error) =>
      error instanceof SchemaMismatch
        ? TE.right<DriverError, Diagnosis>({
            checks: [{ check: 'schema', state: 'problem', says: error.problem }],
          })
        : TE.left(error),
    ),
  )

const printDiagnosis = (
  terminal: Terminal,
  schema: string,
  checks: readonly Check[],
  figures: SchemaFigures | undefined,
): void => {
  terminal.print({ schema: bare(schema), checks, ...dataOf(figures) }, () =>
    [
      table(
        ['STATE', 'CHECK', ''],
        checks.map(({ state, check, says }) => [state, check, says]),
      ),
      ...(figures === undefined ? [] : ['', sizes(figures)]),
    ].join('\n'),
  )
}

const dataOf = (figures: SchemaFigures | undefined) =>
  figures === undefined
    ? {}
    : {
        figures: {
          ...figures,
          tables: figures.tables.map((one) => ({
            ...one,
            vacuumed: one.vacuumed === null ? null : iso(one.vacuumed),
          })),
        },
      }

const sizes = ({ tables }: SchemaFigures): string => {
  const all = tables.reduce((sum, { total }) => sum + total, 0)
  return `${table(['TABLE', 'ROWS', 'ROWS TAKE', 'INDEXES TAKE', 'IN ALL'], sizesOf(tables))}\nIn all: ${size(all)}`
}
