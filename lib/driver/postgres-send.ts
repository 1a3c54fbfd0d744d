// One statement through postgres.js: sent within its deadline, and given up after it.
import * as E from 'fp-ts/lib/Either.js'
import { withEffect } from '../base/effect.js'
import type { DriverError } from '../base/errors.js'
import type { Effect } from '../base/sql-state.js'
import type { Param, Query, Row } from '../port/database.js'
import { type Column, convertRows } from './columns.js'
import { driverError, refusedParams, withDeadline } from './deadline.js'
import { isAnothers, lost, silence, type Witness, witness } from './postgres-backend.js'
import type { Pool, Sender } from './postgres-pool.js'
import { checkSettings, hasFloats, hasNulls, type SettingsCheck } from './postgres-settings.js'

/** How one statement or transaction is sent; `late` is told of each statement that was not answered in time. */
export interface Link {
  readonly pool: Pool
  readonly timeoutMs: number
  readonly prepare: boolean
  readonly settings: SettingsCheck
  readonly late: (sentAt: number) => void
}

export const send = (
  sql: Sender,
  query: Query,
  params: readonly Param[],
  link: Link,
): Promise<E.Either<DriverError, readonly Row[]>> => {
  const refused = refusedParams(query, params)
  if (refused !== undefined) return Promise.resolve(E.left(refused))
  return link.settings.isRight ? plainly(sql, query, params, link) : carefully(sql, query, params, link)
}

/** While the settings are not known. Numbers that may be rounded were read, though what the statement did is done. */
const carefully = async (
  sql: Sender,
  query: Query,
  params: readonly Param[],
  link: Link,
): Promise<E.Either<DriverError, readonly Row[]>> => {
  const check = () => checkSettings(link.settings, (settings) => plainly(sql, settings, [], link))
  if (hasNulls(params)) {
    const checked = await check()
    if (E.isLeft(checked)) return E.left(withEffect(checked.left, 'none'))
  }
  let columns: readonly Column[] = []
  const rows = await plainly(sql, query, params, link, (found) => {
    columns = found
  })
  if (E.isLeft(rows) || !hasFloats(columns)) return rows
  const checked = await check()
  return E.isLeft(checked) ? E.left(withEffect(checked.left, 'unknown')) : rows
}

const plainly = (
  sql: Sender,
  query: Query,
  params: readonly Param[],
  { pool, timeoutMs, prepare, late }: Link,
  seen?: (columns: readonly Column[]) => void,
): Promise<E.Either<DriverError, readonly Row[]>> => {
  const sentAt = performance.now()
  let pending: PromiseLike<unknown> | undefined
  const start = (): PromiseLike<readonly Row[]> => {
    pending = sql.unsafe(query.text, [...params] as never[], { prepare })
    return answer(query, pool, pending, pool.trust && witness(pending, pool.trust), seen)
  }
  const giveUp = (): Effect => {
    forget(pending)
    late(sentAt)
    return effectOf(pending)
  }
  return withDeadline(query.name, timeoutMs, start, giveUp)
}

const answer = (
  { name }: Query,
  pool: Pool,
  sent: PromiseLike<unknown>,
  witness: Witness | undefined,
  seen: ((columns: readonly Column[]) => void) | undefined,
): PromiseLike<readonly Row[]> => {
  pool.pending.add(sent)
  return sent.then(
    (result) => {
      pool.pending.delete(sent)
      pool.answeredAt = performance.now()
      if (witness?.believes() === false) throw lost(name)
      seen?.((result as Columns).columns ?? [])
      return rowsOf(result)
    },
    (error: unknown) => {
      pool.pending.delete(sent)
      const isOwn = witness?.believesError(error) ?? !isAnothers(error, isSent(sent))
      const own = isOwn ? driverError(name, error) : lost(name, error)
      throw isSent(sent) ? own : withEffect(own, 'none')
    },
  )
}

interface Columns {
  readonly columns?: readonly Column[]
}

const rowsOf = (result: unknown): readonly Row[] => {
  const rows = result as readonly Row[] & Columns
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

/** What was never sent has done nothing. */
const effectOf = (pending: unknown): Effect => (isSent(pending) ? 'unknown' : 'none')

const isSent = (pending: unknown): boolean => (pending as { readonly state?: unknown }).state !== null
