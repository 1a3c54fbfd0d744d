// Merges several saves of one session into one. Each edit applies to the result of the one before it.
import { is } from 'immutable'
import { applyEdits, composeEdits, type Edits, type Entries, noEdits } from '../core/edits.js'
import { hasUnloadedUpdates, keysAfter, pick, type Snapshot } from '../core/session.js'
import type { SessionId } from '../core/token.js'
import type { Change, SavedSnapshot, SaveRequest } from './contract.js'

export interface Merged<W> {
  readonly request: SaveRequest
  /** The merged saves. Those whose updates threw are rejected. */
  readonly pending: readonly W[]
  readonly results: readonly Entries[]
}

interface Mergeable {
  readonly change: Change
  readonly reject: (thrown: unknown) => void
}

/** `base` is a newer state of the store than that of the changes, if known. */
export const mergeSaves = <W extends Mergeable>(
  id: SessionId,
  pending: readonly W[],
  base: Snapshot | undefined,
): Merged<W> => {
  const [only] = pending
  // The usual case is one save of a session.
  if (only !== undefined && pending.length === 1 && base === undefined) {
    const { edits, since, entries } = only.change
    return { request: { id, changes: [only.change], edits, since, entries }, pending, results: [entries] }
  }
  const since = newest(pending, base && isCovered(base, pending[0]?.change) ? base : undefined)
  let [entries, edits]: [Entries, Edits | undefined] = [since.entries, undefined]
  const included: W[] = []
  const results: Entries[] = []
  for (const one of pending)
    try {
      const { change } = one
      const next =
        edits === undefined && change.since === since ? change.entries : applyEdits(change.edits, entries)
      edits = edits === undefined ? change.edits : composeEdits(edits, change.edits)
      entries = next
      included.push(one)
      results.push(next)
    } catch (thrown) {
      one.reject(thrown)
    }
  const changes = included.map(({ change }) => change)
  return { request: { id, changes, edits: edits ?? noEdits, since, entries }, pending: included, results }
}

/**
 * Returns how many saves, from the first on and at most `atMost`, can be merged: those that cover the same keys. A save
 * with an update of a key that is not loaded goes alone.
 */
export const countMergeable = (pending: readonly Mergeable[], atMost: number): number => {
  if (pending.length === 1) return 1
  const [first, ...others] = pending.slice(0, atMost).map(({ change }) => change)
  if (first === undefined || isPartialUpdate(first)) return 1
  const other = others.findIndex(
    (change) => !is(change.since.keys, first.since.keys) || isPartialUpdate(change),
  )
  return other < 0 ? others.length + 1 : other + 1
}

const isPartialUpdate = ({ since, edits }: Change): boolean => hasUnloadedUpdates(since, edits)

const isCovered = ({ keys }: Snapshot, change: Change | undefined): boolean =>
  change !== undefined &&
  !isPartialUpdate(change) &&
  (keys === undefined || (change.since.keys?.isSubset(keys) ?? false))

const newest = (pending: readonly Mergeable[], base: Snapshot | undefined): Snapshot =>
  pending.reduce<Snapshot | undefined>(
    (latest, { change }) =>
      latest !== undefined && latest.revision >= change.since.revision ? latest : change.since,
    base,
  ) as Snapshot

/**
 * Splits the result of a merged save into one for each save, as if each had been saved alone. With other saves in
 * between, all get the present state.
 */
export const splitResult = <W extends Mergeable>(
  { request, pending, results }: Merged<W>,
  saved: SavedSnapshot,
): readonly SavedSnapshot[] =>
  pending.map(({ change }, index) => {
    const own =
      saved.entries === request.entries
        ? {
            ...saved,
            revision: saved.revision - (pending.length - 1 - index),
            versionTag: change.save,
            entries: results[index] as Entries,
          }
        : saved
    return pick(own, keysAfter(change.since, change.edits))
  })
