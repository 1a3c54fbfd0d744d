#!/usr/bin/env node
// Runs one command of `npx keyrow`. Opens the database before the command, and closes the database afterwards. After
// Ctrl-C the process closes the database and exits. A second Ctrl-C ends the process at once.

import { once } from 'node:events'
import { E, pipe, TE } from '../core/prelude.cjs'
import { readCommitted } from '../db/database.js'
import { type CommandOf, commandOf, type DatabaseCommand } from './arguments.js'
import { cleanup, end, migrate } from './batch-commands.js'
import { doctor } from './doctor.js'
import { flowsDrop, flowsList, flowsShow } from './flows.js'
import { type Context, openDatabase, type Task } from './open.js'
import { schemaStatus, schemaUpgrade, sessions, show } from './sessions.js'
import { EXIT, type Failure, Rejection, secretsIn, type Terminal, terminalOf } from './terminal.js'

const run = (
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
    // After a signal, a command that works in batches ends by itself after the current batch.
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
  'flows list': flowsList,
  'flows show': flowsShow,
  'flows drop': flowsDrop,
}

const taskOf = <V extends Verb>(command: CommandOf<V>, context: Context): Task =>
  HANDLERS[command.verb](context, command)

const interrupted = async (signal: AbortSignal): Promise<E.Either<Rejection, number>> => {
  if (!signal.aborted) await once(signal, 'abort')
  return E.left(new Rejection(signal.reason as number, 'interrupted'))
}

const { DATABASE_URL: databaseUrl, PGPASSWORD: password } = process.env
const argv = process.argv.slice(2)
const terminal = terminalOf(argv.includes('--json'), secretsIn([databaseUrl, ...argv], password))

/** A second signal within this time is ignored, because npx repeats the signal that Ctrl-C has sent to the process. */
const SAME_SIGNAL_MS = 1_000

const interruption = new AbortController()
let at = 0
for (const [signal, code] of [
  ['SIGINT', EXIT.interrupted],
  ['SIGTERM', 143],
] as const)
  process.on(signal, () => {
    if (!interruption.signal.aborted) at = performance.now()
    else if (performance.now() - at > SAME_SIGNAL_MS) process.exit(code)
    interruption.abort(code)
  })

// A reader of the output, such as `head`, may close the pipe early. This is not a failure.
process.stdout.on('error', ({ code }: NodeJS.ErrnoException) =>
  process.exit(code === 'EPIPE' ? EXIT.done : EXIT.failed),
)
process.stderr.on('error', () => undefined)
// Only the message of the error is printed, without passwords. The stack would repeat the message with the passwords.
process.on('uncaughtException', (error) => process.exit(terminal.fail(error)))

const exitCode = await run(argv, databaseUrl, terminal, interruption.signal)
// An interrupted statement may still wait for its deadline. The process exits without waiting for this statement.
if (interruption.signal.aborted) process.stdout.write('', () => process.exit(exitCode))
process.exitCode = exitCode
