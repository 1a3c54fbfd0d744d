// The table of connect-pg-simple: (sid, sess json, expire timestamp). Its times are without a zone, in that of the
// connection, so it must be read through connections whose zone is that of its writers.

import { flow, pipe } from 'fp-ts/lib/function.js'
import * as A from 'fp-ts/lib/ReadonlyArray.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import * as t from 'io-ts'
import type { Json } from '../base/json.js'
import type { Database, Query } from '../port/database.js'
import type { OldSession, OldSessions } from '../port/old-sessions.js'
import { ON_PRIMARY } from '../port/primary.js'
import { readCommitted } from '../port/read-committed.js'
import { ms } from './expressions.js'
import { rowsAs } from './operator-store.js'

export interface ConnectPgSimpleOptions {
  /** The table's name. Default: `session`. */
  readonly tableName?: string
  /** Its schema. Default: the first one in the search path that has it. */
  readonly schemaName?: string
}

const OldRow = t.type({ sid: t.string, sess: t.string, expires: t.number })

/**
 * The sessions in a table of connect-pg-simple, for `moveSessions`, and for the option `from` of
 * `expressSessionStore`.
 *
 * @example
 * ```ts
 * import { connectPgSimple, expressSessionStore } from 'keyrow/express-session'
 * import { sessionStore } from 'keyrow'
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
