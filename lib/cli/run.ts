// One command from its arguments to its exit code: the database is opened, used and closed.
import * as E from 'fp-ts/lib/Either.js'
import { RELEASE } from '../core/process.js'
import { readCommitted } from '../db/database.js'
import { type Command, commandOf, type DatabaseCommand, HELP } from './arguments.js'
import { doctor } from './doctor.js'
import { cleanup, end, migrate } from './end.js'
import { type Context, type Ending, openDatabase } from './open.js'
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

const perform = (
  command: Command,
  terminal: Terminal,
  signal: AbortSignal,
): Promise<E.Either<Failure, number>> => {
  switch (command.verb) {
    case 'help':
      terminal.print({ help: HELP }, () => HELP)
      return Promise.resolve(E.right(EXIT.done))
    case 'version':
      terminal.print({ version: RELEASE }, () => RELEASE)
      return Promise.resolve(E.right(EXIT.done))
    case 'schema print':
      return Promise.resolve(E.right(printSchema(terminal, command.schema, command.from)))
    default:
      return performOn(command, terminal, signal)
  }
}

const performOn = async (
  command: DatabaseCommand,
  terminal: Terminal,
  signal: AbortSignal,
): Promise<E.Either<Failure, number>> => {
  const opened = await openDatabase(command)()
  if (E.isLeft(opened)) return opened
  const { database, abandon } = opened.right
  const task = endingOf(command, {
    database: readCommitted(database),
    schema: command.target.schema,
    terminal,
    signal,
  })
  // What goes in batches ends by itself, after the one that is under way.
  const patient = ['cleanup', 'migrate', 'end'].includes(command.verb)
  const result = patient ? await task() : await Promise.race([task(), interrupted(signal)])
  await (signal.aborted ? abandon() : database.close())
  return result
}

const endingOf = (command: DatabaseCommand, context: Context): Ending => {
  switch (command.verb) {
    case 'schema status':
      return schemaStatus(context)
    case 'schema upgrade':
      return schemaUpgrade(context)
    case 'doctor':
      return doctor(context)
    case 'cleanup':
      return cleanup(context, command)
    case 'migrate':
      return migrate(context, command)
    case 'sessions':
      return sessions(context, command)
    case 'show':
      return show(context, command)
    case 'end':
      return end(context, command)
  }
}

const interrupted = (signal: AbortSignal): Promise<E.Either<Rejection, number>> =>
  new Promise((resolve) => {
    const answer = (): void => resolve(E.left(new Rejection(signal.reason as number, 'interrupted')))
    if (signal.aborted) answer()
    else signal.addEventListener('abort', answer, { once: true })
  })
