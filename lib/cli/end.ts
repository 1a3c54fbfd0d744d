// `end`: one session, those of a principal, or all; in batches, and only after a question.
import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import { DriverError, withMessage } from '../core/errors.js'
import { retried, retryPolicyOf } from '../db/retry.js'
import { connectPgSimple, type MigrationResult, migrateSessions } from '../express-session/migrate.js'
import { bare } from '../sql/schema.js'
import { sessionStore } from '../sql/store.js'
import { type DeletedExpired, type DeleteExpiredOptions, deleteExpiredSessions } from '../store/cleanup.js'
import { type Admin, adminOver, FIRST_ID, type Scope } from './admin.js'
import { COUNT_LIMIT } from './admin-sql.js'
import type { DatabaseCommand } from './arguments.js'
import { type Context, type Ending, onOurSchema, PATIENT } from './open.js'
import { EXIT, type Failure, plural, Rejection, usage } from './terminal.js'

type EndOptions = Extract<DatabaseCommand, { readonly verb: 'end' }>

export const end = (context: Context, options: EndOptions): Ending => {
  const { database, schema, terminal } = context
  if (!options.yes && !terminal.canAsk)
    return TE.left(usage('end: nobody is there to ask whether to end sessions; say --yes'))
  const admin = adminOver(database, schema)
  return pipe(
    admin.count(options.scope),
    TE.chainW((found) => permitted(context, options, found)),
    TE.chainW(() => endBatches(context, admin, options)),
    TE.map(({ ended, finished }) => {
      terminal.print({ ended, finished }, () => endedText(ended, finished))
      return finished ? EXIT.done : (context.signal.reason as number)
    }),
    onOurSchema(context),
  )
}

const endedText = (ended: number, finished: boolean): string =>
  `Ended ${plural(ended, 'session')}.${finished ? '' : ' Interrupted: there may be more.'}`

/** What the count statement found. */
interface Found {
  readonly count: number
  readonly database: string
}

const permitted = (
  { terminal, schema, signal }: Context,
  { scope, yes }: EndOptions,
  { count, database }: Found,
): TE.TaskEither<Failure, unknown> => {
  if (scope.kind === 'one' && count === 0)
    return TE.left(new Rejection(EXIT.notFound, `there is no session ${scope.id}`))
  if (yes || count === 0) return TE.right(undefined)
  const question = `End ${whatOf(scope, count)} in database "${database}", schema "${bare(schema)}"?`
  const rejected = (): Rejection =>
    new Rejection(signal.aborted ? (signal.reason as number) : EXIT.interrupted, 'no session was ended')
  return pipe(
    TE.fromTask(() => terminal.ask(question, signal)),
    TE.filterOrElse((isYes) => isYes, rejected),
  )
}

const whatOf = (scope: Scope, count: number): string => {
  if (scope.kind === 'one') return `session ${scope.id}`
  const many =
    count > COUNT_LIMIT ? `more than ${plural(COUNT_LIMIT, 'session')}` : `the ${plural(count, 'session')}`
  return scope.kind === 'all'
    ? `all sessions (${many.replace(/^the /, '')})`
    : `${many} of "${scope.principal}"`
}

interface Ended {
  readonly ended: number
  readonly finished: boolean
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
      const result: Awaited<ReturnType<ReturnType<Admin['endBatch']>>> = await retry(
        admin.endBatch(scope, after, batch),
      )()
      if (E.isLeft(result)) return E.left(failedAfterEnding(ended, result.left))
      ended += result.right.ended
      after = result.right.next
      terminal.progress(`Ended ${plural(ended, 'session')} so far`)
    }
    return E.right({ ended, finished: true })
  }

/** The batches before it are done, and stay so. */
const failedAfterEnding = (ended: number, error: DriverError): DriverError =>
  withMessage(error, `${error.message}; before that ${plural(ended, 'session')} ended`)

// `collect`: deletes expired sessions until none is left, the time is up, or Ctrl-C; then after the batch under way.

type CleanupCommand = Extract<DatabaseCommand, { readonly verb: 'cleanup' }>

export const cleanup = (context: Context, options: CleanupCommand): Ending => {
  const { database, schema, signal, terminal } = context
  const store = sessionStore(database, {
    schema: bare(schema),
    upgradeSchema: false,
    retry: PATIENT,
  })
  const limits: DeleteExpiredOptions = {
    ...(options.batch === undefined ? {} : { batchSize: options.batch }),
    ...(options.delayMs === undefined ? {} : { delayMs: options.delayMs }),
    ...(options.totalTimeoutMs === undefined ? {} : { totalTimeoutMs: options.totalTimeoutMs }),
  }
  const onBatch = (soFar: DeletedExpired): void => terminal.progress(`${deleted(soFar)} so far`)
  return pipe(
    deleteExpiredSessions(store, { ...limits, signal, onBatch }),
    TE.map((removed) => {
      terminal.print(removed, () => `${deleted(removed)}. ${restOf(removed, signal)}`)
      return !removed.finished && signal.aborted ? (signal.reason as number) : EXIT.done
    }),
    onOurSchema(context),
  )
}

const deleted = ({ sessions, batches }: DeletedExpired): string =>
  `Deleted ${plural(sessions, 'expired session')} in ${plural(batches, 'batch', 'batches')}`

const restOf = ({ finished, batches }: DeletedExpired, signal: AbortSignal): string => {
  if (finished) return 'Nothing is left to collect.'
  if (signal.aborted) return 'Interrupted: there may be more.'
  return batches === 0 ? 'Another collector is at work.' : 'The time was up: there may be more.'
}

// `move`: takes over the sessions of connect-pg-simple, in batches, while both stores are at work.

type MigrateCommand = Extract<DatabaseCommand, { readonly verb: 'migrate' }>

export const migrate = (context: Context, options: MigrateCommand): Ending =>
  pipe(
    migrateBatches(context, options),
    TE.map((migrated) => {
      context.terminal.print(migrated, () => migratedText(migrated))
      return migrated.finished ? EXIT.done : (context.signal.reason as number)
    }),
    onOurSchema(context),
  )

const migrateBatches =
  (
    { database, schema, signal, terminal }: Context,
    { from, idleMs, absoluteMs, batch }: MigrateCommand,
  ): TE.TaskEither<Failure, MigrationResult> =>
  async () => {
    const common = { upgradeSchema: false, retry: PATIENT }
    const store = sessionStore(database, { schema: bare(schema), idleMs, absoluteMs, ...common })
    let before = 0
    const onBatch = ({ migrated }: MigrationResult): void => {
      before = migrated
      terminal.progress(`Moved ${plural(migrated, 'session')} so far`)
    }
    try {
      return E.right(
        await migrateSessions(store, connectPgSimple(database, from), { batchSize: batch, signal, onBatch }),
      )
    } catch (error) {
      return E.left(error instanceof DriverError ? failedAfterMigrating(before, error) : (error as Failure))
    }
  }

const migratedText = ({ migrated, present, rejected, finished }: MigrationResult): string => {
  const parts = [
    `Moved ${plural(migrated, 'session')}; ${present.toLocaleString('en-US')} had been moved before, or have ended.`,
    ...(rejected === 0
      ? []
      : [
          `${plural(rejected, 'session')} cannot be stored (U+0000 in a text, say), and stayed where they are.`,
        ]),
    ...(finished ? [] : ['Interrupted: there may be more.']),
  ]
  return parts.join(' ')
}

/** The batches before it are done, and stay so. */
const failedAfterMigrating = (migrated: number, error: DriverError): DriverError =>
  withMessage(error, `${error.message}; before that ${plural(migrated, 'session')} were moved`)
