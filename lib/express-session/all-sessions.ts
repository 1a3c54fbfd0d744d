// Implements the methods of an express-session store that concern all its sessions. Only sessions with a key `cookie`
// belong to the store, because the same tables may have other sessions too.

import type { DriverError } from '../core/errors.js'
import type { Json } from '../core/json.js'
import { A, HashMap, pipe, TE, t } from '../core/prelude.cjs'
import { type Database, ONCE_ON_PRIMARY, readCommitted } from '../db/database.js'
import { endingOf, fenceListed, statementsOf } from '../sql/fragments.js'
import { rowAs, rowsAs } from '../sql/rows.js'
import { quotedSchema } from '../sql/schema.js'
import { hasEnded, isOver } from './values.js'

const hasCookie = (schema: string): string =>
  `exists (select from ${schema}.entry c where c.session_id = s.id and c.key = 'cookie' and c.value is not null)`

const statements = statementsOf('express', {
  all: (schema) => `
select json_object_agg(e.key, e.value)::text as entries
from ${schema}.session s join ${schema}.entry e on e.session_id = s.id
where s.expires_at > now() and e.value is not null and ${hasCookie(schema)} and ${ONCE_ON_PRIMARY}
group by s.id
order by s.id`,

  // $1 is the time by this process's clock, which also sets the times of cookies. The time has the form in which JSON
  // writes a `Date`. Times of that form are compared as texts, because a cast fails for other texts. `others` has the
  // cookies whose times have another form.
  count: (schema) => `
select
  count(*) filter (where c.expires is null or (c.is_date and c.expires collate "C" > $1::text))::int as n,
  coalesce(json_agg(c.value) filter (where c.expires is not null and not c.is_date), '[]')::text as others
from (
  select e.value, e.value ->> 'expires' as expires,
    e.value ->> 'expires' ~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}[.][0-9]{3}Z$' as is_date
  from ${schema}.session s join ${schema}.entry e on e.session_id = s.id
  where s.expires_at > now() and e.key = 'cookie' and e.value is not null and ${ONCE_ON_PRIMARY}
) c`,

  // $1 is the batch size. Sessions are locked in the order of their ids. The ids stay fenced, so that no session is
  // created with one of them.
  clear: (schema) =>
    endingOf(schema, {
      lockedSessions: `
  select s.id from ${schema}.session s
  where ${hasCookie(schema)}
  order by s.id
  limit $1::int
  for update`,
      fenced: fenceListed(schema),
      result: 'select count(*)::int as n from ended',
    }),
})

const CLEAR_BATCH_SIZE = 500

export type AllSessions = ReturnType<typeof allSessions>

export const allSessions = (database: Database, schemaName: string) => {
  const own = readCommitted(database)
  const sql = statements(quotedSchema(schemaName))
  /** Ends all sessions, including sessions whose cookie has expired. */
  const clear: TE.TaskEither<DriverError, void> = pipe(
    rowAs(t.type({ n: t.number }))(own, sql.clear, [CLEAR_BATCH_SIZE]),
    TE.chain(({ n }) => (n < CLEAR_BATCH_SIZE ? TE.right(undefined) : clear)),
  )
  return {
    clear,
    /** Returns the sessions of which neither the row nor the cookie has expired. */
    all: pipe(
      rowsAs(t.type({ entries: t.string }))(own, sql.all),
      TE.map(A.map(({ entries }) => HashMap(Object.entries(JSON.parse(entries) as Record<string, Json>)))),
      TE.map(A.filter((entries) => !hasEnded(entries, Date.now()))),
    ),
    /** Returns the number of sessions that `all` returns. */
    length: () => {
      const now = Date.now()
      const isAlive = (cookie: Json): boolean => !isOver(cookie, now)
      return pipe(
        rowAs(t.type({ n: t.number, others: t.string }))(own, sql.count, [new Date(now).toISOString()]),
        TE.map(({ n, others }) => n + (JSON.parse(others) as readonly Json[]).filter(isAlive).length),
      )()
    },
  }
}
