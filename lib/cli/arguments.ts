// Parses the arguments of the command line. No error message repeats an argument that may be a password or a token.

import { parseArgs } from 'node:util'
import { isNumberWithin } from '../core/options.js'
import { E } from '../core/prelude.cjs'
import { RELEASE } from '../core/process.js'
import { LATEST } from '../sql/migrations.js'
import { bare, DEFAULT_SCHEMA, quotedSchema, schemaSql } from '../sql/schema.js'
import type { DeleteExpiredOptions } from '../store/cleanup.js'
import type { Scope } from './admin.js'
import { EXIT, type Output, Rejection, usage } from './terminal.js'

/** A command on a database, or the output of a command that needs no database. */
export type Command = DatabaseCommand | Output

type Verb = keyof typeof VERBS

export type CommandOf<V extends Verb> = ReturnType<(typeof VERBS)[V]['parse']> & {
  readonly verb: V
  readonly target: ReturnType<typeof targetOf>
}

export type DatabaseCommand = { [V in Verb]: CommandOf<V> }[Exclude<Verb, 'schema print'>]

const TEXT = { type: 'string' } as const
const FLAG = { type: 'boolean' } as const

const COMMON = { url: TEXT, directory: TEXT, schema: TEXT, timeout: TEXT, json: FLAG, yes: FLAG }

const OPTIONS = {
  ...COMMON,
  help: FLAG,
  version: FLAG,
  from: TEXT,
  batch: TEXT,
  delay: TEXT,
  'total-timeout': TEXT,
  idle: TEXT,
  absolute: TEXT,
  limit: TEXT,
  values: FLAG,
  principal: TEXT,
  all: FLAG,
}

type Values = ReturnType<typeof parsed>['values']

type Option = keyof Values

const parsed = (argv: readonly string[]) =>
  parseArgs({ args: [...argv], options: OPTIONS, allowPositionals: true, strict: true })

/** Returns the command of these arguments. `databaseUrl` is the value of DATABASE_URL, the default database. */
export const commandOf = (
  argv: readonly string[],
  databaseUrl: string | undefined,
): E.Either<Rejection, Command> =>
  E.tryCatch(
    () => {
      const { values, positionals } = parsed(argv)
      if (values.help === true) return help(EXIT.done)
      if (values.version === true) return { data: { version: RELEASE }, text: () => RELEASE }
      if (positionals.length === 0 && Object.keys(values).every((name) => name === 'json'))
        return help(EXIT.usage)
      const { verb, operands } = verbOf(positionals, values)
      const schema = schemaOf(values.schema)
      if (verb === 'schema print') return schemaSqlFrom(schema, VERBS[verb].parse(values).from)
      const own = VERBS[verb].parse(values, ...operands)
      return { verb, target: targetOf(values, schema, databaseUrl), ...own } as Command
    },
    (error) => (error instanceof Rejection ? error : usage(parseProblem(error))),
  )

const help = (exitCode: number): Output => ({ data: { help: HELP }, text: () => HELP, exitCode })

const schemaSqlFrom = (schema: string, from: number): Output => {
  const sql = schemaSql(schema, from)
  return { data: { schema: bare(schema), from, to: LATEST, sql }, text: () => sql }
}

// The message of `parseArgs` repeats an unknown option. That option may be an address with a password.
const parseProblem = (error: unknown): string => {
  const [first = ''] = (error as Error).message.split(/\.?(\n|$| To specify)/)
  return /:|@|\d/.test(first) ? 'unknown option; see keyrow --help' : `${first}; see keyrow --help`
}

/** Returns the verb, and its operand if there is one. Checks that the verb accepts the given options. */
const verbOf = ([first, ...rest]: readonly string[], values: Values) => {
  if (first === undefined) throw usage('say a command; see keyrow --help')
  const group = Object.hasOwn(GROUPS, first) ? GROUPS[first] : undefined
  const verb = group === undefined ? first : `${first} ${rest.shift() ?? ''}`
  if (!isVerb(verb))
    throw usage(
      group !== undefined
        ? `${first}: say ${group}`
        : `there is no such command${/^[a-z-]{1,20}$/.test(first) ? `: ${first}` : ''}; see keyrow --help`,
    )
  if (rest.length > VERBS[verb].operands)
    throw usage(`${verb}: too many arguments; quote an argument that has spaces`)
  for (const name of Object.keys(values) as Option[])
    if (!(name in COMMON) && !VERBS[verb].own.includes(name)) throw usage(`${verb} has no option --${name}`)
  return { verb, operands: rest }
}

