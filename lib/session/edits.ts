// What a request did to a session since it was loaded: at most one edit for each key. An edit is a pure
// function on one key's value, which may be absent:
//
//   Set v        x ↦ v           blind: what was there does not matter
//   Del          x ↦ nothing     blind
//   Update f g … x ↦ … g(f(x))   replayed: the store applies it to what is in the row when it saves
//
// Two edits of one key make one, so that applying it is applying the first and then the second:
//
//   compose(e, Set v) = Set v      compose(Update fs, Update gs) = Update (fs then gs)
//   compose(e, Del)   = Del        compose(Set v, Update gs)     = Set (gs of v)
//                                  compose(Del, Update gs)       = Set (gs of nothing)
//
// After a blind edit all is known, so what follows it is blind as well. And what was done between two states
// of one request can be told, which is how a save in its middle is not done again at its end:
//
//   compose(earlier, since(earlier, later)) = later   where later came from earlier

import * as O from 'fp-ts/lib/Option.js'
import { Map as HashMap } from 'immutable'
import type { Json } from '../base/json.js'

/** The named values of a session, as an immutable hash. */
export type Entries = HashMap<string, Json>

/** A key's new value from its present one. Pure: a store may run it again on a newer value. */
export type Step = (value: O.Option<Json>) => Json

export type Edit =
  | { readonly _tag: 'Set'; readonly value: Json }
  | { readonly _tag: 'Del' }
  | { readonly _tag: 'Update'; readonly steps: readonly Step[] }

export type Edits = HashMap<string, Edit>

export const noEntries: Entries = HashMap()

export const noEdits: Edits = HashMap()

export const setTo = (value: Json): Edit => Object.freeze({ _tag: 'Set', value })

const del: Edit = Object.freeze({ _tag: 'Del' })

export const deleted = (): Edit => del

const update = (steps: readonly Step[]): Edit => Object.freeze({ _tag: 'Update', steps })

export const updatedBy = (step: Step): Edit => update([step])

/** The value of a key after the edit. */
const applyEdit = (edit: Edit, value: O.Option<Json>): O.Option<Json> => {
  if (edit._tag === 'Set') return O.some(edit.value)
  if (edit._tag === 'Del') return O.none
  return edit.steps.reduce((present, step) => O.some(step(present)), value)
}

export const composeEdit = (first: Edit | undefined, second: Edit): Edit => {
  if (first === undefined || second._tag !== 'Update') return second
  if (first._tag === 'Update') return update([...first.steps, ...second.steps])
  return O.match(deleted, setTo)(applyEdit(second, applyEdit(first, O.none)))
}

/** What `later` has beyond `earlier`; `undefined` when that is nothing. */
const sinceEdit = (earlier: Edit | undefined, later: Edit): Edit | undefined => {
  if (earlier === later) return undefined
  if (earlier?._tag !== 'Update' || later._tag !== 'Update') return later
  const known = later.steps.findIndex((step, index) => step !== earlier.steps[index])
  return known < 0 ? undefined : update(later.steps.slice(known))
}

export const composeEdits = (first: Edits, second: Edits): Edits =>
  second.reduce((edits, edit, key) => edits.set(key, composeEdit(edits.get(key), edit)), first)

export const sinceEdits = (earlier: Edits, later: Edits): Edits =>
  earlier === later
    ? noEdits
    : later.reduce((edits, edit, key) => {
        const since = sinceEdit(earlier.get(key), edit)
        return since === undefined ? edits : edits.set(key, since)
      }, noEdits)

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

/** The edits whose outcome depends on what the store holds. */
export const hasUpdates = (edits: Edits): boolean => edits.some((edit) => edit._tag === 'Update')
