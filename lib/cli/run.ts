// Runs one command from its arguments to its exit code: opens the database, and closes it.
import * as E from 'fp-ts/lib/Either.js'
import { RELEASE } from '../core/process.js'
import { readCommitted } from '../db/database.js'
import { type Command, type CommandOf, commandOf, type DatabaseCommand, HELP } from './arguments.js'
import { cleanup, end, migrate } from './batch-commands.js'
import { doctor } from './doctor.js'
import { type Context, openDatabase, type Task } from './open.js'
import { printSchema, schemaStatus, schemaUpgrade, sessions, show } from './sessions.js'
import { EXIT, type Failure, Rejection, type Terminal } from './terminal.js'

export const run = async (
  argv: readonly string[],
  databaseUrl: string | undefined,
  terminal: Terminal,
  signal: AbortSignal,
): Promise<number> => {
  const command = commandOf(argv, databaseUrl)
  if (E.isLeft(command)) return terminal.fail(command.left)
  const result = await perform(command.right, terminal, signal)
  return E.isLeft(result) ? terminal.fail(result.left) : result.right
}

const perform = async (
  command: Command,
  terminal: Terminal,
  signal: AbortSignal,
): Promise<E.Either<Failure, number>> => {
  switch (command.verb) {
    case 'help':
      terminal.print({ help: HELP }, () => HELP)
      return E.right(command.exitCode)
    case 'version':
      terminal.print({ version: RELEASE }, () => RELEASE)
      return E.right(EXIT.done)
    case 'schema print':
      return E.right(printSchema(terminal, command.schema, command.from))
    default:
      return performOnDatabase(command, terminal, signal)
  }
}

const performOnDatabase = async (
  command: DatabaseCommand,
  terminal: Terminal,
  signal: AbortSignal,
): Promise<E.Either<Failure, number>> => {
  const opened = await openDatabase(command)()
  if (E.isLeft(opened)) return opened
  const { database, abandon } = opened.right
  const { schema } = command.target
  const task = taskOf(command, { database: readCommitted(database), schema, terminal, signal })
  // A command that works in batches ends by itself after the current one.
  const hasBatches = ['cleanup', 'migrate', 'end'].includes(command.verb)
  const result = hasBatches ? await task() : await Promise.race([task(), interrupted(signal)])
  await (signal.aborted ? abandon() : database.close())
  return result
}

type Verb = DatabaseCommand['verb']

type Handlers = { readonly [V in Verb]: (context: Context, command: CommandOf<V>) => Task }

const HANDLERS: Handlers = {
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

const interrupted = (signal: AbortSignal): Promise<E.Either<Rejection, number>> =>
  new Promise((resolve) => {
    const answer = (): void => resolve(E.left(new Rejection(signal.reason as number, 'interrupted')))
    if (signal.aborted) answer()
    else signal.addEventListener('abort', answer, { once: true })
  })
