// The same names for plain `async` functions: a `TaskEither` becomes a promise that rejects with the tagged
// error, an `Option` becomes `undefined`, and the left of an `Either` is thrown. Everything here converts; nothing is
// implemented here.
export * from './base/errors.js'
export type { DeepReadonly } from './base/frozen.js'
export type { Json } from './base/json.js'
export type { Collected, CollectOptions } from './collector/collect.js'
export type { CollectorOptions } from './collector/collector.js'
export { type BatchLimits, batched } from './combinator/batched.js'
export { batchedDatabase } from './combinator/batched-database.js'
export { type MemoryLimit, remembered } from './combinator/remembered.js'
export type { WithSessionOptions } from './current/current-session.js'
export type { ListedSession } from './current/principal.js'
export { buildSession, type LoadOptions, sessionToken } from './current/verbs.js'
export { type TokenGuard, type TokenGuardOptions, tokenGuard } from './door/guard.js'
export { type CheckedRequest, isPrefetch } from './door/origin.js'
export { RequestRefused } from './door/refused.js'
export type { Database, EachQuery, Param, Query, Queryable, QueryEvent, Row } from './port/database.js'
export { onSessionEvent, type SessionEventName, type SessionEvents } from './port/events.js'
export type { Lifetime } from './port/lifetime.js'
export { observedDatabase } from './port/observed.js'
export type { Session, SessionStore, Which } from './port/session-store.js'
export { record } from './promise/record.js'
export type { RecordOf, Relation } from './promise/record-types.js'
export * from './promise/session.js'
export { queryMany, queryOne, queryStream } from './promise/sql.js'
export { transact } from './promise/transact.js'
export { sessionRef, sessionRefStrict, sessionUpdate } from './promise/values.js'
export type { ActiveRecord } from './record/active-record.js'
export { array } from './record/array.js'
export {
  type AnyColumn,
  boolean,
  bytea,
  type Column,
  type ColumnValue,
  enumeration,
  float8,
  type Generated,
  generated,
  int4,
  int8,
  jsonb,
  nullable,
  refined,
  text,
  textual,
  timestamptz,
  uuid,
} from './record/column.js'
export { type Flash, flash, flashes, unflash } from './session/flash.js'
export { type SessionKey, sessionKey } from './session/key.js'
export type { OwnLifetime } from './session/own-lifetime.js'
export { sessionFor, sessionPrincipal } from './session/principal.js'
export type { SessionId } from './session/token.js'
export { sessionDel, sessionSet } from './session/values.js'
export { type SessionStoreOptions, sessionStore } from './sql/session-store.js'
export { param, type RowsAs, sql } from './table/sql.js'
export type { Definition, RecordId, RecordValue } from './table/types.js'
export { withHandle } from './table/with-handle.js'
