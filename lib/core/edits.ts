// What was done to named values since they were read: at most one edit for each name. An edit is a pure function
// on one value, which may be absent:
//
//   Set v        x ↦ v           blind: what was there does not matter
//   Del          x ↦ nothing     blind
//   Update f g … x ↦ … g(f(x))   replayed: it is applied to what is in the row when it is saved
//
// Two edits of one name make one, so that applying it is applying the first and then the second:
//
//   compose(e, Set v) = Set v      compose(Update fs, Update gs) = Update (fs then gs)
//   compose(e, Del)   = Del        compose(Set v, Update gs)     = Set (gs of v)
//                                  compose(Del, Update gs)       = Set (gs of nothing)
//
// After a blind edit all is known, so what follows it is blind as well. And what was done between two states
// of one request can be told, which is how a save in its middle is not done again at its end:
//
//   compose(earlier, since(earlier, later)) = later   where later came from earlier
//
// Sessions edit their keys by it, and records of your own their columns.
import * as O from 'fp-ts/lib/Option.js'
import { Map as HashMap } from 'immutable'
import type { Json } from './json.js'

/** A new value from the present one. Pure: it may be run again on a newer value. */
export type Step<V = Json> = (value: O.Option<V>) => V

export type Edit<V = Json> =
  | { readonly _tag: 'Set'; readonly value: V }
  | { readonly _tag: 'Del' }
  | { readonly _tag: 'Update'; readonly steps: readonly Step<V>[] }

export type Edits<V = Json> = HashMap<string, Edit<V>>

export const noEdits: Edits = HashMap()

export const setTo = <V>(value: V): Edit<V> => Object.freeze({ _tag: 'Set', value })

type Del = Extract<Edit, { readonly _tag: 'Del' }>

const del: Del = Object.freeze({ _tag: 'Del' })

export const deleted = (): Del => del

const update = <V>(steps: readonly Step<V>[]): Edit<V> => Object.freeze({ _tag: 'Update', steps })

export const updatedBy = <V>(step: Step<V>): Edit<V> => update([step])

/** The value after the edit. */
export const applyEdit = <V>(edit: Edit<V>, value: O.Option<V>): O.Option<V> => {
  if (edit._tag === 'Set') return O.some(edit.value)
  if (edit._tag === 'Del') return O.none
  return edit.steps.reduce((present, step) => O.some(step(present)), value)
}

export const composeEdit = <V>(first: Edit<V> | undefined, second: Edit<V>): Edit<V> => {
  if (first === undefined || second._tag !== 'Update') return second
  if (first._tag === 'Update') return update([...first.steps, ...second.steps])
  return O.matchW(deleted, setTo<V>)(applyEdit(second, applyEdit(first, O.none)))
}

/** What `later` has beyond `earlier`; `undefined` when that is nothing. */
const sinceEdit = <V>(earlier: Edit<V> | undefined, later: Edit<V>): Edit<V> | undefined => {
  if (earlier === later) return undefined
  if (earlier?._tag !== 'Update' || later._tag !== 'Update') return later
  const known = later.steps.findIndex((step, index) => step !== earlier.steps[index])
  return known < 0 ? undefined : update(later.steps.slice(known))
}

export const composeEdits = <V>(first: Edits<V>, second: Edits<V>): Edits<V> =>
  second.reduce((edits, edit, key) => edits.set(key, composeEdit(edits.get(key), edit)), first)

export const sinceEdits = <V>(earlier: Edits<V>, later: Edits<V>): Edits<V> =>
  earlier === later
    ? HashMap()
    : later.reduce<Edits<V>>((edits, edit, key) => {
        const since = sinceEdit(earlier.get(key), edit)
        return since === undefined ? edits : edits.set(key, since)
      }, HashMap<string, Edit<V>>())

/** The edits whose outcome depends on what is stored. */
export const hasUpdates = <V>(edits: Edits<V>): boolean => edits.some((edit) => edit._tag === 'Update')

// What a request did to a session since it was loaded: the algebra of edits, on a hash of JSON.

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
