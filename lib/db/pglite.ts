// Makes a database on PGlite, which is PostgreSQL in WebAssembly. PGlite is for development, examples and small
// services. A PGlite database serves one process, and its statements block the event loop.

import { mkdir, open, realpath } from 'node:fs/promises'
import { PGlite, type Results } from '@electric-sql/pglite'
import type { TaskEither } from 'fp-ts/lib/TaskEither.js'
import { DriverError } from '../core/errors.js'
import { E } from '../core/prelude.cjs'
import { clearTimeout, setTimeout } from '../core/process.js'
import type { Database, DriverTransaction, Outcome, Param, Query, Row } from './database.js'
import { closedError, driverError, invalidParams, timeoutOf, withDeadline } from './deadline.js'
import { decodedRows, paramText, type Wire } from './text-format.js'
import { savepoints, scopedDatabase } from './transaction.js'

// Locks the directory and returns the function that unlocks it. Two processes that open one PGlite directory would lose
// data, and PGlite does not prevent this. The promise rejects if another process holds the lock, or if file locks do
// not work in this runtime. The operating system frees the lock when the process ends, even after a crash.
const lockDirectory = async (directory: string): Promise<() => Promise<void>> => {
  const locks = await nativeLocks()
  await mkdir(directory, { recursive: true })
  // A new database needs an empty directory, so the lock file is beside the directory and not in it.
  const path = `${await realpath(directory)}.lock`
  const file = await open(path, 'a')
  if (locks.tryLock(file.fd)) return () => file.close()
  await file.close()
  throw new Error(`${directory} is in use by another process, or opened twice in this one (lock: ${path})`)
}

interface Locks {
  /** Tries to take an exclusive lock on the file. Returns false if another process holds the lock. */
  tryLock(fd: number): boolean
}

// Loads the native module for file locks, which uses functions of libuv that Bun and Deno lack. A Deno process ends
// when it loads the module, and a Bun process when it holds a lock. The locks of Bun and Deno do not exclude Node.js.
const nativeLocks = async (): Promise<Locks> => {
  for (const runtime of ['bun', 'deno'])
    if (process.versions[runtime] !== undefined) throw unlocked(`${runtime} cannot run its native module`)
  try {
    // @ts-expect-error the module has no types
    return ((await import('fs-native-extensions')) as { readonly default: Locks }).default
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ERR_MODULE_NOT_FOUND')
      throw unlocked('the package fs-native-extensions is not installed', cause, 'install it')
    throw unlocked('its native module cannot be loaded on this platform', cause)
  }
}

const unlocked = (why: string, cause?: unknown, remedy = 'open it with Node.js'): Error =>
  new Error(
    `a directory cannot be locked here, since ${why}: ${remedy}, keep the database in memory (name no directory), or use PostgreSQL`,
    { cause },
  )

export interface PgliteOptions {
  /** The maximum time of one statement in milliseconds, without the opening of the database. Default: 5,000. */
  readonly timeoutMs?: number
}

interface Sender {
  query(text: string, params: unknown[], options: { readonly rowMode: 'array' }): Promise<Results<unknown>>
}

interface Opened {
  readonly db: PGlite
  readonly unlock: () => Promise<void>
}

/**
 * Makes a PGlite database in a directory, or in memory if no directory is given. The first statement opens the
 * database. The creation of a database takes 3 to 5 seconds. keyrow locks the directory with the package
 * `fs-native-extensions`. Statements fail with a `DriverError` if another process has the directory open. On Bun and
 * Deno the lock does not work, so all statements on a database in a directory fail.
 *
 * @throws `RangeError` for a URL instead of a directory (`file://`, `idb://`), and for a timeout out of range
 *
 * @example
 * ```ts
 * import { pgliteDatabase } from 'keyrow/pglite'
 *
 * const database = pgliteDatabase()
 * const rows = await database.query({ name: 'sum', text: 'select 1 + $1::int as sum' }, [2])()
 * console.log(rows) // { _tag: 'Right', right: [ { sum: 3 } ] }
 * await database.close()
 * ```
 */
export const pgliteDatabase = (directory?: string, options: PgliteOptions = {}): Database => {
  if (directory !== undefined && /^[a-z]{2,}:/i.test(directory))
    throw new RangeError(`"${directory}" is no directory; name none for a database in memory`)
  const timeoutMs = timeoutOf(options)
  const { opened, close } = opening(directory)
  const database = scopedDatabase({
    query: (query, params) => async () => {
      const database = await opened()
      return E.isLeft(database) ? database : send(database.right.db, query, params, timeoutMs)
    },
    transaction: (body) => async () => {
      const database = await opened()
      return E.isLeft(database) ? database : transact(database.right.db, body, timeoutMs)
    },
    close,
  })
  return { ...database, isEmbedded: true }
}