/** The commands of two words, by the first word. */
const GROUPS: Readonly<Record<string, string>> = {
  schema: 'status, print or upgrade',
  flows: 'list, show or drop',
}

const isVerb = (verb: string): verb is Verb => Object.hasOwn(VERBS, verb)

const cleanupLimits = (values: Values) => {
  const seconds = whole('total-timeout', values['total-timeout'], 0, 1_000_000_000)
  return {
    batchSize: whole('batch', values.batch, 1, 100_000),
    delayMs: whole('delay', values.delay, 0, 3_600_000),
    totalTimeoutMs: seconds === undefined ? undefined : seconds * 1000,
  } as DeleteExpiredOptions
}

/** The lifetimes have no default, because lifetimes shorter than those of the program's store would sign users out. */
const migrationOf = (values: Values) => {
  const idle = whole('idle', values.idle, 1, 1_000_000_000)
  const absolute = whole('absolute', values.absolute, 1, 1_000_000_000)
  if (idle === undefined || absolute === undefined)
    throw usage("migrate: say --idle and --absolute, in seconds: the lifetimes of your program's store")
  return {
    from: oldTableOf(values.from),
    idleMs: idle * 1000,
    absoluteMs: absolute * 1000,
    batch: batchOf(values),
  }
}

/** Parses `table` or `schema.table`. */
const oldTableOf = (text = '') => {
  const [first = '', second, ...more] = text.split('.')
  if (first === '' || second === '' || more.length > 0)
    throw usage('migrate: say --from TABLE, or --from SCHEMA.TABLE')
  return second === undefined ? { tableName: first } : { schemaName: first, tableName: second }
}

const schemaOf = (name = DEFAULT_SCHEMA): string => {
  try {
    return quotedSchema(name)
  } catch {
    throw usage('--schema: a name has lower-case letters, digits and _, at most 63')
  }
}

/** `schema` is a quoted identifier. */
const targetOf = (values: Values, schema: string, databaseUrl = '') => {
  const { url = databaseUrl, directory } = values
  const timeoutMs = whole('timeout', values.timeout, 1, 2 ** 31 - 1)
  if (values.url !== undefined && directory !== undefined) throw usage('say --url or --directory, not both')
  if (directory === '') throw usage('--directory: say a directory')
  if (directory === undefined && url === '')
    throw usage('say a database by DATABASE_URL, --url or --directory')
  return { url, directory, schema, timeoutMs }
}

const whole = (name: string, text: string | undefined, least: number, most: number): number | undefined => {
  if (text === undefined) return undefined
  const number = /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN
  if (isNumberWithin(number, least, most, 'integer')) return number
  throw usage(`--${name}: say a whole number from ${String(least)} to ${String(most)}`)
}

const ID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i

const idOf = (verb: string, text: string | undefined): string => {
  if (text === undefined) throw usage(`${verb}: say the id of a session`)
  if (ID.test(text)) return text.toLowerCase()
  throw usage(
    ID.test(text.slice(0, 36)) && text[36] === '.'
      ? `${verb}: that is a token, which opens the session: keep it secret, and give only the part before its dot`
      : `${verb}: that is not the id of a session`,
  )
}

const flowOf = (verb: string, id: string | undefined, flow: string | undefined) => {
  const session = idOf(verb, id)
  if (flow !== undefined && ID.test(flow)) return { id: session, flow: flow.toLowerCase() }
  throw usage(`${verb}: say the id of a session, and the id of a flow`)
}

