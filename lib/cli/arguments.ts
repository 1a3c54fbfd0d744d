// The arguments of the command line. What does not fit is refused, and never repeated where it may hold a
// password or a token.
import { parseArgs } from 'node:util'
import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import { isNumberWithin } from '../core/options.js'
import { LATEST } from '../sql/migrations.js'
import { DEFAULT_SCHEMA, quotedSchema } from '../sql/schema.js'
import type { Scope } from './admin.js'
import { EXIT, Rejection, usage } from './terminal.js'

/** Which database, and how it is used. */
export interface Target {
  readonly url: string | undefined
  readonly directory: string | undefined
  /** A quoted identifier. */
  readonly schema: string
  readonly timeoutMs: number | undefined
}

/** Where sessions are moved from. */
interface OldTable {
  readonly tableName: string
  readonly schemaName?: string
}

export type Command =
  | { readonly verb: 'help' | 'version' }
  | { readonly verb: 'schema print'; readonly schema: string; readonly from: number }
  | DatabaseCommand

export type DatabaseCommand = { readonly target: Target } & (
  | { readonly verb: 'schema status' | 'schema upgrade' | 'doctor' }
  | {
      readonly verb: 'cleanup'
      readonly batch: number | undefined
      readonly delayMs: number | undefined
      readonly totalTimeoutMs: number | undefined
    }
  | { readonly verb: 'sessions'; readonly principal: string | undefined; readonly limit: number }
  | { readonly verb: 'show'; readonly id: string; readonly values: boolean }
  | {
      readonly verb: 'migrate'
      readonly from: OldTable
      readonly idleMs: number
      readonly absoluteMs: number
      readonly batch: number
    }
  | { readonly verb: 'end'; readonly scope: Scope; readonly batch: number; readonly yes: boolean }
)

const OPTIONS = {
  url: { type: 'string' },
  directory: { type: 'string' },
  schema: { type: 'string' },
  timeout: { type: 'string' },
  json: { type: 'boolean' },
  yes: { type: 'boolean' },
  help: { type: 'boolean' },
  version: { type: 'boolean' },
  from: { type: 'string' },
  batch: { type: 'string' },
  pause: { type: 'string' },
  within: { type: 'string' },
  idle: { type: 'string' },
  absolute: { type: 'string' },
  limit: { type: 'string' },
  values: { type: 'boolean' },
  principal: { type: 'string' },
  all: { type: 'boolean' },
} as const

type Values = ReturnType<typeof parsed>['values']

/** The options of each verb alone, and how many operands it takes. */
const VERBS: Readonly<
  Record<string, { readonly own: readonly (keyof Values)[]; readonly operands: number }>
> = {
  'schema status': { own: [], operands: 0 },
  'schema print': { own: ['from'], operands: 0 },
  'schema upgrade': { own: [], operands: 0 },
  collect: { own: ['batch', 'pause', 'within'], operands: 0 },
  move: { own: ['from', 'idle', 'absolute', 'batch'], operands: 0 },
  sessions: { own: ['limit'], operands: 1 },
  show: { own: ['values'], operands: 1 },
  end: { own: ['principal', 'all', 'batch'], operands: 1 },
  doctor: { own: [], operands: 0 },
}

const COMMON: readonly (keyof Values)[] = ['url', 'directory', 'schema', 'timeout', 'json', 'yes']

const parsed = (argv: readonly string[]) =>
  parseArgs({ args: [...argv], options: OPTIONS, allowPositionals: true, strict: true })

/** The command that the arguments say, with DATABASE_URL for a database that they do not name. */
export const commandOf = (
  argv: readonly string[],
  databaseUrl: string | undefined,
): E.Either<Rejection, Command> =>
  E.tryCatch(
    () => {
      const { values, positionals } = parsed(argv)
      if (values.help === true) return { verb: 'help' }
      if (values.version === true) return { verb: 'version' }
      const { verb, operands } = verbOf(positionals)
      checkOptions(verb, values)
      return commandWith(verb, operands, values, databaseUrl)
    },
    (error) => (error instanceof Rejection ? error : usage(parseProblem(error))),
  )

