// `end`: one session, those of a principal, or all; in batches, and only after a question.
import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import { withMessage } from '../base/effect.js'
import type { DriverError } from '../base/errors.js'
import { COUNT_LIMIT } from '../sql/operator.js'
import { FIRST_ID, type Operator, operatorOver, type Scope } from '../sql/operator-store.js'
import { retried, retryPolicyOf } from '../sql/retry.js'
import { bare } from '../sql/schema-state.js'
import type { DatabaseCommand } from './arguments.js'
import { type Context, type Ending, onOurSchema } from './context.js'
import { EXIT, type Failure, Refusal, usage } from './failure.js'
import { PATIENT } from './open.js'
import { plural } from './text.js'

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