const scopeOf = (operand: string | undefined, { principal, all }: Values): Scope => {
  const given = [operand !== undefined, principal !== undefined, all === true].filter(Boolean)
  if (given.length !== 1) throw usage('end: say one of ID, --principal P and --all')
  if (principal !== undefined) return { kind: 'principal', principal }
  return operand === undefined ? { kind: 'all' } : { kind: 'one', id: idOf('end', operand) }
}

type Parse<A> = (values: Values, operand?: string, second?: string) => A

/** Describes a command by its options (without `COMMON`), the maximum number of its operands, and its parser. */
const verb = <A>(own: readonly Option[], operands: number, parse: Parse<A>) => ({ own, operands, parse })

const withoutOptions = verb([], 0, () => ({}))

const VERBS = {
  'schema status': withoutOptions,
  'schema print': verb(['from'], 0, ({ from }) => ({ from: whole('from', from, 0, LATEST) ?? 0 })),
  'schema upgrade': withoutOptions,
  cleanup: verb(['batch', 'delay', 'total-timeout'], 0, (values) => ({ limits: cleanupLimits(values) })),
  migrate: verb(['from', 'idle', 'absolute', 'batch'], 0, migrationOf),
  sessions: verb(['limit'], 1, ({ limit }, principal) => ({
    principal,
    limit: whole('limit', limit, 1, 100_000) ?? 50,
  })),
  show: verb(['values'], 1, ({ values }, id) => ({ id: idOf('show', id), values: values === true })),
  end: verb(['principal', 'all', 'batch'], 1, (values, id) => ({
    scope: scopeOf(id, values),
    batch: batchOf(values),
    yes: values.yes === true,
  })),
  'flows list': verb([], 1, (_, id) => ({ id: idOf('flows list', id) })),
  'flows show': verb(['values'], 2, ({ values }, id, flow) => ({
    ...flowOf('flows show', id, flow),
    values: values === true,
  })),
  'flows drop': verb([], 2, (_, id, flow) => flowOf('flows drop', id, flow)),
  doctor: withoutOptions,
}

/** The batch size of a command that ends or migrates sessions. */
const batchOf = ({ batch }: Values): number => whole('batch', batch, 1, 10_000) ?? 200

const HELP = `Usage: keyrow COMMAND [options]

  schema status         prints the version of the tables, and the releases that made them
  schema print          prints the SQL that creates the tables; needs no database
    --from N              the SQL that upgrades them from version N
  schema upgrade        creates or upgrades the tables
  cleanup               deletes expired sessions, in batches
    --batch N             sessions in one batch (default: 200)
    --delay MS            the shortest delay between two batches (default: 20)
    --total-timeout S     starts no batch after this many seconds (default: 600)
  migrate --from TABLE  copies the sessions of connect-pg-simple, beside live traffic
    --idle SECONDS        the lifetimes of your program's store;
    --absolute SECONDS    both are required
    --batch N             sessions in one batch (default: 200)
  sessions [PRINCIPAL]  lists the newest live sessions: of all, or of one principal
    --limit N             the number of sessions (default: 50)
  show ID               shows one session: its times, its keys and their sizes
    --values              also shows the values
  end ID                ends one session,
  end --principal P     all sessions of a principal,
  end --all             or all sessions; asks first
    --batch N             sessions in one batch (default: 200)
    --yes                 does not ask
  flows list ID         lists the flows of a session
  flows show ID FLOW    shows the continuations of a flow, and the names of their records
    --values              also shows the values
  flows drop ID FLOW    deletes a flow
  doctor                checks the connection, the clock, the schema, its indexes and the
                        cleanup; measures the tables

The database:
  --url URL             postgres://user@host/database (default: DATABASE_URL)
  --directory DIR       a directory of PGlite instead
  --schema NAME         the schema of the tables (default: keyrow)

  --timeout MS          the timeout of one statement (default: 30000; for
                        schema upgrade: an hour)
  --json                prints data and errors as JSON, each in one line
  --help, --version

Exit codes:
  0    done
  1    the database could not be reached, or failed
  2    invalid arguments, or a question without a terminal
  3    there is no such session (show ID, end ID)
  4    the schema does not have the version of this release
  5    doctor found a problem
  130  interrupted by Ctrl-C (143: by SIGTERM), or the answer was no`
