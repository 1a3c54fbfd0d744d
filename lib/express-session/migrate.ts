// Migrates the sessions of another store while that store is in use, one by one or in batches. Each session is created
// once in keyrow's store. When `expressSessionStore` destroys a session, it fences the session's id, and deletes the
// session from the other store too. The migration limits the remaining time of a session in the other store to keyrow's
// `idleMs`. So a session that expires in keyrow's store normally expires in both stores, and is not migrated again.

import type { Option } from 'fp-ts/lib/Option.js'
import { type Entries, noEntries } from '../core/edits.js'
import { type DriverError, EncodeError, given, orThrow, SaveConflict } from '../core/errors.js'
import type { Json } from '../core/json.js'
import { A, E, flow, pipe, TE, t } from '../core/prelude.cjs'
import { newSession } from '../core/session.js'
import { type Database, ON_PRIMARY, readCommitted } from '../db/database.js'
import { saveSession } from '../request/verbs.js'
import { ms, statementsOf } from '../sql/fragments.js'
import { rowsAs } from '../sql/rows.js'
import type { Session, SessionStore } from '../store/contract.js'
import { entriesOf, isMembers, type Members, tokenOfSid, withEdited } from './values.js'

/** A session of the other store. `sid` is its credential. */
export interface OldSession {
  readonly sid: string
  readonly values: Readonly<Record<string, Json>>
}

export interface OldSessions {
  /** Returns the session with this sid, if it has not expired in the other store. */
  readonly find: (sid: string) => TE.TaskEither<DriverError, Option<OldSession>>
  /** Returns up to `limit` live sessions after `sid`, in the order of sids. */
  readonly after: (sid: string, limit: number) => TE.TaskEither<DriverError, readonly OldSession[]>
  /** Limits the remaining time of the session to `milliseconds`. The other store may extend the time again. */
  readonly shorten: (sid: string, milliseconds: number) => TE.TaskEither<DriverError, void>
  readonly remove: (sid: string) => TE.TaskEither<DriverError, void>
}

/** Creates a session with these entries, or returns `undefined` if the id is or was in use. @throws `EncodeError` */
export const createSession = async (store: SessionStore, sid: string, entries: Entries) => {
  const saved = await saveSession(withEdited(newSession(store, tokenOfSid(sid)), noEntries, entries))()
  return E.isLeft(saved) && saved.left instanceof SaveConflict ? undefined : given(saved)
}

// Migrates a session. The result is `present` if the session is already in keyrow's store, or has ended there. The
// result is `rejected` if the session cannot be stored.
export const migrateSession = async (
  store: SessionStore,
  from: OldSessions,
  { sid, values }: OldSession,
): Promise<Session | 'present' | 'rejected'> => {
  try {
    const created = await createSession(store, sid, entriesOf(values))
    if (created === undefined) return 'present'
    await orThrow(from.shorten(sid, store.lifetime.idleMs))
    return created
  } catch (error) {
    if (error instanceof EncodeError) return 'rejected'
    throw error
  }
}

export interface MigrateOptions {
  /** The number of sessions in one batch. Default: 200. */
  readonly batchSize?: number
  /** An abort of this signal ends the migration after the current batch. */
  readonly signal?: AbortSignal
  /** Called after each batch with the totals so far. */
  readonly onBatch?: (soFar: MigrationResult) => void
}

export interface MigrationResult {
  /** The number of sessions that this run has migrated. */
  readonly migrated: number
  /** The number of sessions that were already in keyrow's store, or have ended there. */
  readonly present: number
  /** The number of sessions that cannot be stored, for example because of U+0000 in a string. */
  readonly rejected: number
  /** Whether all sessions of the other store were read. */
  readonly finished: boolean
}

/**
 * Migrates all live sessions of another store in batches, while that store is in use. The sessions also stay in the
 * other store, so that users stay signed in on processes that still use it. A later run migrates newer sessions.
 *
 * @throws `DriverError` or `SchemaMismatch`. Sessions that were migrated before the failure stay migrated.
 */
