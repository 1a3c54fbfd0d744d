#!/usr/bin/env node
import { run } from './run.js'
// `npx keyrow` is the process of one command. Ctrl-C ends it cleanly, and a second Ctrl-C ends it at once.
import { EXIT, secretsIn, terminalOf } from './terminal.js'

const { DATABASE_URL: databaseUrl, PGPASSWORD: password } = process.env
const argv = process.argv.slice(2)
const terminal = terminalOf(argv.includes('--json'), secretsIn([databaseUrl, ...argv], password))

/** A second signal within this time is ignored, because npx forwards a signal that the terminal has already sent. */
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

// It is not a failure if the reader of the output, such as `head`, closes the pipe early.
process.stdout.on('error', ({ code }: NodeJS.ErrnoException) =>
  process.exit(code === 'EPIPE' ? EXIT.done : EXIT.failed),
)
process.stderr.on('error', () => undefined)
// The error is printed without its stack, which may quote any data.
process.on('uncaughtException', (error) => process.exit(terminal.fail(error)))

const exitCode = await run(argv, databaseUrl, terminal, interruption.signal)
// The process does not wait for an abandoned statement, which may still wait for its deadline.
if (interruption.signal.aborted) process.stdout.write('', () => process.exit(exitCode))
process.exitCode = exitCode
