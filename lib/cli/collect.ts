// `collect`: deletes expired sessions until none is left, the time is up, or Ctrl-C; then after the batch under way.
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import { type Collected, type CollectOptions, collectGarbage } from '../collector/collect.js'
import { bare } from '../sql/schema-state.js'
import { sessionStore } from '../sql/session-store.js'
import type { DatabaseCommand } from './arguments.js'
import { type Context, type Ending, onOurSchema } from './context.js'
import { EXIT } from './failure.js'
import { PATIENT } from './open.js'
import { plural } from './text.js'

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
