// The commands that work in batches: `end`, `cleanup` and `migrate`. Ctrl-C ends them after the current batch.
import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import { DriverError, withMessage } from '../core/errors.js'
import { retried, retryPolicyOf } from '../db/deadline.js'
import { connectPgSimple, type MigrationResult, migrateSessions } from '../express-session/migrate.js'
import { bare } from '../sql/schema.js'
import { sessionStore } from '../sql/store.js'
import { type DeletedExpired, deleteExpiredSessions } from '../store/cleanup.js'
import { type Admin, adminOver, FIRST_ID, type Scope } from './admin.js'
import { COUNT_LIMIT } from './admin-sql.js'
import type { CommandOf } from './arguments.js'
import { type Context, onCurrentSchema, PATIENT, type Task } from './open.js'
import { EXIT, type Failure, plural, Rejection, usage } from './terminal.js'

interface Result {
  readonly finished: boolean
}

/** Prints the result of the batches; gives the exit code, which is the signal's after an interruption. */
const printResult =
  <R extends Result>({ terminal, signal }: Context, text: (result: R) => string) =>
  (result: R): number => {
    terminal.print(result, () => text(result))
    return result.finished || !signal.aborted ? EXIT.done : (signal.reason as number)
  }

const INTERRUPTED = 'Interrupted: there may be more.'

/** An error with the number of sessions that the batches before it have ended or migrated. */
const failedAfter = (error: DriverError, done: string): DriverError =>
  withMessage(error, `${error.message}; before that ${done}`)

type EndOptions = CommandOf<'end'>

export const end = (context: Context, options: EndOptions): Task => {
  const { database, schema, terminal } = context
  if (!options.yes && !terminal.canAsk)
    return TE.left(usage('end: stdin is not a terminal, so nobody can confirm; say --yes'))
  const admin = adminOver(database, schema)
  return pipe(
    admin.count(options.scope),
    TE.chainW((found) => confirmed(context, options, found)),
    TE.chainW(() => endBatches(context, admin, options)),
    TE.map(
      printResult(
        context,
        ({ ended, finished }) => `Ended ${plural(ended, 'session')}.${finished ? '' : ` ${INTERRUPTED}`}`,
      ),
    ),
    onCurrentSchema(context),
  )
}

interface Found {
  readonly count: number
  readonly database: string
}

const confirmed = (
  { terminal, schema, signal }: Context,
  { scope, yes }: EndOptions,
  { count, database }: Found,
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
  ): TE.TaskEither<DriverError, Result & { readonly ended: number }> =>
  async () => {
    let ended = 0
    for (let after: string | undefined = FIRST_ID; after !== undefined; ) {
      if (signal.aborted) return E.right({ ended, finished: false })
      const result: Awaited<ReturnType<ReturnType<Admin['endBatch']>>> = await retry(
        admin.endBatch(scope, after, batch),
      )()
      if (E.isLeft(result)) return E.left(failedAfter(result.left, `${plural(ended, 'session')} ended`))
      ended += result.right.ended
      after = result.right.next
      terminal.progress(`Ended ${plural(ended, 'session')} so far`)
    }
    return E.right({ ended, finished: true })
  }

type CleanupCommand = CommandOf<'cleanup'>

export const cleanup = (context: Context, { limits }: CleanupCommand): Task => {
  const { database, schema, signal, terminal } = context
  const store = sessionStore(database, { schema: bare(schema), upgradeSchema: false, retry: PATIENT })
  const onBatch = (soFar: DeletedExpired): void => terminal.progress(`${deleted(soFar)} so far`)
  return pipe(
    deleteExpiredSessions(store, { ...limits, signal, onBatch }),
    TE.map(printResult(context, (result) => `${deleted(result)}. ${restOf(result, signal)}`)),
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

type MigrateCommand = CommandOf<'migrate'>

export const migrate = (context: Context, command: MigrateCommand): Task =>
  pipe(migrateBatches(context, command), TE.map(printResult(context, migratedText)), onCurrentSchema(context))

const migrateBatches =
  (
    { database, schema, signal, terminal }: Context,
    { from, idleMs, absoluteMs, batch }: MigrateCommand,
  ): TE.TaskEither<Failure, MigrationResult> =>
  async () => {
    const common = { upgradeSchema: false, retry: PATIENT }
    const store = sessionStore(database, { schema: bare(schema), idleMs, absoluteMs, ...common })
    let soFar = 0
    const onBatch = ({ migrated }: MigrationResult): void => {
      soFar = migrated
      terminal.progress(`Migrated ${plural(migrated, 'session')} so far`)
    }
    try {
      return E.right(
        await migrateSessions(store, connectPgSimple(database, from), { batchSize: batch, signal, onBatch }),
      )
    } catch (error) {
      if (!(error instanceof DriverError)) return E.left(error as Failure)
      return E.left(failedAfter(error, `${plural(soFar, 'session')} were migrated`))
    }
  }

const migratedText = ({ migrated, present, rejected, finished }: MigrationResult): string =>
  [
    `Migrated ${plural(migrated, 'session')}; ${present.toLocaleString('en-US')} were migrated before, or have ended.`,
    ...(rejected === 0
      ? []
      : [
          `${plural(rejected, 'session')} cannot be stored (a text with U+0000, for example), and stayed there.`,
        ]),
    ...(finished ? [] : [INTERRUPTED]),
  ].join(' ')
