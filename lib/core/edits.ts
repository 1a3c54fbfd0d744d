// An edit changes one named value: a key of a session, or a column of a record. Each name has at most one edit. An edit
// is a pure function of one value, which may be absent:
//
//   Set v        x ↦ v           blind: independent of the stored value
//   Del          x ↦ nothing     blind
//   Update f g … x ↦ … g(f(x))   replayed: the save applies it to the stored value
//
// Two edits of one name compose to one edit with the effects of both. The result is blind if either edit is blind:
//
//   compose(e, Set v) = Set v      compose(Update fs, Update gs) = Update (fs then gs)
//   compose(e, Del)   = Del        compose(Set v, Update gs)     = Set (gs of v)
//                                  compose(Del, Update gs)       = Set (gs of nothing)
//
// `since` returns the edits of `later` that `earlier` does not have. So a save skips edits that are already stored:
//
//   compose(earlier, since(earlier, later)) = later   if `later` was made from `earlier`

import type { Json } from './json.js'
import { HashMap, O } from './prelude.cjs'

/** Computes the new value from the current value. A step must be pure, since it may run again on a newer value. */
export type Step<V = Json> = (value: O.Option<V>) => V

export type Edit<V = Json> =
  | { readonly _tag: 'Set'; readonly value: V }
  | { readonly _tag: 'Del' }
  | { readonly _tag: 'Update'; readonly steps: readonly Step<V>[] }

export type Edits<V = Json> = HashMap<string, Edit<V>>

export const noEdits: Edits = HashMap()

export const setTo = <V>(value: V): Edit<V> => Object.freeze({ _tag: 'Set', value })

const del = Object.freeze({ _tag: 'Del' as const })

export const deleted = () => del

const update = <V>(steps: readonly Step<V>[]): Edit<V> => Object.freeze({ _tag: 'Update', steps })

export const updatedBy = <V>(step: Step<V>): Edit<V> => update([step])

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

/** Returns the part of `later` that is not in `earlier`, or `undefined` if there is no such part. */
const sinceEdit = <V>(earlier: Edit<V> | undefined, later: Edit<V>): Edit<V> | undefined => {
  if (earlier === later) return undefined
  if (earlier?._tag !== 'Update' || later._tag !== 'Update') return later
  const first = later.steps.findIndex((step, index) => step !== earlier.steps[index])
  return first < 0 ? undefined : update(later.steps.slice(first))
}

export const composeEdits = <V>(first: Edits<V>, second: Edits<V>): Edits<V> =>
  second.reduce((edits, edit, key) => edits.set(key, composeEdit(edits.get(key), edit)), first)

export const sinceEdits = <V>(earlier: Edits<V>, later: Edits<V>): Edits<V> =>
  earlier === later
    ? HashMap()
    : later.flatMap((edit, key) => {
        const since = sinceEdit(earlier.get(key), edit)
        return since === undefined ? [] : [[key, since]]
      })

/** Whether the result of any edit depends on the stored value. */
export const hasUpdates = <V>(edits: Edits<V>): boolean => edits.some((edit) => edit._tag === 'Update')

/** The values of a session by key. */
export type Entries = HashMap<string, Json>

export const noEntries: Entries = HashMap()

// `O.fromNullable` would treat null as absent, but null is a valid value.
export const valueAt = (entries: Entries, key: string): O.Option<Json> =>
  entries.has(key) ? O.some(entries.get(key) as Json) : O.none

export const applyAt = (entries: Entries, key: string, edit: Edit): Entries => {
  const applied = applyEdit(edit, valueAt(entries, key))
  return O.isSome(applied) ? entries.set(key, applied.value) : entries.delete(key)
}

export const applyEdits = (edits: Edits, entries: Entries): Entries =>
  entries.withMutations((hash) => {
    for (const [key, edit] of edits) applyAt(hash, key, edit)
  })
