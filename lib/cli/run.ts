// Parses the arguments, opens the database, runs the command, closes the database, and returns the exit code.

import { once } from 'node:events'
import { E, pipe, TE } from '../core/prelude.cjs'
import { readCommitted } from '../db/database.js'
import { type CommandOf, commandOf, type DatabaseCommand } from './arguments.js'
import { cleanup, end, migrate } from './batch-commands.js'
import { doctor } from './doctor.js'
import { type Context, openDatabase, type Task } from './open.js'
import { schemaStatus, schemaUpgrade, sessions, show } from './sessions.js'
import { type Failure, Rejection, type Terminal } from './terminal.js'

export const run = (
  argv: readonly string[],
  databaseUrl: string | undefined,
  terminal: Terminal,
  signal: AbortSignal,
): Promise<number> =>
  pipe(
    TE.fromEither(commandOf(argv, databaseUrl)),
    TE.chainW((command) =>
      'target' in command ? onDatabase(command, terminal, signal) : TE.right(terminal.print(command)),
    ),
    TE.getOrElse((failure) => () => Promise.resolve(terminal.fail(failure))),
  )()

const onDatabase =
  (command: DatabaseCommand, terminal: Terminal, signal: AbortSignal): TE.TaskEither<Failure, number> =>
  async () => {
    const opened = await openDatabase(command)()
    if (E.isLeft(opened)) return opened
    const { database, abandon } = opened.right
    const { schema } = command.target
    const context = { database: readCommitted(database), schema, terminal, signal }
    const task = pipe(taskOf(command, context), TE.map(terminal.print))
    // A command that works in batches ends by itself after the current batch.
    const hasBatches = ['cleanup', 'migrate', 'end'].includes(command.verb)
    const result = hasBatches ? await task() : await Promise.race([task(), interrupted(signal)])
    await (signal.aborted ? abandon() : database.close())
    return result
  }

type Verb = DatabaseCommand['verb']

const HANDLERS: { readonly [V in Verb]: (context: Context, command: CommandOf<V>) => Task } = {
  'schema status': schemaStatus,
  'schema upgrade': schemaUpgrade,
  doctor,
  cleanup,
  migrate,
  sessions,
  show,
  end,
}

const taskOf = <V extends Verb>(command: CommandOf<V>, context: Context): Task =>
  HANDLERS[command.verb](context, command)

const interrupted = async (signal: AbortSignal): Promise<E.Either<Rejection, number>> => {
  if (!signal.aborted) await once(signal, 'abort')
  return E.left(new Rejection(signal.reason as number, 'interrupted'))
}
