// What a request did to a session since it was loaded: the algebra of edits, on a hash of JSON.

import * as O from 'fp-ts/lib/Option.js'
import { Map as HashMap } from 'immutable'
import type { Json } from '../base/json.js'
import { applyEdit, type Edit, type Edits } from '../record/edits.js'

export {
  composeEdit,
  composeEdits,
  deleted,
  type Edit,
  type Edits,
  hasUpdates,
  noEdits,
  type Step,
  setTo,
  sinceEdits,
  updatedBy,
} from '../record/edits.js'

/** The named values of a session, as an immutable hash. */
export type Entries = HashMap<string, Json>

export const noEntries: Entries = HashMap()

/** The entries after one edit. */
export const applyAt = (entries: Entries, key: string, edit: Edit): Entries =>
  O.match(
    () => entries.delete(key),
    (value: Json) => entries.set(key, value),
  )(applyEdit(edit, valueAt(entries, key)))

// Not `fromNullable`: null is a value.
const valueAt = (entries: Entries, key: string): O.Option<Json> => {
  const value = entries.get(key)
  return value === undefined ? O.none : O.some(value)
}

export const applyEdits = (edits: Edits, entries: Entries): Entries =>
  entries.withMutations((hash) => {
    for (const [key, edit] of edits) applyAt(hash, key, edit)
  })
