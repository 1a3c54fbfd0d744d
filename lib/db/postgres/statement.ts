// Sends one statement through postgres.js within its deadline. Parameters are sent as text with PostgreSQL's type
// `unknown`, and values are received as text. So the pool's options for types have no effect.

import { type DriverError, type Effect, withEffect } from '../../core/errors.js'
import { E } from '../../core/prelude.cjs'
import type { Outcome, Param, Query, Row } from '../database.js'
import { driverError, withDeadline } from '../deadline.js'
import { type Plan, type SettingsCheck, sendQuery } from '../sending.js'
import { type Column, decodedRows, paramText, type Wire } from '../text-format.js'
import type { Pool, PostgresJs, Sender } from './pool.js'
import {
  isAnothers,
  lost,
  neutralise,
  notSent,
  type Observation,
  observe,
  withoutRetry,
} from './workarounds.js'

// `DateStyle` changes the text of dates. keyrow sets `DateStyle` on each connection, and every pooler forwards it.

interface ConnectionOptions {
  readonly connection?: Record<string, unknown>
}

/** Sets `DateStyle` for a pool's new connections. Throws a `RangeError` for an option that would change values. */
export const independent = (sql: PostgresJs): PostgresJs => {
  const { connection = {} } = sql.options as ConnectionOptions
  for (const [name, value] of Object.entries(connection)) {
    const wanted = REQUIRED.find(([setting]) => setting === name.toLowerCase())?.[1]
    if (wanted !== undefined && !wanted.test(String(value)))
      throw new RangeError(`connection.${name} is ${String(value)}: values would be misread; leave it out`)
  }
  if (!Object.keys(connection).some((name) => name.toLowerCase() === 'datestyle'))
    connection['DateStyle'] = 'ISO'
  return sql
}

const REQUIRED: readonly (readonly [string, RegExp])[] = [
  ['datestyle', /^iso\b/i],
  ['client_encoding', /^'?utf-?8'?$/i],
]

/** How one statement or transaction is sent. */
export interface Link {
  readonly pool: Pool
  readonly timeoutMs: number
  readonly prepare: boolean
  readonly settings: SettingsCheck
  /** Called for each statement that missed its deadline. */
  readonly late: (sentAt: number) => void
  /** The time that earlier, unsent attempts took, in milliseconds. */
  readonly spentMs?: number | undefined
  /** Called with the error of an attempt that sent nothing. */
  readonly unsent?: ((error: DriverError) => void) | undefined
}

type Send = (sql: Sender, query: Query, params: readonly Param[], link: Link) => Outcome<readonly Row[]>

/** The OID of PostgreSQL's type `unknown`, which is the initial type of a quoted literal. */
const UNKNOWN = 705

export const send: Send = (sql, query, params, link) =>
  sendQuery(query, params, {
    plans: link.pool.plans,
    settings: link.settings,
    prepare: link.prepare,
    timeoutMs: link.timeoutMs,
    spentMs: link.spentMs,
    inTransaction: sql !== link.pool.sql,
    once: (one, values, plan, onColumns) => sendOnce(sql, one, values, link, plan, onColumns),
  })

// postgres.js prepares each text once for a connection. So a new generation (see sending.ts) adds its number to the
// text as a comment. The comment is at the end, since some poolers read the beginning of a text.
const textOf = ({ text }: Query, { prepare, generation }: Plan): string =>
  prepare && generation > 0 ? `${text}\n/* ${String(generation)} */` : text

/** Returns a statement of postgres.js, which is sent when it is awaited. */
const pendingOf = (sql: Sender, query: Query, params: readonly Param[], plan: Plan): PromiseLike<unknown> => {
  const { prepare } = plan
  const typed = params.map((param) => sql.typed(paramText(param), UNKNOWN))
  // Without `simple: false`, postgres.js would use the simple protocol for a statement without parameters.
  const pending = sql.unsafe(textOf(query, plan), typed as never[], { prepare, simple: false }).raw()
  if (prepare) withoutRetry(pending)
  return pending
}

const sendOnce = (
  sql: Sender,
  query: Query,
  params: readonly Param[],
  { pool, late, spentMs, unsent }: Link,
  plan: Plan,
  onColumns?: (columns: readonly Column[]) => void,
): Outcome<readonly Row[]> => {
  const sentAt = performance.now()
  let pending: PromiseLike<unknown> | undefined
  let observed: Observation | undefined
  const start = (): PromiseLike<readonly Row[]> => {
    pending = pendingOf(sql, query, params, plan)
    observed = pool.health && observe(pending, pool.health)
    return answer(query, pool, pending, observed, onColumns)
  }
  const giveUp = (): Effect => {
    if (!isSent(pending)) neutralise(pending)
    late(sentAt)
    return isSent(pending) ? 'unknown' : 'none'
  }
  const sent = withDeadline(query.name, plan.timeoutMs, start, giveUp, spentMs)
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
  onColumns: ((columns: readonly Column[]) => void) | undefined,
): PromiseLike<readonly Row[]> => {
  pool.pending.add(sent)
  return sent.then(
    (result) => {
      pool.pending.delete(sent)
      pool.answeredAt = performance.now()
      if (observation?.isAnswerTrusted() === false) throw lost(name)
      onColumns?.((result as Columns).columns ?? [])
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

const isSent = (pending: unknown): boolean => (pending as { readonly state?: unknown }).state !== null
