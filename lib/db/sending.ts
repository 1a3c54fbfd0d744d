// Sends one statement for a network driver. `sendQuery` checks the parameters, and the server settings that could
// change values. If a prepared statement is stale, `sendQuery` sends it again unprepared.

import { DriverError, withEffect } from '../core/errors.js'
import { E } from '../core/prelude.cjs'
import type { Outcome, Param, Query, Row } from './database.js'
import { invalidParams, isForgotten, isStalePlan } from './deadline.js'
import type { Column } from './text-format.js'

/** How a statement is sent in one attempt. */
export interface Plan {
  readonly prepare: boolean
  /** The number of times that the pool's prepared statements became stale. Each time, the pool prepares them again. */
  readonly generation: number
  readonly timeoutMs: number
}

type Rows = Outcome<readonly Row[]>
export type OnColumns = (columns: readonly Column[]) => void
/** Sends a statement, and calls `onColumns` with the columns of its result before the rows are returned. */
export type SendOnce = (query: Query, params: readonly Param[], plan: Plan, onColumns?: OnColumns) => Rows

export interface Sending {
  readonly plans: Plans
  readonly settings: SettingsCheck
  readonly prepare: boolean
  readonly timeoutMs: number
  /** The part of `timeoutMs` that earlier attempts took, in milliseconds. */
  readonly spentMs?: number | undefined
  /** Whether the statement is in a transaction. A failure aborts the transaction, so the statement is not repeated. */
  readonly inTransaction: boolean
  readonly once: SendOnce
}

// After a prepared statement became stale, the pool prepares all statements again, with another name or text. Behind a
// pooler in transaction mode, a pool's connections keep losing their prepared statements. The pool then stops preparing
// statements.

export interface Plans {
  generation: number
  /** The number of generations that ended because a connection lost a prepared statement. */
  forgotten: number
}

export const newPlans = (): Plans => ({ generation: 0, forgotten: 0 })

const MAX_FORGOTTEN = 8

// Whether a statement failed because its prepared form is stale. If so, a new generation begins. A stale statement had
// no effect, so it can be sent again unprepared.
const isToBeSentAgain = (plans: Plans, { generation, prepare }: Plan, error: unknown): boolean => {
  if (!prepare || !isStalePlan(error)) return false
  // Another stale statement of this generation may have ended the generation already.
  if (plans.generation === generation) {
    plans.generation += 1
    if (isForgotten(error)) plans.forgotten += 1
  }
  return true
}

// This function and the functions that it calls for each statement are not `async`, since each `async` function costs a
// microsecond in each call.
export const sendQuery = (query: Query, params: readonly Param[], sending: Sending): Rows => {
  const invalid = invalidParams(query, params)
  if (invalid !== undefined) return Promise.resolve(E.left(invalid))
  const { plans, timeoutMs, settings, once } = sending
  const sentAt = performance.now()
  // A statement without parameters is rarely repeated, so it is not prepared.
  const prepare = sending.prepare && params.length > 0 && plans.forgotten < MAX_FORGOTTEN
  const plan = { prepare, generation: plans.generation, timeoutMs }
  const rows = settings.isRight ? once(query, params, plan) : sendChecked(query, params, sending, plan)
  return rows.then((result) => {
    if (E.isRight(result) || !isToBeSentAgain(plans, plan, result.left.cause)) return result
    const rest = timeoutMs - (performance.now() - sentAt)
    return !sending.inTransaction && rest > (sending.spentMs ?? 0)
      ? sendChecked(query, params, sending, { ...plan, prepare: false, timeoutMs: rest })
      : result
  })
}

// Some settings of a role or database change how values are written as text. keyrow checks these settings with the
// first statement that they affect.

const SETTINGS: Query = {
  name: 'settings',
  text: `
select current_setting('extra_float_digits')::int4 as digits, current_setting('array_nulls') as nulls,
       current_setting('DateStyle') as style`,
}

export interface SettingsCheck {
  isRight: boolean
  looking: Outcome<void> | undefined
}

export const settingsCheck = (): SettingsCheck => ({ isRight: false, looking: undefined })

/** Fails if a setting of the role or database would give wrong values. The error names the setting. */
const checkSettings = async (check: SettingsCheck, send: (query: Query) => Rows): Outcome<void> => {
  const rows = await send(SETTINGS)
  const result = E.isLeft(rows) ? rows : checked(rows.right[0] ?? {})
  check.isRight ||= E.isRight(result)
  return result
}

// Statements outside of transactions share one check. A transaction does its own check, because the shared check may
// wait for a connection that this transaction occupies.
const sharedCheck = (check: SettingsCheck, send: (query: Query) => Rows): Outcome<void> =>
  (check.looking ??= checkSettings(check, send).finally(() => {
    check.looking = undefined
  }))

/** Whether `array_nulls` may change a parameter, because the parameter looks like an array with a null. */
const hasNulls = (params: readonly Param[]): boolean =>
  params.some((param) => typeof param === 'string' && param.startsWith('{') && /[{,]NULL[,}]/.test(param))

// The OIDs of floats, geometric types, dates and times, and of arrays of these types.
const AFFECTED = new Set([
  600, 601, 602, 603, 604, 628, 700, 701, 718, 1017, 1018, 1019, 1020, 1021, 1022, 1027, 719, 629, 1082, 1182,
  1114, 1115, 1184, 1185,
])

/** Whether `extra_float_digits` or `DateStyle` may change a value, because a column has a type in `AFFECTED`. */
const isAffected = (columns: readonly Column[]): boolean => columns.some(({ type }) => AFFECTED.has(type))

const checked = ({ digits, nulls, style }: Row): E.Either<DriverError, void> => {
  const faults = [
    ...(Number(digits) < 1
      ? [`extra_float_digits is ${String(digits)} and rounds numbers; set it to 1`]
      : []),
    ...(nulls === 'off' ? ['array_nulls is off and turns a null into text; set it to on'] : []),
    ...(/^ISO\b/.test(String(style))
      ? []
      : [`DateStyle is ${String(style)} and makes dates ambiguous; set it to ISO`]),
  ]
  if (faults.length === 0) return E.right(undefined)
  const message = `settings of the role or the database give wrong values: ${faults.join('; ')} (alter role … set …), and connect again`
  return E.left(new DriverError(message, { kind: 'setting', retryable: false }))
}

// Sends a statement, and checks the settings that affect its values. If such a setting may have changed the result, the
// statement fails, although it may have taken effect.
const sendChecked = async (
  query: Query,
  params: readonly Param[],
  { settings, inTransaction, once }: Sending,
  plan: Plan,
): Rows => {
  if (settings.isRight) return once(query, params, plan)
  const send = (check: Query) => once(check, [], { ...plan, prepare: false })
  const check = () => (inTransaction ? checkSettings : sharedCheck)(settings, send)
  if (hasNulls(params)) {
    const checked = await check()
    if (E.isLeft(checked)) return E.left(withEffect(checked.left, 'none'))
  }
  let columns: readonly Column[] = []
  const rows = await once(query, params, plan, (found) => {
    columns = found
  })
  if (E.isLeft(rows) || !isAffected(columns)) return rows
  const checked = await check()
  return E.isLeft(checked) ? E.left(withEffect(checked.left, 'unknown')) : rows
}