// parseArgs repeats what it was given: an unknown option as a whole, an address that was taken for one too.
const parseProblem = (error: unknown): string => {
  const [first = ''] = (error as Error).message.split(/\.?(\n|$| To specify)/)
  return /:|@|\d/.test(first) ? 'an option is not known; see keyrow --help' : `${first}; see keyrow --help`
}

const verbOf = (positionals: readonly string[]) => {
  const [first, second] = positionals
  if (first === undefined) throw usage('say what to do; see keyrow --help')
  const words = first === 'schema' ? 2 : 1
  const verb = first === 'schema' ? `schema ${second ?? ''}` : first
  const found = Object.hasOwn(VERBS, verb) ? VERBS[verb] : undefined
  if (found === undefined)
    throw usage(
      first === 'schema'
        ? 'schema: say status, print or upgrade'
        : `there is no such verb${/^[a-z-]{1,20}$/.test(first) ? `: ${first}` : ''}; see keyrow --help`,
    )
  const operands = positionals.slice(words)
  if (operands.length > found.operands)
    throw usage(`${verb}: too many arguments; put what has spaces in quotation marks`)
  return { verb, operands }
}

const checkOptions = (verb: string, values: Values): void => {
  const own = VERBS[verb]?.own ?? []
  for (const name of Object.keys(values) as (keyof Values)[])
    if (!COMMON.includes(name) && !own.includes(name)) throw usage(`${verb} has no option --${name}`)
}

const commandWith = (
  verb: string,
  [operand]: readonly string[],
  values: Values,
  databaseUrl: string | undefined,
): Command => {
  const schema = schemaOf(values.schema)
  if (verb === 'schema print') return { verb, schema, from: whole('from', values.from, 0, LATEST) ?? 0 }
  const target = { ...databaseOf(values, databaseUrl), schema, timeoutMs: timeoutOf(values) }
  switch (verb) {
    case 'cleanup':
      return { verb, target, ...collectionOf(values) }
    case 'migrate':
      return { verb, target, ...moveOf(values) }
    case 'sessions':
      return { verb, target, principal: operand, limit: whole('limit', values.limit, 1, 100_000) ?? 50 }
    case 'show':
      return { verb, target, id: idOf(verb, operand), values: values.values === true }
    case 'end': {
      const batch = whole('batch', values.batch, 1, 10_000) ?? 200
      return { verb, target, scope: scopeOf(operand, values), batch, yes: values.yes === true }
    }
    default:
      return { verb: verb as 'schema status' | 'schema upgrade' | 'doctor', target }
  }
}

const collectionOf = (values: Values) => {
  const seconds = whole('within', values.within, 0, 1_000_000_000)
  return {
    batch: whole('batch', values.batch, 1, 100_000),
    delayMs: whole('pause', values.pause, 0, 3_600_000),
    totalTimeoutMs: seconds === undefined ? undefined : seconds * 1000,
  }
}

/** No lifetime is guessed: a shorter one than the program's would sign people out. */
const moveOf = (values: Values) => {
  const idle = whole('idle', values.idle, 1, 1_000_000_000)
  const absolute = whole('absolute', values.absolute, 1, 1_000_000_000)
  if (idle === undefined || absolute === undefined)
    throw usage("move: say --idle and --absolute, in seconds: the lifetimes of your program's store")
  return {
    from: oldTableOf(values.from),
    idleMs: idle * 1000,
    absoluteMs: absolute * 1000,
    batch: whole('batch', values.batch, 1, 10_000) ?? 200,
  }
}

/** `table`, or `schema.table`. */
const oldTableOf = (text = ''): OldTable => {
  const [first = '', second, ...more] = text.split('.')
  if (first === '' || second === '' || more.length > 0)
    throw usage('move: say --from TABLE, or --from SCHEMA.TABLE')
  return second === undefined ? { tableName: first } : { schemaName: first, tableName: second }
}

