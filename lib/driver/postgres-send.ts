// One statement through postgres.js: sent within its deadline, and given up after it.
import * as E from 'fp-ts/lib/Either.js'
import type { DriverError } from '../base/errors.js'
import type { Param, Query, Row } from '../port/database.js'
import { type Column, convertRows } from './columns.js'
import { refusedParams, withDeadline } from './deadline.js'
import { isAnothers, lost, silence, type Witness, witness } from './postgres-backend.js'
import type { Pool, Sender } from './postgres-pool.js'
import { refused } from './postgres-unsent.js'

/** How one statement or transaction is sent; `late` is told of each statement that was not answered in time. */
export interface Link {
  readonly pool: Pool
  readonly timeoutMs: number
  readonly prepare: boolean
  readonly late: (sentAt: number) => void
  /** How much of its time has gone by for attempts at which it was not sent, in milliseconds. */
  readonly spentMs?: number | undefined
  /** Told of an error with which nothing was sent; where nobody wants to know, it is not looked at. */
  readonly unsent?: ((error: DriverError) => void) | undefined
}

export const send = (
  sql: Sender,
  query: Query,
  params: readonly Param[],
  link: Link,
): Promise<E.Either<DriverError, readonly Row[]>> => {
  const { pool, timeoutMs, prepare, late, spentMs, unsent } = link
  const refused = refusedParams(query, params)
  if (refused !== undefined) return Promise.resolve(E.left(refused))
  const sentAt = performance.now()
  let pending: PromiseLike<unknown> | undefined
  let seen: Witness | undefined
  const start = (): PromiseLike<readonly Row[]> => {
    pending = sql.unsafe(query.text, [...params] as never[], { prepare })
    seen = pool.trust && witness(pending, pool.trust)
    return answer(query, pool, pending, seen)
  }
  const giveUp = (): void => {
    forget(pending)
    late(sentAt)
  }
  const sent = withDeadline(query.name, timeoutMs, start, giveUp, spentMs)
  if (unsent === undefined) return sent
  return sent.then((result) => {
    const isUnsent = pending !== undefined && (!isSent(pending) || seen?.isSilenced() === true)
    if (E.isLeft(result) && isUnsent) unsent(result.left)
    return result
  })
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
      if (!isOwn) throw lost(name, error)
      throw isSent(sent) ? error : refused(name, pool, error)
    },
  )
}

const rowsOf = (result: unknown): readonly Row[] => {
  const rows = result as readonly Row[] & { readonly columns?: readonly Column[] }
  // A plain array: the library's own carries the statement and the connection's state. And postgres.js 3.4.9 goes on
  // counting rows where it was when their connection was lost: the next result then begins with so many holes.
  const plain: Row[] = []
  rows.forEach((row) => void plain.push(row))
  return convertRows(rows.columns ?? [], plain)
}

// A statement still waiting for a connection becomes one that does nothing. (If a connection is just being made
// for it, cancelling it would cost the pool that connection for good, in postgres.js 3.4.9.) One that was sent is
// left alone: a cancel request names a connection, not a statement, and could end another request's.
const forget = (pending: unknown): void => {
  if (!isSent(pending)) silence(pending)
}

const isSent = (pending: unknown): boolean => (pending as { readonly state?: unknown }).state !== null
