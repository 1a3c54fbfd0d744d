// An active record is an immutable value with a handle and an id. Pure functions do the rest.

/**
 * The common part of all records: the `handle` through which a record is saved and destroyed, and its `id` there.
 *
 * @example
 * ```ts
 * import type { ActiveRecord } from 'keyrow'
 *
 * const invoice: ActiveRecord<'ledger', number> = { handle: 'ledger', id: 42 }
 * console.log(invoice.id) // 42
 * ```
 */
export interface ActiveRecord<H, I> {
  readonly handle: H
  readonly id: I
}