const timeoutOf = (values: Values): number | undefined => whole('timeout', values.timeout, 1, 2 ** 31 - 1)

const schemaOf = (name = DEFAULT_SCHEMA): string =>
  pipe(
    E.tryCatch(
      () => quotedSchema(name),
      () => usage('--schema: a name has lower-case letters, digits and _, at most 63'),
    ),
    E.getOrElse((usageError): string => {
      throw usageError
    }),
  )

const databaseOf = (values: Values, databaseUrl: string | undefined): Pick<Target, 'url' | 'directory'> => {
  const { url, directory } = values
  if (url !== undefined && directory !== undefined) throw usage('say --url or --directory, not both')
  if (directory === '') throw usage('--directory: say which')
  if (directory !== undefined) return { url: undefined, directory }
  const found = url ?? databaseUrl
  if (found === undefined || found === '')
    throw usage('say which database: by DATABASE_URL, --url or --directory')
  return { url: found, directory: undefined }
}

const whole = (name: string, text: string | undefined, least: number, most: number): number | undefined => {
  if (text === undefined) return undefined
  const figure = /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN
  if (isNumberWithin(figure, least, most, 'integer')) return figure
  throw usage(`--${name}: say a whole number from ${String(least)} to ${String(most)}`)
}

const ID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i

const idOf = (verb: string, text: string | undefined): string => {
  if (text === undefined) throw usage(`${verb}: say the id of a session`)
  if (ID.test(text)) return text.toLowerCase()
  throw usage(
    ID.test(text.slice(0, 36)) && text[36] === '.'
      ? `${verb}: that is a token, which opens the session: keep it secret, and say only what is before its dot`
      : `${verb}: that is not the id of a session`,
  )
}

const scopeOf = (operand: string | undefined, { principal, all }: Values): Scope => {
  const said = [operand !== undefined, principal !== undefined, all === true].filter(Boolean)
  if (said.length !== 1) throw new Rejection(EXIT.usage, 'end: say one of ID, --principal P and --all')
  if (principal !== undefined) return { kind: 'principal', principal }
  return operand === undefined ? { kind: 'all' } : { kind: 'one', id: idOf('end', operand) }
}

// What `--help` prints.

export const HELP = `Usage: keyrow VERB [options]

  schema status         the version of the tables, and who made them
  schema print          the SQL that makes them; needs no database
    --from N              the SQL that upgrades them from version N
  schema upgrade        makes the tables, or upgrades them
  collect               deletes expired sessions, in batches
    --batch N             sessions in one batch (default: 200)
    --pause MS            the least pause between two batches (default: 20)
    --within SECONDS      no batch begins later than this (default: 600)
  move --from TABLE     takes over the sessions of connect-pg-simple, beside live traffic
    --idle SECONDS        the lifetimes of the program's store, which have
    --absolute SECONDS    to be said
    --batch N             sessions in one batch (default: 200)
  sessions [PRINCIPAL]  the newest live sessions: of all, or of one principal
    --limit N             at most so many (default: 50)
  show ID               one session: its times, and its keys with their sizes
    --values              the values too
  end ID                ends one session,
  end --principal P     all of a principal,
  end --all             or all there are; asks first
    --batch N             sessions in one batch (default: 200)
    --yes                 does not ask
  doctor                checks the connection, the clock, the schema and its indexes,
                        the collection of garbage; and measures the tables

Which database:
  --url URL             postgres://user@host/database (default: DATABASE_URL)
  --directory DIR       a directory of PGlite, instead
  --schema NAME         the schema of the tables (default: keyrow)

  --timeout MS          how long one statement may take (default: 30000; for
                        schema upgrade: an hour)
  --json                data and errors as JSON, each in one line
  --help, --version

Exit codes:
  0    done
  1    the database could not be reached, or failed
  2    the arguments make no sense, or a question could not be asked
  3    there is no such session (show ID, end ID)
  4    the schema is not of the version that this release works with
  5    doctor found a problem
  130  ended by Ctrl-C (143: by SIGTERM), or the answer was no`
