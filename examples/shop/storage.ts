// Opens the shop's database. It is the PostgreSQL of DATABASE_URL, or PGlite in a directory. The shop's own SQL
// statements read the rows of a session.

import { pipe } from 'fp-ts/lib/function.js'
import * as O from 'fp-ts/lib/Option.js'
import * as RA from 'fp-ts/lib/ReadonlyArray.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import { DriverError, type SessionId } from 'keyrow'
import { pgliteDatabase } from 'keyrow/pglite'
import { poolOptions, postgresDatabase } from 'keyrow/postgres'
import type { Database, Query, Row } from 'keyrow/store'
import postgres from 'postgres'
import { PREPARE_WHOLE } from './lab.js'

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

/** Creates the shop's own tables. */
export const prepareTables = (database: Database): TE.TaskEither<DriverError, unknown> =>
  pipe(
    database.query(PREPARE_ORDERS, []),
    TE.chain(() => database.query(PREPARE_WHOLE, [])),
  )

const PREPARE_ORDERS: Query = {
  name: 'shop.prepare',
  text: `
create table if not exists shop_order (
  id bigint generated always as identity primary key,
  customer text not null, cents integer not null, charge text not null, lines jsonb not null, address jsonb not null
)`,
}

interface Order {
  readonly customer: string
  readonly cents: number
  readonly charge: string
  readonly lines: unknown
  readonly address: unknown
}

/** Stores an order, and returns its id. */
export const insertOrder = (
  database: Database,
  { customer, cents, charge, lines, address }: Order,
): TE.TaskEither<DriverError, string> =>
  pipe(
    database.query(INSERT_ORDER, [customer, cents, charge, JSON.stringify(lines), JSON.stringify(address)]),
    TE.chain(([row]) =>
      row === undefined
        ? TE.left(new DriverError('shop.order: there is no row', { retryable: false }))
        : TE.right(String(row['id'])),
    ),
  )

const INSERT_ORDER: Query = {
  name: 'shop.order',
  text: `
insert into shop_order (customer, cents, charge, lines, address)
values ($1::text, $2::int, $3::text, $4::text::jsonb, $5::text::jsonb)
returning id::text as id`,
}

/** Returns an order of a customer. */
export const orderOf = (
  database: Database,
  id: string,
  customer: string,
): TE.TaskEither<DriverError, O.Option<Row>> => pipe(database.query(ORDER, [id, customer]), TE.map(RA.head))

const ORDER: Query = {
  name: 'shop.orderOf',
  text: `select id, cents, charge, address::text as address from shop_order where id::text = $1::text and customer = $2::text`,
}

/** A flow of the session, and its continuations. */
export interface FlowTree {
  readonly name: string
  readonly state: string
  readonly rows: readonly Continuation[]
}

export interface Continuation {
  readonly id: string
  readonly parent: string | null
  readonly step: string
  readonly records: string
}

/** Returns the flows of a session with their continuations. The names of the records are shown, not their values. */
export const flowRows = (
  database: Database,
  id: SessionId,
): TE.TaskEither<DriverError, readonly FlowTree[]> =>
  pipe(
    database.query(FLOWS, [id]),
    TE.map(RA.map(({ name, state, rows }) => ({ name, state, rows }) as FlowTree)),
  )

const FLOWS: Query = {
  name: 'shop.flows',
  text: `
select f.name, case when f.ended is null then f.answers || ' answers' else 'ended' end as state,
       coalesce((select json_agg(json_build_object('id', c.id, 'parent', c.parent, 'step', c.step,
                   'records', (select string_agg(r ->> 1, ', ') from jsonb_array_elements(c.records) r)) order by c.made_at)
                 from keyrow.continuation c where c.session_id = f.session_id and c.flow_id = f.id), '[]') as rows
from keyrow.flow f
where f.session_id = $1::uuid
order by f.used_at desc`,
}

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
