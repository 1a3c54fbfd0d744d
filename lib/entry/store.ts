// Exports the functions and types for authors of stores, databases and layers.

export {
  type Cache,
  CacheError,
  type CacheErrorKind,
  type CacheItem,
  type CacheSwap,
  type CacheValue,
  type Swapped,
} from '../cache/contract.js'
export type { LateBacklog } from '../cache/late-saves.js'
export {
  type WriteBehindOptions,
  type WriteBehindStore,
  writeBehind,
} from '../cache/write-behind.js'
export { type WriteThroughOptions, writeThrough } from '../cache/write-through.js'
export type { Edit, Edits, Entries, Step } from '../core/edits.js'
export type { StoreError } from '../core/errors.js'
export type { Keys, PartialSnapshot, SessionValue, Snapshot } from '../core/session.js'
export type { IdempotencyKey, IdOrigin, Ids, SecretHash, SessionId } from '../core/token.js'
export type { OwnLifetime } from '../core/well-known-keys.js'
export { batchedDatabase } from '../db/batched.js'
export {
  type BatchableQuery,
  type Database,
  observedDatabase,
  type Param,
  type Query,
  type Queryable,
  type QueryEvent,
  type Row,
  type TransactionScope,
  transact,
  transactionClient,
} from '../db/database.js'
export type { RetryPolicy } from '../db/deadline.js'
export { type SessionStoreOptions, sessionStore } from '../sql/store.js'
export { type BatchOptions, batched } from '../store/batched.js'
export { cached, type MemoryLimit } from '../store/cached.js'
export * from '../store/cleanup.js'
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
} from '../store/contract.js'
