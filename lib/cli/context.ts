// What a verb gets, and what it gives: an exit code.
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import type { Database } from '../port/database.js'
import { prepareSchema } from '../sql/schema.js'
import type { Failure } from './failure.js'
import type { Terminal } from './terminal.js'

export interface Context {
  readonly database: Database
  /** A quoted identifier. */
  readonly schema: string
  readonly terminal: Terminal
  /** Aborted by Ctrl-C; its reason is the exit code. */
  readonly signal: AbortSignal
}

export type Ending = TE.TaskEither<Failure, number>

/** Goes on only if the database holds our version; never upgrades. */
export const onOurSchema =
  ({ database, schema }: Context) =>
  (verb: Ending): Ending =>
    pipe(
      prepareSchema(database, schema, false),
      TE.chainW(() => verb),
    )
