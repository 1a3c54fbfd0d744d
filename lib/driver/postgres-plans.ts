// Which statements a postgres.js pool prepares. One that does not fit any more (stale-plan.ts) is prepared anew under
// another text, on every connection, so that one failure is enough for the whole pool. A pool whose connections keep
// forgetting their statements, as behind a pooler in transaction mode, prepares no more.
import type { Pool } from './postgres-pool.js'
import { isForgotten, isStalePlan } from './stale-plan.js'

/** How a statement is sent, and how many times the pool's statements had been prepared anew by then. */
export interface Plan {
  readonly text: string
  readonly prepare: boolean
  readonly generation: number
}

interface Plans {
  generation: number
  /** How many generations ended because a connection had forgotten a statement. */
  forgotten: number
}

const MOST_FORGOTTEN = 8

const plans = new WeakMap<Pool, Plans>()

const plansOf = (pool: Pool): Plans => {
  const known = plans.get(pool)
  if (known !== undefined) return known
  const none = { generation: 0, forgotten: 0 }
  plans.set(pool, none)
  return none
}

export const planOf = (pool: Pool, text: string, prepare: boolean): Plan => {
  const { generation, forgotten } = plansOf(pool)
  if (!prepare || forgotten >= MOST_FORGOTTEN) return { text, prepare: false, generation }
  // At the end, since poolers look at how a statement begins.
  return { text: generation === 0 ? text : `${text}\n/* ${String(generation)} */`, prepare, generation }
}

/** Notes a failure; tells whether the statement may be sent again, not prepared, since nothing was done. */
export const isToBeSentAnew = (pool: Pool, { generation, prepare }: Plan, error: unknown): boolean => {
  if (!prepare || !isStalePlan(error)) return false
  const known = plansOf(pool)
  // Others of the same generation may have failed before it.
  if (known.generation === generation) {
    known.generation += 1
    if (isForgotten(error)) known.forgotten += 1
  }
  return true
}

/**
 * Keeps postgres.js from sending a prepared statement again by itself. Version 3.4.9 does so on a connection that may
 * have other statements under way, and then takes their answers for its own: all of them hang. It looks at
 * `prepared` when it writes the statement, in the same turn in which it has set it, and once more after a failure.
 */
export const withoutRetry = (pending: object): void => {
  let prepared: unknown = false
  Object.defineProperty(pending, 'prepared', {
    get: () => prepared,
    set: (value: unknown) => {
      prepared = value
      queueMicrotask(() => {
        prepared = false
      })
    },
  })
}
