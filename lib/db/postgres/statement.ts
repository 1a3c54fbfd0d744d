// One statement through postgres.js: sent within its deadline, and given up after it. Parameters go as text of unknown
// type, and rows come as text, so that nothing depends on what the pool is told to make of either.

import * as E from 'fp-ts/lib/Either.js'
import { type DriverError, type Effect, withEffect } from '../../core/errors.js'
import type { Param, Query, Row } from '../database.js'
import { driverError, invalidParams, isForgotten, isStalePlan, withDeadline } from '../deadline.js'
import { type Column, decodedRows, paramText, type Wire } from '../text-format.js'
import type { Pool, Sender } from './pool.js'
import { checkSettings, hasFloats, hasNulls, type SettingsCheck } from './settings.js'
import { notSent } from './unsent.js'
import { isAnothers, lost, neutralise, type Observation, observe } from './workarounds.js'

// Which statements a postgres.js pool prepares. One that does not fit any more (stale-plan.ts) is prepared anew under
// another text, on every connection, so that one failure is enough for the whole pool. A pool whose connections keep
// forgetting their statements, as behind a pooler in transaction mode, prepares no more.

/** How a statement is sent, and how many times the pool's statements had been prepared anew by then. */
interface Plan {
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

const planOf = (pool: Pool, text: string, prepare: boolean): Plan => {
  const { generation, forgotten } = plansOf(pool)
  if (!prepare || forgotten >= MOST_FORGOTTEN) return { text, prepare: false, generation }
  // At the end, since poolers look at how a statement begins.
  return { text: generation === 0 ? text : `${text}\n/* ${String(generation)} */`, prepare, generation }
}

/** Notes a failure; tells whether the statement may be sent again, not prepared, since nothing was done. */
const isToBeSentAnew = (pool: Pool, { generation, prepare }: Plan, error: unknown): boolean => {
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
const withoutRetry = (pending: object): void => {
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

/** How one statement or transaction is sent; `late` is told of each statement that was not answered in time. */
export interface Link {
  readonly pool: Pool
  readonly timeoutMs: number
  readonly prepare: boolean
  readonly settings: SettingsCheck
  readonly late: (sentAt: number) => void
  /** How much of its time has gone by for attempts at which it was not sent, in milliseconds. */
  readonly spentMs?: number | undefined
  /** Told of an error with which nothing was sent; where nobody wants to know, it is not looked at. */
  readonly unsent?: ((error: DriverError) => void) | undefined
}

export const send = async (
  sql: Sender,
  query: Query,
  params: readonly Param[],
  link: Link,
): Promise<E.Either<DriverError, readonly Row[]>> => {
  const bad = invalidParams(query, params)
  if (bad !== undefined) return E.left(bad)
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
  return sql === link.pool.sql && rest > (link.spentMs ?? 0)
    ? sendOnce(sql, query, params, { ...link, prepare: false, timeoutMs: rest })
    : result
}

/** The type of which PostgreSQL takes a quoted literal to be until it knows better. */
const UNKNOWN = 705

/** Until the settings are known. Where they may have rounded numbers that were read, what the statement did is done. */
const sendOnce = async (
  sql: Sender,
  query: Query,
  params: readonly Param[],
  link: Link,
): Promise<E.Either<DriverError, readonly Row[]>> => {
  if (link.settings.isRight) return sendPlainly(sql, query, params, link)
  const check = () => checkSettings(link.settings, (settings) => sendPlainly(sql, settings, [], link))
  if (hasNulls(params)) {
    const checked = await check()
    if (E.isLeft(checked)) return E.left(withEffect(checked.left, 'none'))
  }
  let columns: readonly Column[] = []
  const rows = await sendPlainly(sql, query, params, link, (found) => {
    columns = found
  })
  if (E.isLeft(rows) || !hasFloats(columns)) return rows
  const checked = await check()
  return E.isLeft(checked) ? E.left(withEffect(checked.left, 'unknown')) : rows
}

const sendPlainly = (
  sql: Sender,
  query: Query,
  params: readonly Param[],
  { pool, timeoutMs, prepare, late, spentMs, unsent }: Link,
  seen?: (columns: readonly Column[]) => void,
): Promise<E.Either<DriverError, readonly Row[]>> => {
  const sentAt = performance.now()
  let pending: PromiseLike<unknown> | undefined
  let observed: Observation | undefined
  const start = (): PromiseLike<readonly Row[]> => {
    const typed = params.map((param) => pool.sql.typed(paramText(param), UNKNOWN))
    // Without parameters it would else be sent as a script, which may be several statements.
    pending = sql.unsafe(query.text, typed as never[], { prepare, simple: false }).raw()
    if (prepare) withoutRetry(pending)
    observed = pool.health && observe(pending, pool.health)
    return answer(query, pool, pending, observed, seen)
  }
  const giveUp = (): Effect => {
    forget(pending)
    late(sentAt)
    return effectOf(pending)
  }
  const sent = withDeadline(query.name, timeoutMs, start, giveUp, spentMs)
  if (unsent === undefined) return sent
  return sent.then((result) => {
    const isUnsent = pending !== undefined && (!isSent(pending) || observed?.isNeutralised() === true)
    if (E.isLeft(result) && isUnsent) unsent(result.left)
    return result
  })
}

const answer = (
  { name }: Query,
  pool: Pool,
  sent: PromiseLike<unknown>,
  observation: Observation | undefined,
  seen: ((columns: readonly Column[]) => void) | undefined,
): PromiseLike<readonly Row[]> => {
  pool.pending.add(sent)
  return sent.then(
    (result) => {
      pool.pending.delete(sent)
      pool.answeredAt = performance.now()
      if (observation?.isAnswerTrusted() === false) throw lost(name)
      seen?.((result as Columns).columns ?? [])
      return rowsOf(result)
    },
    (error: unknown) => {
      pool.pending.delete(sent)
      const isOwn = observation?.isErrorTrusted(error) ?? !isAnothers(error, isSent(sent))
      const own = isOwn ? driverError(name, error) : lost(name, error)
      if (isSent(sent)) throw own
      throw isOwn ? notSent(name, pool, error) : withEffect(own, 'none')
    },
  )
}

interface Columns {
  readonly columns?: readonly Column[]
}

const rowsOf = (result: unknown): readonly Row[] => {
  const rows = result as readonly Wire[][] & Columns
  return decodedRows(rows.columns ?? [], rows)
}

// A statement still waiting for a connection becomes one that does nothing. (If a connection is just being made
// for it, cancelling it would cost the pool that connection for good, in postgres.js 3.4.9.) One that was sent is
// left alone: a cancel request names a connection, not a statement, and could end another request's.
const forget = (pending: unknown): void => {
  if (!isSent(pending)) neutralise(pending)
}

/** What was never sent has done nothing. */
const effectOf = (pending: unknown): Effect => (isSent(pending) ? 'unknown' : 'none')

const isSent = (pending: unknown): boolean => (pending as { readonly state?: unknown }).state !== null
