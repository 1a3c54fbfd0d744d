// keyrow: a functional active-record toolkit, and its main record, the web session.
export * from './base/errors.js'
export type { DeepReadonly } from './base/frozen.js'
export type { Json } from './base/json.js'
export { type Collected, type CollectOptions, collectGarbage } from './collector/collect.js'
export { type Collector, type CollectorOptions, startCollector } from './collector/collector.js'
export { type BatchLimits, batched } from './combinator/batched.js'
export { batchedDatabase } from './combinator/batched-database.js'
export { type MemoryLimit, remembered } from './combinator/remembered.js'
export {
  callWithSession,
  currentSession,
  updateCurrentSession,
  type WithSessionOptions,
  withSession,
} from './current/current-session.js'
export { endSessions, type ListedSession, sessionsOf } from './current/principal.js'
export { fetchCurrentSession, refreshSession, sessionFetch } from './current/reading.js'
export { csrfToken, type SignInOptions, signIn, signOut, takeFlashes } from './current/sign-in.js'
export {
  buildSession,
  destroySession,
  type LoadOptions,
  loadSession,
  rotateSession,
  saveSession,
  sessionToken,
} from './current/verbs.js'
export { checkForgery } from './door/forgery.js'
export { type TokenGuard, type TokenGuardOptions, tokenGuard } from './door/guard.js'
export { type CheckedRequest, isPrefetch } from './door/origin.js'
export { RequestRefused } from './door/refused.js'
export type {
  Database,
  EachQuery,
  Param,
  Query,
  Queryable,
  QueryEvent,
  Row,
  Within,
} from './port/database.js'
export { onSessionEvent, type SessionEventName, type SessionEvents } from './port/events.js'
export type { Lifetime } from './port/lifetime.js'
export { observedDatabase } from './port/observed.js'
export type {
  Absence,
  Change,
  CollectedBatch,
  Listed,
  LoadRequest,
  ManyOperations,
  Reading,
  Saved,
  SavedSnapshot,
  SaveRequest,
  Session,
  SessionStore,
  Which,
} from './port/session-store.js'
export { transact } from './port/transact.js'
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
export type { Edit, Edits, Entries, Step } from './session/edits.js'
export { type Flash, flash, flashes, unflash } from './session/flash.js'
export type { IdOrigin, Ids } from './session/ids.js'
export { type SessionKey, sessionKey } from './session/key.js'
export type { KeyNames, Keys, Known } from './session/known.js'
export type { OwnLifetime } from './session/own-lifetime.js'
export { sessionFor, sessionPrincipal } from './session/principal.js'
export type { SessionValue, Snapshot } from './session/session.js'
export type { SaveId, SecretHash, SessionId } from './session/token.js'
export { sessionDel, sessionRef, sessionRefStrict, sessionSet, sessionUpdate } from './session/values.js'
export type { RetryPolicy } from './sql/retry.js'
export { type SessionStoreOptions, sessionStore } from './sql/session-store.js'
export { record } from './table/record.js'
export { param, queryMany, queryOne, queryStream, type RowsAs, sql } from './table/sql.js'
export type { Definition, RecordId, RecordOf, RecordValue, Relation } from './table/types.js'
export { withHandle } from './table/with-handle.js'
