// The commands that work in batches: `end`, `cleanup` and `migrate`. Ctrl-C ends them after the current batch.

import { DriverError, withMessage } from '../core/errors.js'
import { E, pipe, TE } from '../core/prelude.cjs'
import { retried, retryPolicyOf } from '../db/deadline.js'
import { connectPgSimple, type MigrationResult, migrateSessions } from '../express-session/migrate.js'
import { bare } from '../sql/schema.js'
import { sessionStore } from '../sql/store.js'
import { type DeletedExpired, deleteExpiredSessions } from '../store/cleanup.js'
import { type Admin, adminOver, type EndedBatch, FIRST_ID, type Scope } from './admin.js'
import { COUNT_LIMIT } from './admin-sql.js'
import type { CommandOf } from './arguments.js'
import { type Context, onCurrentSchema, PATIENT, type Task } from './open.js'
import { EXIT, type Failure, type Output, plural, Rejection, usage } from './terminal.js'

/** Makes the output of a command that works in batches. After an interruption, the exit code depends on the signal. */
const outputOf =
  <R extends { readonly finished: boolean }>({ signal }: Context, text: (result: R) => string) =>
  (result: R): Output => ({
    data: result,
    text: () => text(result),
    exitCode: result.finished || !signal.aborted ? EXIT.done : (signal.reason as number),
  })

const INTERRUPTED = 'Interrupted: there may be more.'

/** Adds `done` to an error's message. `done` says how many sessions were ended or migrated before the error. */
const failedAfter = (error: DriverError, done: string): DriverError =>
  withMessage(error, `${error.message}; before that ${done}`)

const storeOf = ({ database, schema }: Context, lifetimes = {}) =>
  sessionStore(database, { schema: bare(schema), upgradeSchema: false, retry: PATIENT, ...lifetimes })

type EndOptions = CommandOf<'end'>

interface Ended {
  readonly ended: number
  readonly finished: boolean
}

export const end = (context: Context, options: EndOptions): Task => {
  if (!options.yes && !context.terminal.canAsk)
    return TE.left(usage('end: stdin is not a terminal, so nobody can confirm; say --yes'))
  const admin = adminOver(context.database, context.schema)
  return pipe(
    admin.count(options.scope),
    TE.chainW((found) => confirmed(context, options, found)),
    TE.chainW(() => endBatches(context, admin, options)),
    TE.map(outputOf(context, endedText)),
    onCurrentSchema(context),
  )
}

const endedText = ({ ended, finished }: Ended): string =>
  `Ended ${plural(ended, 'session')}.${finished ? '' : ` ${INTERRUPTED}`}`

const confirmed = (
  { terminal, schema, signal }: Context,
  { scope, yes }: EndOptions,
  { count, database }: { readonly count: number; readonly database: string },
): TE.TaskEither<Failure, unknown> => {
  if (scope.kind === 'one' && count === 0)
    return TE.left(new Rejection(EXIT.notFound, `there is no session ${scope.id}`))
  if (yes || count === 0) return TE.right(undefined)
  const question = `End ${described(scope, count)} in database "${database}", schema "${bare(schema)}"?`
  const rejected = (): Rejection =>
    new Rejection(signal.aborted ? (signal.reason as number) : EXIT.interrupted, 'no session was ended')
  return pipe(
    TE.fromTask(() => terminal.ask(question, signal)),
    TE.filterOrElse((isYes) => isYes, rejected),
  )
}

const described = (scope: Scope, count: number): string => {
  if (scope.kind === 'one') return `session ${scope.id}`
  const number =
    count > COUNT_LIMIT ? `more than ${plural(COUNT_LIMIT, 'session')}` : plural(count, 'session')
  if (scope.kind === 'all') return `all sessions (${number})`
  return `${count > COUNT_LIMIT ? '' : 'the '}${number} of "${scope.principal}"`
}

const retry = retried(retryPolicyOf(PATIENT))

const endBatches =
  (
    { terminal, signal }: Context,
    admin: Admin,
    { scope, batch }: EndOptions,
  ): TE.TaskEither<DriverError, Ended> =>
  async () => {
    let ended = 0
    for (let after: string | undefined = FIRST_ID; after !== undefined; ) {
      if (signal.aborted) return E.right({ ended, finished: false })
      const result: E.Either<DriverError, EndedBatch> = await retry(admin.endBatch(scope, after, batch))()
      if (E.isLeft(result)) return E.left(failedAfter(result.left, `${plural(ended, 'session')} ended`))
      ended += result.right.ended
      after = result.right.next
      terminal.progress(`Ended ${plural(ended, 'session')} so far`)
    }
    return E.right({ ended, finished: true })
  }

export const cleanup = (context: Context, { limits }: CommandOf<'cleanup'>): Task => {
  const { signal, terminal } = context
  const onBatch = (soFar: DeletedExpired): void => terminal.progress(`${deleted(soFar)} so far`)
  return pipe(
    deleteExpiredSessions(storeOf(context), { ...limits, signal, onBatch }),
    TE.map(outputOf(context, (result) => `${deleted(result)}. ${restOf(result, signal)}`)),
    onCurrentSchema(context),
  )
}

const deleted = ({ sessions, batches }: DeletedExpired): string =>
  `Deleted ${plural(sessions, 'expired session')} in ${plural(batches, 'batch', 'batches')}`

const restOf = ({ finished, batches }: DeletedExpired, signal: AbortSignal): string => {
  if (finished) return 'No expired session is left.'
  if (signal.aborted) return INTERRUPTED
  return batches === 0 ? 'Another cleanup is running.' : 'The time limit was reached: there may be more.'
}

export const migrate = (context: Context, command: CommandOf<'migrate'>): Task => {
  const { database, signal, terminal } = context
  const { idleMs, absoluteMs, from, batch } = command
  const store = storeOf(context, { idleMs, absoluteMs })
  let soFar = 0
  const onBatch = ({ migrated }: MigrationResult): void => {
    soFar = migrated
    terminal.progress(`Migrated ${plural(soFar, 'session')} so far`)
  }
  return pipe(
    TE.tryCatch(
      () => migrateSessions(store, connectPgSimple(database, from), { batchSize: batch, signal, onBatch }),
      (error) =>
        error instanceof DriverError
          ? failedAfter(error, `${plural(soFar, 'session')} were migrated`)
          : (error as Failure),
    ),
    TE.map(outputOf(context, migratedText)),
    onCurrentSchema(context),
  )
}

const migratedText = ({ migrated, present, rejected, finished }: MigrationResult): string => {
  const all = `Migrated ${plural(migrated, 'session')}; ${present.toLocaleString('en-US')} were migrated before, or have ended.`
  const unstorable = `${plural(rejected, 'session')} cannot be stored (a text with U+0000, for example), and stayed there.`
  return `${all}${rejected === 0 ? '' : ` ${unstorable}`}${finished ? '' : ` ${INTERRUPTED}`}`
}
