// Opens the database of a command. A driver is loaded only when it is needed, because its package is optional.

import { readdir } from 'node:fs/promises'
import { pipe, TE } from '../core/prelude.cjs'
import type { Database } from '../db/database.js'
import { poolOptions, postgresDatabase } from '../db/postgres/index.js'
import { prepareSchema } from '../sql/schema.js'
import { ROUTES } from './admin.js'
import type { DatabaseCommand } from './arguments.js'
import { EXIT, type Failure, type Output, Rejection, type Terminal, usage } from './terminal.js'

interface Opened {
  readonly database: Database
  /** Closes the database. Connections to a server are closed without waiting for their statements. */
  readonly abandon: () => Promise<unknown>
}

const TIMEOUT_MS = 30_000
/** An upgrade of large tables may take long, and a timeout would undo the whole upgrade. */
const UPGRADE_TIMEOUT_MS = 3_600_000

export const openDatabase = ({ verb, target }: DatabaseCommand): TE.TaskEither<Rejection, Opened> => {
  const upgrades = verb === 'schema upgrade'
  const timeoutMs = target.timeoutMs ?? (upgrades ? UPGRADE_TIMEOUT_MS : TIMEOUT_MS)
  return TE.tryCatch(
    () =>
      target.directory === undefined
        ? openPostgres(target.url, timeoutMs, verb === 'doctor' ? ROUTES : 1)
        : openPglite(target.directory, timeoutMs, upgrades),
    (error) => (error instanceof Rejection ? error : missingPackage(error, target.directory)),
  )
}

const openPostgres = async (url: string, timeoutMs: number, max: number): Promise<Opened> => {
  if (!isAddress(url)) throw notAnAddress()
  const { default: postgres } = await import('postgres')
  const pools: ReturnType<typeof postgres>[] = []
  const pool = () => {
    try {
      const sql = postgres(url, {
        ...poolOptions,
        max,
        // Statements are not prepared, because a pooler may run each statement on a different connection.
        prepare: false,
        connect_timeout: Math.min(10, timeoutMs / 1000),
        connection: { application_name: 'keyrow' },
        onnotice: () => undefined,
      })
      pools.push(sql)
      return sql
    } catch {
      throw notAnAddress()
    }
  }
  const abandon = () => Promise.all(pools.map((sql) => sql.end({ timeout: 0 })))
  return { database: postgresDatabase(pool, { timeoutMs }), abandon }
}

// Whether the URL is an address of PostgreSQL with a percent-encoded password. A password with a plain `/`, `?` or `#`
// would be parsed as part of the host's or the database's name, and appear in messages.
const isAddress = (url: string): boolean => {
  const match = /^postgres(?:ql)?:\/\/([^/?#]*)([^?#]*)(?:[?]([^#]*))?$/i.exec(url)
  return match !== null && !`${match[2] ?? ''}${(match[3] ?? '').replaceAll(/=[^&]*/g, '')}`.includes('@')
}

const notAnAddress = (): Rejection =>
  usage(
    'the database URL (--url or DATABASE_URL) is not a postgres:// address, ' +
      'or its password has characters that need percent-encoding',
  )

const openPglite = async (directory: string, timeoutMs: number, make: boolean): Promise<Opened> => {
  await checkDirectory(directory, make)
  const { pgliteDatabase } = await import('../db/pglite.js')
  const database = pgliteDatabase(directory, { timeoutMs })
  return { database, abandon: () => database.close() }
}

// Without this check, PGlite would create a database for a mistyped name.
const checkDirectory = async (directory: string, make: boolean): Promise<void> => {
  if (/^[a-z]{2,}:/i.test(directory)) throw usage('--directory: that is an address, not a directory')
  const files = await readdir(directory).catch((error: unknown): string[] | undefined =>
    make && (error as NodeJS.ErrnoException).code === 'ENOENT' ? [] : undefined,
  )
  if (files?.includes('PG_VERSION') === true || (files?.length === 0 && make)) return
  throw new Rejection(EXIT.failed, `there is no database of PGlite in ${directory}`)
}

const missingPackage = (error: unknown, directory: string | undefined): Rejection => {
  const name = directory === undefined ? 'postgres' : '@electric-sql/pglite'
  const isMissing = (error as NodeJS.ErrnoException).code === 'ERR_MODULE_NOT_FOUND'
  const problem = isMissing ? `is not installed: npm install ${name}` : 'could not be loaded'
  return new Rejection(EXIT.failed, `the package ${name} ${problem}`)
}

/** All attempts at an operation (six by default) may take an hour in total. `--timeout` limits each statement. */
export const PATIENT = { totalTimeoutMs: 3_600_000 }

export interface Context {
  readonly database: Database
  readonly schema: string
  readonly terminal: Terminal
  /** This signal is aborted when the process gets SIGINT (Ctrl-C) or SIGTERM. Its `reason` is the exit code. */
  readonly signal: AbortSignal
}

export type Task = TE.TaskEither<Failure, Output>

/** Runs the command only if the schema has this release's version. The command never upgrades the schema. */
export const onCurrentSchema =
  ({ database, schema }: Context) =>
  (command: Task): Task =>
    pipe(
      prepareSchema(database, schema, false),
      TE.chainW(() => command),
    )