export const migrateSessions = async (
  store: SessionStore,
  from: OldSessions,
  { batchSize = 200, signal, onBatch }: MigrateOptions = {},
): Promise<MigrationResult> => {
  let soFar: MigrationResult = { migrated: 0, present: 0, rejected: 0, finished: false }
  for (let last = ''; signal?.aborted !== true && !soFar.finished; ) {
    const rows: readonly OldSession[] = await orThrow(from.after(last, batchSize))
    for (const row of rows) {
      const result = await migrateSession(store, from, row)
      const what = typeof result === 'string' ? result : 'migrated'
      soFar = { ...soFar, [what]: soFar[what] + 1 }
    }
    soFar = { ...soFar, finished: rows.length < batchSize }
    onBatch?.(soFar)
    last = rows.at(-1)?.sid ?? ''
  }
  return soFar
}

// The table of connect-pg-simple has the columns (sid, sess json, expire timestamp). The times have no time zone. They
// are in the zone of the connection that wrote them. Each connection that reads the table must use the same zone.

export interface ConnectPgSimpleOptions {
  /** The table's name. Default: `session`. */
  readonly tableName?: string
  /** The table's schema. Default: the first schema in the search path that has the table. */
  readonly schemaName?: string
}

const OldRow = t.type({ sid: t.string, sess: t.string, expires: t.number })

const found = (table: string): string => `
select sid, sess::text as sess, (extract(epoch from expire::timestamptz) * 1000)::float8 as expires
from ${table}`

const oldStatements = statementsOf('old', {
  find: (table) => `${found(table)} where sid = $1::text and expire > now() and ${ON_PRIMARY}`,
  after: (table) =>
    `${found(table)} where sid > $1::text and expire > now() and ${ON_PRIMARY} order by sid limit $2::int`,
  shorten: (table) => `update ${table} set expire = least(expire, now() + ${ms('$2')}) where sid = $1::text`,
  remove: (table) => `delete from ${table} where sid = $1::text`,
})

/**
 * Gives access to the sessions in a table of connect-pg-simple, for `migrateSessions` and for the option `migrateFrom`.
 *
 * @example
 * ```ts
 * import { connectPgSimple, expressSessionStore } from 'keyrow/express-session'
 * import { sessionStore } from 'keyrow/store'
 * import { pgliteDatabase } from 'keyrow/pglite'
 *
 * const database = pgliteDatabase()
 * const store = expressSessionStore(sessionStore(database), { migrateFrom: connectPgSimple(database) })
 * console.log(typeof store.createSession) // function
 * await database.close()
 * ```
 */
export const connectPgSimple = (database: Database, options: ConnectPgSimpleOptions = {}): OldSessions => {
  const table = [options.schemaName, options.tableName ?? 'session']
    .flatMap((name) => (name === undefined ? [] : [`"${name.replaceAll('"', '""')}"`]))
    .join('.')
  const sql = oldStatements(table)
  const rows = rowsAs(OldRow)
  const own = readCommitted(database)
  const done = TE.map(() => undefined)
  return {
    find: (sid) => pipe(rows(own, sql.find, [sid]), TE.map(flow(A.map(oldSession), A.head))),
    after: (sid, limit) => pipe(rows(own, sql.after, [sid, limit]), TE.map(A.map(oldSession))),
    shorten: (sid, milliseconds) => done(own.query(sql.shorten, [sid, milliseconds])),
    remove: (sid) => done(own.query(sql.remove, [sid])),
  }
}

const oldSession = ({ sid, sess, expires }: t.TypeOf<typeof OldRow>): OldSession => {
  const values = JSON.parse(sess) as Json
  return { sid, values: isMembers(values) ? withTime(values, expires) : {} }
}

// connect-pg-simple's `touch` extends only the row's time, so the cookie's own time may be long past.
const withTime = (values: Members, expires: number): Members => {
  const cookie = values['cookie']
  if (!isMembers(cookie) || typeof cookie['expires'] !== 'string') return values
  // The row's time may be `infinity`, for which the latest time of a `Date` is used.
  const time = new Date(Math.min(expires, 8.64e15)).toISOString()
  return { ...values, cookie: { ...cookie, expires: time } }
}
