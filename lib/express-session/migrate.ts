// Taking over the sessions of another store, one by one or all of them, while it is still at work. A session is
// made here once: one that was ended here meanwhile is not made again, since its id is kept for a while, and it
// is deleted there. What was taken over lives there no longer than here, so that what has expired here is not
// taken over again.

import * as E from 'fp-ts/lib/Either.js'
import { flow, pipe } from 'fp-ts/lib/function.js'
import type { Option } from 'fp-ts/lib/Option.js'
import * as A from 'fp-ts/lib/ReadonlyArray.js'
import type { TaskEither } from 'fp-ts/lib/TaskEither.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import * as t from 'io-ts'
import { type Entries, noEntries } from '../core/edits.js'
import { type DriverError, EncodeError, SaveConflict, type StoreError } from '../core/errors.js'
import type { Json } from '../core/json.js'
import { newSession } from '../core/session.js'
import { type Database, ON_PRIMARY, type Query, readCommitted } from '../db/database.js'
import { saveSession } from '../request/verbs.js'
import { ms } from '../sql/fragments.js'
import { rowsAs } from '../sql/rows.js'
import type { Session, SessionStore } from '../store/contract.js'
import { entriesOf, tokenOfSid, withEdited } from './values.js'

// The port to a table of sessions that another store has written, from which they are taken over.

/** A session as the other store has it: its credential, and its values. */
export interface OldSession {
  readonly sid: string
  readonly values: Readonly<Record<string, Json>>
}

export interface OldSessions {
  /** One that is alive by the other store's rules. */
  readonly find: (sid: string) => TaskEither<DriverError, Option<OldSession>>
  /** The next ones that are alive, by sid. */
  readonly after: (sid: string, limit: number) => TaskEither<DriverError, readonly OldSession[]>
  /** Has it expire there in so many milliseconds at the latest, unless the other store moves that again. */
  readonly shorten: (sid: string, milliseconds: number) => TaskEither<DriverError, void>
  readonly remove: (sid: string) => TaskEither<DriverError, void>
}

/** A session of ours with these entries, not stored yet. Throws an `EncodeError`. */
export const sessionWith = (store: SessionStore, sid: string, entries: Entries): Session =>
  withEdited(newSession(store, tokenOfSid(sid)), noEntries, entries)

/** Takes one over; `present` when it was taken over before, or has ended here. */
export const takeOver = async (
  store: SessionStore,
  from: OldSessions,
  { sid, values }: OldSession,
): Promise<Session | 'present' | 'rejected'> => {
  const made = E.tryCatch(
    () => sessionWith(store, sid, entriesOf(values)),
    (error) => error,
  )
  if (E.isLeft(made)) {
    if (made.left instanceof EncodeError) return 'rejected'
    throw made.left
  }
  const saved = await saveSession(made.right)()
  if (E.isRight(saved)) {
    const shortened = await from.shorten(sid, store.lifetime.idleMs)()
    if (E.isLeft(shortened)) throw shortened.left
    return saved.right
  }
  if (saved.left instanceof SaveConflict) return 'present'
  throw saved.left
}

export interface MigrateOptions {
  /** How many are read at once. Default: 200. */
  readonly batchSize?: number
  /** Ends it after the batch that is under way. */
  readonly signal?: AbortSignal
  /** Called after each batch, with what was done so far. */
  readonly onBatch?: (soFar: MigrationResult) => void
}

/** What a move has done so far. */
export interface MigrationResult {
  /** Sessions that were taken over. */
  readonly migrated: number
  /** Sessions that were there already, or have ended here. */
  readonly present: number
  /** Sessions that cannot be stored (U+0000 in a text, say). They stay where they are. */
  readonly rejected: number
  /** Whether it came to the end. */
  readonly finished: boolean
}

/**
 * Takes over all live sessions of another store while it is at work, in batches. They stay there too, so that
 * processes which still run on it sign nobody out. Doing it again takes over what has come since. A failure is
 * thrown (`DriverError`, `SchemaMismatch`); what was taken over until then stays.
 */
