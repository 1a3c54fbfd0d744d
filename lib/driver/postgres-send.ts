// One statement through postgres.js: sent within its deadline, and given up after it. Parameters go as text of unknown
// type, and rows come as text, so that nothing depends on what the pool is told to make of either.
import * as E from 'fp-ts/lib/Either.js'
import type { DriverError } from '../base/errors.js'
import type { Param, Query, Row } from '../port/database.js'
import { paramText } from '../port/params.js'
import { type Column, decodedRows, type Wire } from './columns.js'
import { refusedParams, withDeadline } from './deadline.js'
import { isAnothers, lost, silence, type Witness, witness } from './postgres-backend.js'
import { isToBeSentAnew, planOf, withoutRetry } from './postgres-plans.js'
import type { Pool, Sender } from './postgres-pool.js'

/** How one statement or transaction is sent; `late` is told of each statement that was not answered in time. */
export interface Link {
  readonly pool: Pool
  readonly timeoutMs: number
  readonly prepare: boolean
  readonly late: (sentAt: number) => void
}

export const send = async (
  sql: Sender,
  query: Query,
  params: readonly Param[],
  link: Link,
): Promise<E.Either<DriverError, readonly Row[]>> => {
  const refused = refusedParams(query, params)
  if (refused !== undefined) return E.left(refused)
  const sentAt = performance.now()
  // One without parameters is rarely sent again as it is.
  const plan = planOf(link.pool, query.text, link.prepare && params.length > 0)
  const result = await sendOnce(sql, { ...query, text: plan.text }, params, {
    ...link,
    prepare: plan.prepare,
  })
  if (E.isRight(result) || !isToBeSentAnew(link.pool, plan, result.left.cause)) return result
  // A transaction in which a statement has failed does nothing more.
  const rest = link.timeoutMs - (performance.now() - sentAt)
  return sql === link.pool.sql && rest > 0
    ? sendOnce(sql, query, params, { ...link, prepare: false, timeoutMs: rest })
    : result
}

/** The type of which PostgreSQL takes a quoted literal to be until it knows better. */
const UNKNOWN = 705

const sendOnce = (
  sql: Sender,
  query: Query,
  params: readonly Param[],
  { pool, timeoutMs, prepare, late }: Link,
): Promise<E.Either<DriverError, readonly Row[]>> => {
  const sentAt = performance.now()
  let pending: PromiseLike<unknown> | undefined
  const start = (): PromiseLike<readonly Row[]> => {
    const typed = params.map((param) => pool.sql.typed(paramText(param), UNKNOWN))
    // Without parameters it would else be sent as a script, which may be several statements.
    pending = sql.unsafe(query.text, typed as never[], { prepare, simple: false }).raw()
    if (prepare) withoutRetry(pending)
    return answer(query, pool, pending, pool.trust && witness(pending, pool.trust))
  }
  const giveUp = (): void => {
    forget(pending)
    late(sentAt)
  }
  return withDeadline(query.name, timeoutMs, start, giveUp)
}
const answer = (
  { name }: Query,
  pool: Pool,
  sent: PromiseLike<unknown>,
  witness: Witness | undefined,
): PromiseLike<readonly Row[]> => {
  pool.pending.add(sent)
  return sent.then(
    (result) => {
      pool.pending.delete(sent)
      pool.answeredAt = performance.now()
      if (witness?.believes() === false) throw lost(name)
      return rowsOf(result)
    },
    (error: unknown) => {
      pool.pending.delete(sent)
      const isOwn = witness?.believesError(error) ?? !isAnothers(error, isSent(sent))
      throw isOwn ? error : lost(name, error)
    },
  )
}

const rowsOf = (result: unknown): readonly Row[] => {
  const rows = result as readonly Wire[][] & { readonly columns?: readonly Column[] }
  return decodedRows(rows.columns ?? [], rows)
}

// A statement still waiting for a connection becomes one that does nothing. (If a connection is just being made
// for it, cancelling it would cost the pool that connection for good, in postgres.js 3.4.9.) One that was sent is
// left alone: a cancel request names a connection, not a statement, and could end another request's.
const forget = (pending: unknown): void => {
  if (!isSent(pending)) silence(pending)
}

const isSent = (pending: unknown): boolean => (pending as { readonly state?: unknown }).state !== null
