// Exports keyrow's functions in a form for `async` functions, under the same names. A `TaskEither` becomes a promise,
// which rejects with the error of a `Left`. A `None` becomes `undefined`. A synchronous function throws the error of a
// `Left`. The modules of this folder contain only such conversions.

export type { Proof } from '../bound/current-proof.js'
export {
  type Cache,
  CacheError,
  type CacheErrorKind,
  type CacheItem,
  type CacheSwap,
  type CacheValue,
} from '../cache/contract.js'
export {
  type WriteBehindOptions,
  type WriteBehindStore,
  writeBehind,
} from '../cache/write-behind.js'
export { type WriteThroughOptions, writeThrough } from '../cache/write-through.js'
export {
  DecodeError,
  DriverError,
  EncodeError,
  isRecordError,
  isSessionError,
  KeyNotLoaded,
  NoCurrentSession,
  ProofRequired,
  type RecordError,
  RecordGone,
  SaveConflict,
  SchemaMismatch,
  SessionClosed,
  type SessionError,
  SessionGone,
} from '../core/errors.js'
export type { DeepReadonly, Json } from '../core/json.js'
export { type SessionKey, sessionKey } from '../core/key.js'
export type { ActiveRecord } from '../core/session.js'
export type { SessionId } from '../core/token.js'
export { sessionDel, sessionSet } from '../core/values.js'
export type { Device, OwnLifetime } from '../core/well-known-keys.js'
export {
  type Flash,
  sessionClearFlashes,
  sessionFlash,
  sessionFlashes,
  sessionFor,
  sessionPrincipal,
  signedInWithin,
} from '../core/well-known-keys.js'
export { batchedDatabase } from '../db/batched.js'
export type { BatchableQuery, Database, Param, Query, Queryable, QueryEvent, Row } from '../db/database.js'
export { observedDatabase, transactionClient } from '../db/database.js'
export { type CheckedRequest, isPrefetch } from '../http/csrf.js'
export { RequestRejected } from '../http/errors.js'
export { type TokenGuard, type TokenGuardOptions, tokenGuard } from '../http/token-guard.js'
export * from '../records/column.js'
export { param, type RowsAs, sql } from '../records/query.js'
export type { Definition, RecordId, RecordValue } from '../records/table.js'
export { withHandle } from '../records/value.js'
export type { ListedSession } from '../request/sign-in.js'
export { buildSession, type LoadOptions, sessionToken } from '../request/verbs.js'
export type { WithSessionOptions } from '../request/with-session.js'
export { type SessionStoreOptions, sessionStore } from '../sql/store.js'
export { type BatchOptions, batched } from '../store/batched.js'
export { cached, type MemoryLimit } from '../store/cached.js'
export type { CleanupOptions, DeletedExpired, DeleteExpiredOptions } from '../store/cleanup.js'
export type { Lifetime, Session, SessionStore, Which } from '../store/contract.js'
export {
  onSessionEvent,
  type ProofRefusal,
  type SessionEventName,
  type SessionEvents,
} from '../store/events.js'
export { type RecordOf, type Relation, record } from './record.js'
export * from './session.js'
export { queryMany, queryOne, queryStream, transact } from './sql.js'
