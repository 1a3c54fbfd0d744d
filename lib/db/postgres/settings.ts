// Settings of a role or database that change values. keyrow sets the style of dates at each connect, which every pooler
// passes on, and decodes both forms of `bytea`. The other settings are checked once, with the first affected statement.
import * as E from 'fp-ts/lib/Either.js'
import { DriverError } from '../../core/errors.js'
import type { Outcome, Param, Query, Row } from '../database.js'
import type { Column } from '../text-format.js'
import type { PostgresJs } from './pool.js'

interface ConnectionOptions {
  readonly connection?: Record<string, unknown>
}

/** Makes new connections of this pool independent of the settings. Throws a `RangeError` for a contrary option. */
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

/** Fails with the settings that give wrong values. */
export const checkSettings = (check: SettingsCheck, send: (query: Query) => Rows): Outcome<void> =>
  (check.looking ??= send(SETTINGS).then((rows) => {
    const result = E.isLeft(rows) ? rows : checked(rows.right[0] ?? {})
    check.looking = undefined
    check.isRight = E.isRight(result)
    return result
  }))

/** Whether `array_nulls` matters: a parameter that looks like an array has a null. */
export const hasNulls = (params: readonly Param[]): boolean =>
  params.some((param) => typeof param === 'string' && param.startsWith('{') && /[{,]NULL[,}]/.test(param))

// Floats, geometric types, and arrays of them.
const ROUNDED = new Set([
  600, 601, 602, 603, 604, 628, 700, 701, 718, 1017, 1018, 1019, 1020, 1021, 1022, 1027, 719, 629,
])

/** Whether `extra_float_digits` matters. */
export const hasFloats = (columns: readonly Column[]): boolean =>
  columns.some(({ type }) => ROUNDED.has(type))

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
