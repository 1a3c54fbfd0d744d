// keyrow: a functional active-record toolkit, and its main record, the web session.

export type { ActiveRecord } from './core/active-record.js'
export type { Edit, Edits, Entries, Step } from './core/edits.js'
export {
  DecodeError,
  DriverError,
  EncodeError,
  isRecordError,
  isSessionError,
  KeyNotLoaded,
  NoCurrentSession,
  type RecordError,
  RecordGone,
  SaveConflict,
  SchemaMismatch,
  SessionClosed,
  type SessionError,
  SessionGone,
  type StoreError,
} from './core/errors.js'
export type { DeepReadonly, Json } from './core/json.js'
export { type SessionKey, sessionKey } from './core/key.js'
export type { KeyNames, Keys, PartialSnapshot, SessionValue, Snapshot } from './core/session.js'
export type { IdempotencyKey, IdOrigin, Ids, SecretHash, SessionId } from './core/token.js'
export { sessionDel, sessionRef, sessionRefStrict, sessionSet, sessionUpdate } from './core/values.js'
export type { OwnLifetime } from './core/well-known-keys.js'
export {
  type Flash,
  sessionClearFlashes,
  sessionFlash,
  sessionFlashes,
  sessionFor,
  sessionPrincipal,
} from './core/well-known-keys.js'
export { batchedDatabase } from './db/batched.js'
export type {
  BatchableQuery,
  Database,
  Param,
  Query,
  Queryable,
  QueryEvent,
  Row,
  TransactionScope,
} from './db/database.js'
export { observedDatabase, transact } from './db/database.js'
export type { RetryPolicy } from './db/retry.js'
export { type CheckedRequest, isPrefetch, verifyCsrf } from './http/csrf.js'
export { RequestRejected } from './http/errors.js'
export { type TokenGuard, type TokenGuardOptions, tokenGuard } from './http/token-guard.js'
export { array } from './records/array.js'
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
} from './records/column.js'
export { param, queryMany, queryOne, queryStream, type RowsAs, sql } from './records/query.js'
export { record } from './records/record.js'
export type { Definition, RecordId, RecordOf, RecordValue, Relation } from './records/table.js'
export { withHandle } from './records/value.js'
export {
  csrfToken,
  destroySessionsOf,
  type ListedSession,
  type SignInOptions,
  sessionsOf,
  signIn,
  signOut,
  takeFlashes,
} from './request/sign-in.js'
export {
  buildSession,
  destroySession,
  type LoadOptions,
  loadCurrentKeys,
  loadKeys,
  loadSession,
  refreshSession,
  rotateSession,
  saveSession,
  sessionToken,
} from './request/verbs.js'
export {
  callWithSession,
  currentSession,
  updateCurrentSession,
  type WithSessionOptions,
  withSession,
} from './request/with-session.js'
export { type SessionStoreOptions, sessionStore } from './sql/store.js'
export { type BatchOptions, batched } from './store/batched.js'
export { cached, type MemoryLimit } from './store/cached.js'
export {
  type Cleanup,
  type CleanupOptions,
  type DeletedExpired,
  type DeleteExpiredOptions,
  deleteExpiredSessions,
  startCleanup,
} from './store/cleanup.js'
export type {
  Absence,
  BatchOperations,
  Change,
  ExpiredBatch,
  Lifetime,
  Listed,
  LoadRequest,
  Reading,
  Saved,
  SavedSnapshot,
  SaveRequest,
  Session,
  SessionStore,
  Which,
} from './store/contract.js'
export { onSessionEvent, type SessionEventName, type SessionEvents } from './store/events.js'
