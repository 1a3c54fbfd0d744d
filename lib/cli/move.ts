// `move`: takes over the sessions of connect-pg-simple, in batches, while both stores are at work.
import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import { withMessage } from '../base/effect.js'
import { DriverError } from '../base/errors.js'
import { type Moved, moveSessions } from '../door/express-move.js'
import { connectPgSimple } from '../sql/connect-pg-simple.js'
import { bare } from '../sql/schema-state.js'
import { sessionStore } from '../sql/session-store.js'
import type { DatabaseCommand } from './arguments.js'
import { type Context, type Ending, onOurSchema } from './context.js'
import { EXIT, type Failure } from './failure.js'
import { PATIENT } from './open.js'
import { plural } from './text.js'

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
