// Active records for an application's own tables: tables, columns, relations, statements and transactions.

export { isRecordError, type RecordError, RecordGone } from '../core/errors.js'
export type { DeepReadonly } from '../core/json.js'
export { transact, transactionClient } from '../db/database.js'
export * from './column.js'
export { param, queryMany, queryOne, queryStream, type RowsAs, sql } from './query.js'
export { record } from './record.js'
export type { Definition, RecordId, RecordOf, RecordValue, Relation } from './table.js'
export { withHandle } from './value.js'