export const migrateSessions = async (
  store: SessionStore,
  from: OldSessions,
  { batchSize = 200, signal, onBatch }: MigrateOptions = {},
): Promise<MigrationResult> => {
  let soFar: MigrationResult = { migrated: 0, present: 0, rejected: 0, finished: false }
  for (let last = ''; signal?.aborted !== true; ) {
    const rows: readonly OldSession[] = await orThrow(from.after(last, batchSize))
    for (const row of rows) {
      const taken = await takeOver(store, from, row)
      const what = typeof taken === 'string' ? taken : 'migrated'
      soFar = { ...soFar, [what]: soFar[what] + 1 }
    }
    soFar = { ...soFar, finished: rows.length < batchSize }
    onBatch?.(soFar)
    if (soFar.finished) break
    last = rows.at(-1)?.sid ?? ''
  }
  return soFar
}

/** A task's result, or its failure as a throw. */
export const orThrow = async <A>(task: TE.TaskEither<DriverError | StoreError, A>): Promise<A> => {
  const result = await task()
  if (E.isLeft(result)) throw result.left
  return result.right
}

// The table of connect-pg-simple: (sid, sess json, expire timestamp). Its times are without a zone, in that of the
// connection, so it must be read through connections whose zone is that of its writers.

export interface ConnectPgSimpleOptions {
  /** The table's name. Default: `session`. */
  readonly tableName?: string
  /** Its schema. Default: the first one in the search path that has it. */
  readonly schemaName?: string
}

const OldRow = t.type({ sid: t.string, sess: t.string, expires: t.number })

/**
 * The sessions in a table of connect-pg-simple, for `migrateSessions`, and for the option `from` of
 * `expressSessionStore`.
 *
 * @example
 * ```ts
 * import { connectPgSimple, expressSessionStore } from 'keyrow/express-session'
 * import { sessionStore } from 'keyrow/store'
 * import { pgliteDatabase } from 'keyrow/pglite'
 *
 * const database = pgliteDatabase()
 * const store = expressSessionStore(sessionStore(database), { from: connectPgSimple(database) })
 * console.log(typeof store.createSession) // function
 * await database.close()
 * ```
 */
export const connectPgSimple = (database: Database, options: ConnectPgSimpleOptions = {}): OldSessions => {
  const table = [options.schemaName, options.tableName ?? 'session']
    .flatMap((name) => (name === undefined ? [] : [`"${name.replaceAll('"', '""')}"`]))
    .join('.')
  const statement = (name: string, text: string): Query => ({ name: `old.${name}`, text })
  const select = `
select sid, sess::text as sess, (extract(epoch from expire::timestamptz) * 1000)::float8 as expires
from ${table}`
  const find = statement('find', `${select} where sid = $1::text and expire > now() and ${ON_PRIMARY}`)
  const after = statement(
    'after',
    `${select} where sid > $1::text and expire > now() and ${ON_PRIMARY} order by sid limit $2::int`,
  )
  const shorten = statement(
    'shorten',
    `update ${table} set expire = least(expire, now() + ${ms('$2')}) where sid = $1::text`,
  )
  const remove = statement('remove', `delete from ${table} where sid = $1::text`)
  const rows = rowsAs(OldRow)
  const own = readCommitted(database)
  const done = TE.map(() => undefined)
  return {
    find: (sid) => pipe(rows(own, find, [sid]), TE.map(flow(A.map(oldSession), A.head))),
    after: (sid, limit) => pipe(rows(own, after, [sid, limit]), TE.map(A.map(oldSession))),
    shorten: (sid, milliseconds) => done(own.query(shorten, [sid, milliseconds])),
    remove: (sid) => done(own.query(remove, [sid])),
  }
}

const oldSession = ({ sid, sess, expires }: t.TypeOf<typeof OldRow>): OldSession => {
  const values = JSON.parse(sess) as Json
  return { sid, values: isMembers(values) ? withTime(values, expires) : {} }
}

type Members = OldSession['values']

const isMembers = (value: Json | undefined): value is Members =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

// A touch moves the row's time alone: by the cookie's own, a session that is in use would have expired long since.
const withTime = (values: Members, expires: number): Members => {
  const cookie = values['cookie']
  if (!isMembers(cookie) || typeof cookie['expires'] !== 'string') return values
  // The latest time that a `Date` can hold stands for one that never comes.
  const time = new Date(Math.min(expires, 8.64e15)).toISOString()
  return { ...values, cookie: { ...cookie, expires: time } }
}
