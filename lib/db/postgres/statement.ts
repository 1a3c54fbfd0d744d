// Sends one statement through postgres.js within its deadline. Parameters are sent as text of unknown type, and values
// are received as text. So the pool's options for types have no effect.

import { DriverError, type Effect, withEffect } from '../../core/errors.js'
import { E } from '../../core/prelude.cjs'
import type { Outcome, Param, Query, Row } from '../database.js'
import { driverError, invalidParams, isForgotten, isStalePlan, withDeadline } from '../deadline.js'
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

// Some settings of a role or database change how values are written as text. keyrow sets `DateStyle` on each
// connection, and every pooler forwards this setting. keyrow decodes both forms of `bytea`. keyrow checks the other
// settings at the first statement that they affect.

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

const SETTINGS: Query = {
  name: 'settings',
  text: `
select current_setting('extra_float_digits')::int4 as digits, current_setting('array_nulls') as nulls`,
}

type Rows = Outcome<readonly Row[]>

export interface SettingsCheck {
  isRight: boolean
  looking: Outcome<void> | undefined
}

export const settingsCheck = (): SettingsCheck => ({ isRight: false, looking: undefined })

/** Fails if a setting of the role or database would give wrong values. The error names the setting. */
const checkSettings = (check: SettingsCheck, send: (query: Query) => Rows): Outcome<void> =>
  (check.looking ??= send(SETTINGS).then((rows) => {
    const result = E.isLeft(rows) ? rows : checked(rows.right[0] ?? {})
    check.looking = undefined
    check.isRight = E.isRight(result)
    return result
  }))

/** Whether `array_nulls` may change a parameter, because the parameter looks like an array with a null. */
const hasNulls = (params: readonly Param[]): boolean =>
  params.some((param) => typeof param === 'string' && param.startsWith('{') && /[{,]NULL[,}]/.test(param))

// The OIDs of floats and geometric types, and of arrays of these types.
const ROUNDED = new Set([
  600, 601, 602, 603, 604, 628, 700, 701, 718, 1017, 1018, 1019, 1020, 1021, 1022, 1027, 719, 629,
])

/** Whether `extra_float_digits` may round a value, because a column has a type in `ROUNDED`. */
const hasFloats = (columns: readonly Column[]): boolean => columns.some(({ type }) => ROUNDED.has(type))

const checked = ({ digits, nulls }: Row): E.Either<DriverError, void> => {
  const faults = [
    ...(Number(digits) < 1
      ? [`extra_float_digits is ${String(digits)} and rounds numbers; set it to 1`]
      : []),
    ...(nulls === 'off' ? ['array_nulls is off and turns a null into text; set it to on'] : []),
  ]
  if (faults.length === 0) return E.right(undefined)
  const message = `settings of the role or the database give wrong values: ${faults.join('; ')} (alter role … set …), and connect again`
  return E.left(new DriverError(message, { kind: 'setting', retryable: false }))
}

// After a prepared statement became stale, the pool prepares all statements again, with another text. Behind a pooler
// in transaction mode, a pool's connections keep losing their prepared statements. The pool then stops preparing
// statements.

/** How a statement is sent. The generation is the number of times that the pool's statements became stale. */
interface Plan {
  readonly text: string
  readonly prepare: boolean
  readonly generation: number
}

interface Plans {
  generation: number
  /** The number of generations that ended because a connection lost a prepared statement. */
  forgotten: number
}

const MAX_FORGOTTEN = 8

const plans = new WeakMap<Pool, Plans>()

const plansOf = (pool: Pool): Plans => {
  const present = plans.get(pool) ?? { generation: 0, forgotten: 0 }
  plans.set(pool, present)
  return present
}

const planOf = (pool: Pool, text: string, prepare: boolean): Plan => {
  const { generation, forgotten } = plansOf(pool)
  if (!prepare || forgotten >= MAX_FORGOTTEN) return { text, prepare: false, generation }
  // Some poolers read the beginning of a statement's text. So the comment is at the end.
  return { text: generation === 0 ? text : `${text}\n/* ${String(generation)} */`, prepare, generation }
}

// Whether a statement failed because its prepared form is stale. If so, a new generation begins. A stale statement had
// no effect, so it can be sent again unprepared.
const isToBeSentAgain = (pool: Pool, { generation, prepare }: Plan, error: unknown): boolean => {
  if (!prepare || !isStalePlan(error)) return false
  const present = plansOf(pool)
  // Another stale statement of this generation may have ended the generation already.
  if (present.generation === generation) {
    present.generation += 1
    if (isForgotten(error)) present.forgotten += 1
  }
  return true
}

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

export const send: Send = async (sql, query, params, link) => {
  const invalid = invalidParams(query, params)
  if (invalid !== undefined) return E.left(invalid)
  const sentAt = performance.now()
  // A statement without parameters is rarely repeated, so it is not prepared.
  const plan = planOf(link.pool, query.text, link.prepare && params.length > 0)
  const result = await sendOnce(sql, { ...query, text: plan.text }, params, {
    ...link,
    prepare: plan.prepare,
  })
  if (E.isRight(result) || !isToBeSentAgain(link.pool, plan, result.left.cause)) return result
  // In a transaction the statement is not sent again, since its failure has aborted the transaction.
  const rest = link.timeoutMs - (performance.now() - sentAt)
  return sql === link.pool.sql && rest > (link.spentMs ?? 0)
    ? sendOnce(sql, query, params, { ...link, prepare: false, timeoutMs: rest })
    : result
}

/** The OID of PostgreSQL's type `unknown`, which a quoted literal has at first. */
const UNKNOWN = 705

// Sends a statement, and checks the settings that affect its values. If the result may be rounded, the statement fails,
// although it may have taken effect.
const sendOnce: Send = async (sql, query, params, link) => {
  if (link.settings.isRight) return sendUnchecked(sql, query, params, link)
  const check = () => checkSettings(link.settings, (settings) => sendUnchecked(sql, settings, [], link))
  if (hasNulls(params)) {
    const checked = await check()
    if (E.isLeft(checked)) return E.left(withEffect(checked.left, 'none'))
  }
  let columns: readonly Column[] = []
  const rows = await sendUnchecked(sql, query, params, link, (found) => {
    columns = found
  })
  if (E.isLeft(rows) || !hasFloats(columns)) return rows
  const checked = await check()
  return E.isLeft(checked) ? E.left(withEffect(checked.left, 'unknown')) : rows
}

const sendUnchecked = (
  sql: Sender,
  query: Query,
  params: readonly Param[],
  { pool, timeoutMs, prepare, late, spentMs, unsent }: Link,
  onColumns?: (columns: readonly Column[]) => void,
): Outcome<readonly Row[]> => {
  const sentAt = performance.now()
  let pending: PromiseLike<unknown> | undefined
  let observed: Observation | undefined
  const start = (): PromiseLike<readonly Row[]> => {
    const typed = params.map((param) => pool.sql.typed(paramText(param), UNKNOWN))
    // Without `simple: false`, postgres.js would use the simple protocol for a statement without parameters.
    pending = sql.unsafe(query.text, typed as never[], { prepare, simple: false }).raw()
    if (prepare) withoutRetry(pending)
    observed = pool.health && observe(pending, pool.health)
    return answer(query, pool, pending, observed, onColumns)
  }
  const giveUp = (): Effect => {
    if (!isSent(pending)) neutralise(pending)
    late(sentAt)
    return isSent(pending) ? 'unknown' : 'none'
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
