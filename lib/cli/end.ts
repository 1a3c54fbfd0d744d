// `end`: one session, those of a principal, or all; in batches, and only after a question.
import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import { DriverError, withMessage } from '../core/errors.js'
import { retried, retryPolicyOf } from '../db/retry.js'
import { connectPgSimple, type Moved, moveSessions } from '../express-session/migrate.js'
import { bare } from '../sql/schema.js'
import { sessionStore } from '../sql/store.js'
import { type Collected, type CollectOptions, collectGarbage } from '../store/cleanup.js'
import { FIRST_ID, type Operator, operatorOver, type Scope } from './admin.js'
import { COUNT_LIMIT } from './admin-sql.js'
import type { DatabaseCommand } from './arguments.js'
import { type Context, type Ending, onOurSchema, PATIENT } from './open.js'
import { EXIT, type Failure, plural, Refusal, usage } from './terminal.js'

type EndOptions = Extract<DatabaseCommand, { readonly verb: 'end' }>

export const end = (context: Context, options: EndOptions): Ending => {
  const { database, schema, terminal } = context
  if (!options.yes && !terminal.canAsk)
    return TE.left(usage('end: nobody is there to ask whether to end sessions; say --yes'))
  const operator = operatorOver(database, schema)
  return pipe(
    operator.count(options.scope),
    TE.chainW((found) => permitted(context, options, found)),
    TE.chainW(() => endBatches(context, operator, options)),
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
    return TE.left(new Refusal(EXIT.notFound, `there is no session ${scope.id}`))
  if (yes || count === 0) return TE.right(undefined)
  const question = `End ${whatOf(scope, count)} in database "${database}", schema "${bare(schema)}"?`
  const refused = (): Refusal =>
    new Refusal(signal.aborted ? (signal.reason as number) : EXIT.interrupted, 'no session was ended')
  return pipe(
    TE.fromTask(() => terminal.ask(question, signal)),
    TE.filterOrElse((isYes) => isYes, refused),
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

const again = retried(retryPolicyOf(PATIENT))

const endBatches =
  (
    { terminal, signal }: Context,
    operator: Operator,
    { scope, batch }: EndOptions,
  ): TE.TaskEither<DriverError, Ended> =>
  async () => {
    let ended = 0
    for (let after: string | undefined = FIRST_ID; after !== undefined; ) {
      if (signal.aborted) return E.right({ ended, finished: false })
      const result: Awaited<ReturnType<ReturnType<Operator['endBatch']>>> = await again(
        operator.endBatch(scope, after, batch),
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

type CollectCommand = Extract<DatabaseCommand, { readonly verb: 'collect' }>

export const collect = (context: Context, options: CollectCommand): Ending => {
  const { database, schema, signal, terminal } = context
  const store = sessionStore(database, {
    schema: bare(schema),
    upgradeSchema: false,
    retry: PATIENT,
  })
  const limits: CollectOptions = {
    ...(options.batch === undefined ? {} : { batch: options.batch }),
    ...(options.pauseMs === undefined ? {} : { pauseMs: options.pauseMs }),
    ...(options.withinMs === undefined ? {} : { withinMs: options.withinMs }),
  }
  const onBatch = (soFar: Collected): void => terminal.progress(`${deleted(soFar)} so far`)
  return pipe(
    collectGarbage(store, { ...limits, signal, onBatch }),
    TE.map((collected) => {
      terminal.print(collected, () => `${deleted(collected)}. ${restOf(collected, signal)}`)
      return !collected.finished && signal.aborted ? (signal.reason as number) : EXIT.done
    }),
    onOurSchema(context),
  )
}

const deleted = ({ sessions, batches }: Collected): string =>
  `Deleted ${plural(sessions, 'expired session')} in ${plural(batches, 'batch', 'batches')}`

const restOf = ({ finished, batches }: Collected, signal: AbortSignal): string => {
  if (finished) return 'Nothing is left to collect.'
  if (signal.aborted) return 'Interrupted: there may be more.'
  return batches === 0 ? 'Another collector is at work.' : 'The time was up: there may be more.'
}

// `move`: takes over the sessions of connect-pg-simple, in batches, while both stores are at work.

type MoveCommand = Extract<DatabaseCommand, { readonly verb: 'move' }>

export const move = (context: Context, options: MoveCommand): Ending =>
  pipe(
    moveBatches(context, options),
    TE.map((moved) => {
      context.terminal.print(moved, () => movedText(moved))
      return moved.finished ? EXIT.done : (context.signal.reason as number)
    }),
    onOurSchema(context),
  )

const moveBatches =
  (
    { database, schema, signal, terminal }: Context,
    { from, idleMs, absoluteMs, batch }: MoveCommand,
  ): TE.TaskEither<Failure, Moved> =>
  async () => {
    const common = { upgradeSchema: false, retry: PATIENT }
    const store = sessionStore(database, { schema: bare(schema), idleMs, absoluteMs, ...common })
    let before = 0
    const onBatch = ({ moved }: Moved): void => {
      before = moved
      terminal.progress(`Moved ${plural(moved, 'session')} so far`)
    }
    try {
      return E.right(await moveSessions(store, connectPgSimple(database, from), { batch, signal, onBatch }))
    } catch (error) {
      return E.left(error instanceof DriverError ? failedAfterMoving(before, error) : (error as Failure))
    }
  }

const movedText = ({ moved, present, refused, finished }: Moved): string => {
  const parts = [
    `Moved ${plural(moved, 'session')}; ${present.toLocaleString('en-US')} had been moved before, or have ended.`,
    ...(refused === 0
      ? []
      : [
          `${plural(refused, 'session')} cannot be stored (U+0000 in a text, say), and stayed where they are.`,
        ]),
    ...(finished ? [] : ['Interrupted: there may be more.']),
  ]
  return parts.join(' ')
}

/** The batches before it are done, and stay so. */
const failedAfterMoving = (moved: number, error: DriverError): DriverError =>
  withMessage(error, `${error.message}; before that ${plural(moved, 'session')} were moved`)
