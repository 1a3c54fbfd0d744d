// Opens the shop's database. It is the PostgreSQL of DATABASE_URL, or PGlite in a directory. The shop's own SQL
// statements read the rows of a session.

import { pipe } from 'fp-ts/lib/function.js'
import * as O from 'fp-ts/lib/Option.js'
import * as RA from 'fp-ts/lib/ReadonlyArray.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import type { DriverError, SessionId } from 'keyrow'
import { pgliteDatabase } from 'keyrow/pglite'
import { poolOptions, postgresDatabase } from 'keyrow/postgres'
import type { Database, Query, Row } from 'keyrow/store'
import postgres from 'postgres'

const DIRECTORY = '.data/shop'

export const openDatabase = (url: string | undefined): Database =>
  url ? postgresDatabase(() => openPool(url)) : pgliteDatabase(DIRECTORY)

const openPool = (url: string): postgres.Sql =>
  postgres(url, {
    ...poolOptions,
    max: 10,
    connect_timeout: 5,
    connection: { statement_timeout: 10_000, application_name: 'keyrow-shop' },
    onnotice: () => undefined,
  })

export interface SessionRows {
  readonly header: Row
  readonly entries: readonly Row[]
}

/** Returns the rows of a session, or `None` if the session was never saved. */
export const sessionRows = (
  database: Database,
  id: SessionId,
): TE.TaskEither<DriverError, O.Option<SessionRows>> =>
  pipe(
    TE.Do,
    TE.bind('headers', () => database.query(HEADER, [id])),
    TE.bind('entries', () => database.query(ENTRIES, [id])),
    TE.map(({ headers, entries }) =>
      pipe(
        RA.head(headers),
        O.map((header) => ({ header, entries })),
      ),
    ),
  )

// The id is public. The statement does not select the columns with the hash of the secret.
const HEADER: Query = {
  name: 'shop.header',
  text: `
select id, revision, created_at::timestamptz(0)::text, expires_at::timestamptz(0)::text,
       absolute_expires_at::timestamptz(0)::text
from keyrow.session
where id = $1::uuid`,
}

// A deleted key leaves a tombstone, which is a row without a value. Later saves of the session delete the tombstone.
const ENTRIES: Query = {
  name: 'shop.entries',
  text: `
select key, coalesce(value::text, '(deleted)') as value, revision
from keyrow.entry
where session_id = $1::uuid
order by key`,
}
