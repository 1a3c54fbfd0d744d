// The administrator's operations: typed functions over the statements of admin-sql.ts. Each needs this release's version of
// the schema.
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import * as t from 'io-ts'
import type { DriverError } from '../core/errors.js'
import type { Param, Query, Queryable } from '../db/database.js'
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
interface EndedBatch {
  readonly ended: number
  readonly next: string | undefined
}

export interface Admin {
  /** The newest live sessions, of one principal or of all. */
  readonly sessions: (
    limit: number,
    principal: string | undefined,
  ) => TE.TaskEither<DriverError, readonly SessionSummary[]>
  /** No rows if there is no such session. */
  readonly show: (id: string, values: boolean) => TE.TaskEither<DriverError, readonly ShownRow[]>
  /** The number of sessions, expired ones included, up to `COUNT_LIMIT + 1`; and the database's name. */
  readonly count: (scope: Scope) => TE.TaskEither<DriverError, t.TypeOf<typeof Counted>>
  readonly endBatch: (scope: Scope, after: string, limit: number) => TE.TaskEither<DriverError, EndedBatch>
}

/** The smallest id. */
export const FIRST_ID = '00000000-0000-0000-0000-000000000000'

export const adminOver = (database: Queryable, schema: string): Admin => {
  const sql = adminStatements(schema)
  const count = (query: Query, params: readonly Param[]) => rowAs(Counted)(database, query, params)
  return {
    sessions: (limit, principal) =>
      principal === undefined
        ? rowsAs(SessionRow)(database, sql.sessions, [limit])
        : rowsAs(SessionRow)(database, sql.sessionsOf, [limit, principal]),
    show: (id, values) => rowsAs(Shown)(database, sql.show, [id, values]),
    count: (scope) => {
      if (scope.kind === 'one') return count(sql.countOne, [scope.id])
      return scope.kind === 'all' ? count(sql.countAll, []) : count(sql.countOf, [scope.principal])
    },
    endBatch: (scope, after, limit) => {
      const end = (query: Query, params: readonly Param[]) =>
        pipe(rowAs(Ended)(database, query, params), TE.map(batchOf(limit)))
      if (scope.kind === 'all') return end(sql.endAll, [limit, after])
      if (scope.kind === 'principal') return end(sql.endOf, [limit, after, scope.principal])
      return pipe(
        end(sql.endOne, [scope.id]),
        TE.map(({ ended }) => ({ ended, next: undefined })),
      )
    },
  }
}

const batchOf =
  (limit: number) =>
  ({ ended, chosen, last }: t.TypeOf<typeof Ended>): EndedBatch => ({
    ended,
    next: chosen < limit ? undefined : (last ?? undefined),
  })
