// The administrator's operations: typed functions over the statements of admin-sql.ts. Each needs this release's version of
// the schema.
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import * as t from 'io-ts'
import type { Queryable } from '../db/database.js'
import { rowAs, rowsAs } from '../sql/rows.js'
import { adminStatements } from './admin-sql.js'

/** The sessions to count or to end. */
export type Scope =
  | { readonly kind: 'one'; readonly id: string }
  | { readonly kind: 'principal'; readonly principal: string }
  | { readonly kind: 'all' }

const text = t.union([t.string, t.null])
const number = t.union([t.number, t.null])

/** A session in a list. Times are milliseconds since 1970; `bytes` is the stored size of its values. */
export type SessionSummary = t.TypeOf<typeof SessionRow>

const SessionRow = t.type({
  id: t.string,
  principal: text,
  created: t.number,
  expiration: t.number,
  keys: t.number,
  bytes: t.number,
})

/** One key of a session, with the session's header. `value` is JSON, or null if values were not requested. */
export type ShownRow = t.TypeOf<typeof Shown>

const Shown = t.type({
  id: t.string,
  principal: text,
  created: t.number,
  expiration: t.number,
  absolute: t.number,
  revision: t.number,
  live: t.boolean,
  key: text,
  bytes: number,
  value: text,
})

const Counted = t.type({ count: t.number, database: t.string })

const Ended = t.type({ ended: t.number, chosen: t.number, last: text })

/** The result of one batch; `next` is the start of the next one, if there may be more sessions. */
export interface EndedBatch {
  readonly ended: number
  readonly next: string | undefined
}

export type Admin = ReturnType<typeof adminOver>

/** The smallest id. */
export const FIRST_ID = '00000000-0000-0000-0000-000000000000'

export const adminOver = (database: Queryable, schema: string) => {
  const sql = adminStatements(schema)
  const counts = { one: sql.countOne, principal: sql.countOf, all: sql.countAll }
  const ends = { one: sql.endOne, principal: sql.endOf, all: sql.endAll }
  return {
    /** The newest live sessions, of one principal or of all. */
    sessions: (limit: number, principal: string | undefined) =>
      principal === undefined
        ? rowsAs(SessionRow)(database, sql.sessions, [limit])
        : rowsAs(SessionRow)(database, sql.sessionsOf, [limit, principal]),
    /** No rows if there is no such session. */
    show: (id: string, values: boolean) => rowsAs(Shown)(database, sql.show, [id, values]),
    /** The number of sessions, expired ones included, up to `COUNT_LIMIT + 1`; and the database's name. */
    count: (scope: Scope) => rowAs(Counted)(database, counts[scope.kind], paramsOf(scope)),
    endBatch: (scope: Scope, after: string, limit: number) => {
      const isOne = scope.kind === 'one'
      const params = isOne ? paramsOf(scope) : [limit, after, ...paramsOf(scope)]
      return pipe(
        rowAs(Ended)(database, ends[scope.kind], params),
        TE.map(
          ({ ended, chosen, last }): EndedBatch => ({
            ended,
            next: isOne || chosen < limit ? undefined : (last ?? undefined),
          }),
        ),
      )
    },
  }
}

const paramsOf = (scope: Scope): readonly string[] => {
  if (scope.kind === 'one') return [scope.id]
  return scope.kind === 'principal' ? [scope.principal] : []
}
