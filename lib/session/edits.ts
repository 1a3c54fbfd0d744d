// What a request did to a session since it was loaded: at most one edit for each key. An edit is a pure
// function on one key's value, absent or not, so a store may apply it to whatever is in the row *then*.
//
//   apply(none, entries)             = entries
//   apply(record(edits, k, e), m)    = applyOne(k, e, apply(edits, m))
//
// A set and a delete do not look at the value they replace: the later one on a key stands for both.
import { Map as HashMap } from 'immutable'
import type { Json } from '../base/json.js'

/** The named values of a session, as an immutable hash. */
export type Entries = HashMap<string, Json>

export type Edit = { readonly _tag: 'Set'; readonly value: Json } | { readonly _tag: 'Del' }

export type Edits = HashMap<string, Edit>

export const noEntries: Entries = HashMap()

export const noEdits: Edits = HashMap()

const del: Edit = Object.freeze({ _tag: 'Del' })

export const setTo = (value: Json): Edit => Object.freeze({ _tag: 'Set', value })

export const deleted = (): Edit => del

export const record = (edits: Edits, key: string, edit: Edit): Edits => edits.set(key, edit)

export const applyOne = (entries: Entries, key: string, edit: Edit): Entries =>
  edit._tag === 'Set' ? entries.set(key, edit.value) : entries.delete(key)

export const applyEdits = (edits: Edits, entries: Entries): Entries =>
  entries.withMutations((hash) => {
    for (const [key, edit] of edits) applyOne(hash, key, edit)
  })

/** The edits of `later` that are not those of `earlier`: what was done in between, key by key. */
export const editsSince = (earlier: Edits, later: Edits): Edits =>
  earlier === later ? noEdits : later.filter((edit, key) => earlier.get(key) !== edit)
