// A parameter on its way to the database. Every driver sends PostgreSQL's own text of it and leaves the type to the
// server, which takes it from the statement as it does for a quoted literal: so a parameter means the same everywhere.
import { textProblem } from '../base/json.js'
import type { Param } from './database.js'

/** The text that is sent: of `true` it is `true`, of a number its shortest form. */
export const paramText = (param: Param): string | null =>
  param === null ? null : Object.is(param, -0) ? '-0' : String(param)

/** Why a value is no parameter, if so. */
export const paramProblem = (param: unknown): string | undefined => {
  if (typeof param === 'string') return textProblem(param)
  if (param === undefined) return 'is undefined'
  return param === null || ['number', 'bigint', 'boolean'].includes(typeof param)
    ? undefined
    : 'is no text, number, bigint, boolean or null: `param` makes text of a value by its column'
}
