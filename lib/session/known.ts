// What is known of a session of which only some keys were read. A key that was not read is never taken for one that
// is absent: it cannot be looked at, and what depends on its value waits until a store has it.

import { Set as HashSet } from 'immutable'
import { applyEdits, type Edits, type Entries, noEntries } from './edits.js'
import { type AnyKey, isStorable, nameOf, OWN } from './key.js'

/** The names of keys. */
export type Keys = HashSet<string>

/** Entries, and of which keys they are all there is. */
export interface Known {
  readonly entries: Entries
  /** Absent: of all keys. */
  readonly keys?: Keys | undefined
}

/** What a program names. */
export type KeyNames = readonly (string | AnyKey)[]

/** The names of these keys, and keyrow's own. What cannot be stored is not there to be read. */
export const keysOf = (keys: KeyNames): Keys =>
  HashSet(keys.map(nameOf)).filter(isStorable).union(Object.values(OWN))

/** Whether the value of this key is known, as it is after the edits. */
export const isKnown = ({ keys }: Known, edits: Edits, name: string): boolean => {
  if (keys === undefined || keys.has(name)) return true
  const edit = edits.get(name)
  return edit === undefined ? !isStorable(name) : edit._tag !== 'Update'
}

/** Whether there are updates of values that are not known, so that only a store can run them. */
export const hasUnknown = ({ keys }: Known, edits: Edits): boolean =>
  keys !== undefined && edits.some((edit, key) => edit._tag === 'Update' && !keys.has(key))

/** The entries after the edits, without those whose outcome is not known. */
export const applyKnown = (edits: Edits, known: Known): Entries =>
  applyEdits(
    hasUnknown(known, edits) ? edits.filter((_, key) => isKnown(known, edits, key)) : edits,
    known.entries,
  )

/** The keys that are known once these edits are saved. */
export const keysAfter = ({ keys }: Known, edits: Edits): Keys | undefined => keys?.union(edits.keySeq())

/** Of what is known these keys, and no others; all when none are named. */
export const narrowed = <K extends Known>(known: K, keys: Keys | undefined): K => {
  if (keys === undefined || keys === known.keys) return known
  const both = known.keys === undefined ? keys : keys.intersect(known.keys)
  return { ...known, entries: entriesOf(known.entries, both), keys: both }
}

/** Two views of one moment as one. */
export const united = <K extends Known>(one: K, other: K): K =>
  other.keys === undefined || one.keys === other.keys
    ? other
    : {
        ...other,
        entries: one.keys === undefined ? one.entries : one.entries.merge(other.entries),
        keys: one.keys?.union(other.keys),
      }

export const entriesOf = (entries: Entries, keys: Keys): Entries =>
  noEntries.withMutations((some) => {
    for (const key of keys) {
      const value = entries.get(key)
      if (value !== undefined) some.set(key, value)
    }
  })
