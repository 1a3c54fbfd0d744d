// What express-session may ask of all its sessions at once. They are those that hold a `cookie`: there may be
// others in the same tables.

import { pipe } from 'fp-ts/lib/function.js'
import * as A from 'fp-ts/lib/ReadonlyArray.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import { Map as HashMap } from 'immutable'
import * as t from 'io-ts'
import type { DriverError } from '../base/errors.js'
import type { Json } from '../base/json.js'
import type { Database, Query } from '../port/database.js'
import { ONCE_ON_PRIMARY } from '../port/primary.js'
import type { Entries } from '../session/edits.js'
import { FENCED } from './expressions.js'
import { rowAs, rowsAs } from './operator-store.js'
import { quotedSchema } from './schema-state.js'

const theirs = (schema: string): string =>
  `exists (select from ${schema}.entry c where c.session_id = s.id and c.key = 'cookie' and c.value is not null)`

const all = (schema: string): Query => ({
  name: 'express.all',
  text: `
select json_object_agg(e.key, e.value)::text as entries
from ${schema}.session s join ${schema}.entry e on e.session_id = s.id
where s.expires_at > now() and e.value is not null and ${theirs(schema)} and ${ONCE_ON_PRIMARY}
group by s.id
order by s.id`,
})

const count = (schema: string): Query => ({
  name: 'express.count',
  text: `
select count(*)::int as n
from ${schema}.session s
where s.expires_at > now() and ${theirs(schema)} and ${ONCE_ON_PRIMARY}`,
})

// $1 how many. Locks in the order of ids, as all that ends sessions does, and keeps their ids for a while.
const clear = (schema: string): Query => ({
  name: 'express.clear',
  text: `
with held as materialized (
  select s.id from ${schema}.session s
  where ${theirs(schema)}
  order by s.id
  limit $1::int
  for update
), fenced as (
  update ${schema}.listing l set principal = null, collect_at = ${FENCED}
  from held where l.session_id = held.id
), ended as (
  delete from ${schema}.session s using held where s.id = held.id
  returning true
)
select count(*)::int as n from ended`,
})

export interface ExpressListing {
  readonly all: TE.TaskEither<DriverError, readonly Entries[]>
  readonly length: TE.TaskEither<DriverError, number>
  readonly clear: TE.TaskEither<DriverError, void>
}

const CLEARED_AT_ONCE = 500

export const expressListing = (database: Database, schemaName: string): ExpressListing => {
  const schema = quotedSchema(schemaName)
  const counted = rowAs(t.type({ n: t.number }))
  const clearBatches: TE.TaskEither<DriverError, void> = pipe(
    counted(database, clear(schema), [CLEARED_AT_ONCE]),
    TE.chain(({ n }) => (n < CLEARED_AT_ONCE ? TE.right(undefined) : clearBatches)),
  )
  return {
    all: pipe(
      rowsAs(t.type({ entries: t.string }))(database, all(schema)),
      TE.map(A.map(({ entries }) => HashMap(Object.entries(JSON.parse(entries) as Record<string, Json>)))),
    ),
    length: pipe(
      counted(database, count(schema)),
      TE.map(({ n }) => n),
    ),
    clear: clearBatches,
  }
}
