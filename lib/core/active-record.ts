// An active record is a handle and an id: the handle says where the record lives, the id says which one
// it is. All else is pure functions over immutable values.

/**
 * What every record has: the `handle` through which it is saved and destroyed, and its `id` there.
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