/** `opened` opens the database at its first call, and again after a failure. After `close` it returns an error. */
const opening = (directory: string | undefined) => {
  let opened: Outcome<Opened> | undefined
  let closed: Outcome<void> | undefined
  return {
    opened: (): Outcome<Opened> => {
      if (closed !== undefined) return Promise.resolve(E.left(closedError()))
      opened ??= openDatabase(directory).catch((cause: unknown) => {
        opened = undefined
        return E.left(driverError('open', cause))
      })
      return opened
    },
    close: (): Outcome<void> => {
      closed ??= shut(opened)
      return closed
    },
  }
}

const openDatabase = async (directory: string | undefined): Outcome<Opened> => {
  if (directory === undefined)
    return E.right({ db: await independent(await PGlite.create()), unlock: () => Promise.resolve() })
  const unlock = await lockDirectory(directory)
  try {
    return E.right({ db: await independent(await PGlite.create(directory)), unlock })
  } catch (error) {
    await unlock()
    throw error
  }
}

// Disables PGlite's own conversions, and overrides the settings of the role and the database that would change values.
const independent = async (db: PGlite): Promise<PGlite> => {
  const identity = (value: string): string => value
  for (const table of [db.serializers, db.parsers])
    for (const type of Object.keys(table)) table[type] = identity
  await db.exec(
    'set DateStyle = ISO; set bytea_output = hex; set extra_float_digits = 1; set array_nulls = on; set client_encoding = UTF8; set session_replication_role = origin',
  )
  return db
}

const shut = async (opened: Outcome<Opened> | undefined): Outcome<void> => {
  const database = await opened
  if (database === undefined || E.isLeft(database)) return E.right(undefined)
  try {
    await database.right.db.close()
    return E.right(undefined)
  } catch (cause) {
    return E.left(driverError('close', cause))
  } finally {
    await database.right.unlock()
  }
}

const send = async (
  sql: Sender,
  query: Query,
  params: readonly Param[],
  timeoutMs: number,
): Outcome<readonly Row[]> => {
  const failure = invalidParams(query, params)
  if (failure !== undefined) return E.left(failure)
  return withDeadline(query.name, timeoutMs, async () =>
    rowsOf(await sql.query(query.text, params.map(paramText), { rowMode: 'array' })),
  )
}

const rowsOf = ({ fields, rows }: Results<unknown>): readonly Row[] =>
  decodedRows(
    fields.map((field) => ({ name: field.name, type: field.dataTypeID })),
    rows as readonly (readonly Wire[])[],
  )

class RolledBack<L> extends Error {
  constructor(readonly left: E.Left<L>) {
    super('rolled back')
  }
}

type Body<L, A> = (tx: DriverTransaction) => TaskEither<L, A>

/** The progress of a transaction. A transaction waits for the previous transaction, at most for `timeoutMs`. */
interface TxState {
  state: 'waiting' | 'begun' | 'late'
  thrown?: { readonly error: unknown }
}

const transact = async <L, A>(db: PGlite, body: Body<L, A>, timeoutMs: number): Outcome<A, L> => {
  const txState: TxState = { state: 'waiting' }
  const run = db.transaction((tx) => runBody(txState, body(handleOf(tx, timeoutMs))))
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      if (txState.state !== 'waiting') return
      txState.state = 'late'
      const message = `begin: no turn within ${String(timeoutMs)} ms`
      reject(new DriverError(message, { kind: 'timeout', retryable: true, effect: 'none' }))
    }, timeoutMs)
  })
  run.catch(() => undefined)
  try {
    return await Promise.race([run, late])
  } catch (error) {
    if (error instanceof RolledBack) return error.left as E.Left<L>
    if (txState.thrown !== undefined) throw txState.thrown.error
    return E.left(driverError('transaction', error))
  } finally {
    clearTimeout(timer)
  }
}

const runBody = async <L, A>(txState: TxState, body: TaskEither<L, A>): Promise<E.Either<L, A>> => {
  // PGlite queues transactions. A transaction that has missed its deadline in the queue must not run.
  if (txState.state === 'late') throw new Error('its turn came too late')
  txState.state = 'begun'
  try {
    const result = await body()
    if (E.isLeft(result)) throw new RolledBack(result)
    return result
  } catch (error) {
    if (!(error instanceof RolledBack)) txState.thrown = { error }
    throw error
  }
}

const handleOf = (tx: Sender, timeoutMs: number): DriverTransaction => {
  const query: DriverTransaction['query'] = (query, params) => () => send(tx, query, params, timeoutMs)
  return { query, savepoint: savepoints(query) }
}
