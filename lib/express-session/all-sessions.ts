// What express-session may ask of all its sessions at once. They are those that hold a `cookie`: there may be
// others in the same tables.

import { pipe } from 'fp-ts/lib/function.js'
import * as A from 'fp-ts/lib/ReadonlyArray.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import { Map as HashMap } from 'immutable'
import * as t from 'io-ts'
import type { Entries } from '../core/edits.js'
import type { DriverError } from '../core/errors.js'
import type { Json } from '../core/json.js'
import type { Database, Query } from '../db/database.js'
import { ONCE_ON_PRIMARY, readCommitted } from '../db/database.js'
import { endingOf, fenceListed } from '../sql/fragments.js'
import { rowAs, rowsAs } from '../sql/rows.js'
import { quotedSchema } from '../sql/schema.js'

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

// $1 the time by the clock that cookies' times are set by, as JSON writes a `Date`: texts of that form are compared as
// texts, since a cast of another would fail. All other times are given back for the caller to judge.
const count = (schema: string): Query => ({
  name: 'express.count',
  text: `
select
  count(*) filter (where c.expires is null or (c.is_date and c.expires collate "C" > $1::text))::int as n,
  coalesce(json_agg(c.value) filter (where c.expires is not null and not c.is_date), '[]')::text as others
from (
  select e.value, e.value ->> 'expires' as expires,
    e.value ->> 'expires' ~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}[.][0-9]{3}Z$' as is_date
  from ${schema}.session s join ${schema}.entry e on e.session_id = s.id
  where s.expires_at > now() and e.key = 'cookie' and e.value is not null and ${ONCE_ON_PRIMARY}
) c`,
})

// $1 batch size
const clear = (schema: string): Query => ({
  name: 'express.clear',
  text: endingOf(schema, {
    held: `
  select s.id from ${schema}.session s
  where ${theirs(schema)}
  order by s.id
  limit $1::int
  for update`,
    fenced: fenceListed(schema),
    result: 'select count(*)::int as n from ended',
  }),
})

/** Whether a session with this cookie has ended at a time, in milliseconds since 1970. */
export type IsOver = (cookie: Json | undefined, now: number) => boolean

export interface AllSessions {
  /** The sessions that have not ended, by the row's time and by the cookie's. */
  readonly all: TE.TaskEither<DriverError, readonly Entries[]>
  readonly length: TE.TaskEither<DriverError, number>
  /** Ends all of them, and those whose cookie's time is over. */
  readonly clear: TE.TaskEither<DriverError, void>
}

const CLEARED_AT_ONCE = 500

export const allSessions = (database: Database, schemaName: string, isOver: IsOver): AllSessions => {
  const [own, schema] = [readCommitted(database), quotedSchema(schemaName)]
  const ended = rowAs(t.type({ n: t.number }))
  const counted = rowAs(t.type({ n: t.number, others: t.string }))
  const clearBatches: TE.TaskEither<DriverError, void> = pipe(
    ended(own, clear(schema), [CLEARED_AT_ONCE]),
    TE.chain(({ n }) => (n < CLEARED_AT_ONCE ? TE.right(undefined) : clearBatches)),
  )
  return {
    all: pipe(
      rowsAs(t.type({ entries: t.string }))(own, all(schema)),
      TE.map(A.map(({ entries }) => HashMap(Object.entries(JSON.parse(entries) as Record<string, Json>)))),
      TE.map(A.filter((entries) => !isOver(entries.get('cookie'), Date.now()))),
    ),
    length: pipe(
      TE.fromIO(() => Date.now()),
      TE.chain((now) =>
        pipe(
          counted(own, count(schema), [new Date(now).toISOString()]),
          TE.map(({ n, others }) => n + stillOpen(JSON.parse(others) as readonly Json[], now, isOver)),
        ),
      ),
    ),
    clear: clearBatches,
  }
}

const stillOpen = (cookies: readonly Json[], now: number, isOver: IsOver): number =>
  cookies.filter((cookie) => !isOver(cookie, now)).length
