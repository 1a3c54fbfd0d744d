// Several saves of one session as one: each edit is done on what the one before left.
import { is } from 'immutable'
import { applyEdits, composeEdits, type Edits, type Entries, noEdits } from '../core/edits.js'
import { hasUnloadedUpdates, keysAfter, pick, type Snapshot } from '../core/session.js'
import type { SessionId } from '../core/token.js'
import type { Change, SavedSnapshot, SaveRequest } from './contract.js'

export interface Folded<W> {
  readonly request: SaveRequest
  /** Those that are in it; the others' updates threw. */
  readonly pending: readonly W[]
  /** What each of them left. */
  readonly left: readonly Entries[]
}

interface Foldable {
  readonly change: Change
  readonly reject: (thrown: unknown) => void
}

/** `base` is what is known to be stored, if that is newer than what the changes were made on. */
export const folded = <W extends Foldable>(
  id: SessionId,
  pending: readonly W[],
  base: Snapshot | undefined,
): Folded<W> => {
  const [only] = pending
  // Most saves have their session for themselves.
  if (only !== undefined && pending.length === 1 && base === undefined) {
    const { edits, since, entries } = only.change
    return { request: { id, changes: [only.change], edits, since, entries }, pending, left: [entries] }
  }
  const since = newest(pending, base && isCovered(base, pending[0]?.change) ? base : undefined)
  let [entries, edits]: [Entries, Edits | undefined] = [since.entries, undefined]
  const included: W[] = []
  const left: Entries[] = []
  for (const one of pending)
    try {
      const { change } = one
      const next =
        edits === undefined && change.since === since ? change.entries : applyEdits(change.edits, entries)
      edits = edits === undefined ? change.edits : composeEdits(edits, change.edits)
      entries = next
      included.push(one)
      left.push(next)
    } catch (thrown) {
      one.reject(thrown)
    }
  const changes = included.map(({ change }) => change)
  return { request: { id, changes, edits: edits ?? noEdits, since, entries }, pending: included, left }
}

/**
 * So many of them, at most, can be folded, from the first on: what one knows, and its updates are done on, all know. One
 * that updates what it does not know is saved by itself.
 */
export const alike = (pending: readonly Foldable[], atMost: number): number => {
  if (pending.length === 1) return 1
  const [first, ...others] = pending.slice(0, atMost).map(({ change }) => change)
  if (first === undefined || isUnknowing(first)) return 1
  const other = others.findIndex((change) => !is(change.since.keys, first.since.keys) || isUnknowing(change))
  return other < 0 ? others.length + 1 : other + 1
}

const isUnknowing = ({ since, edits }: Change): boolean => hasUnloadedUpdates(since, edits)

const isCovered = ({ keys }: Snapshot, change: Change | undefined): boolean =>
  change !== undefined &&
  !isUnknowing(change) &&
  (keys === undefined || (change.since.keys?.isSubset(keys) ?? false))

const newest = (pending: readonly Foldable[], base: Snapshot | undefined): Snapshot =>
  pending.reduce<Snapshot | undefined>(
    (known, { change }) =>
      known !== undefined && known.revision >= change.since.revision ? known : change.since,
    base,
  ) as Snapshot

/**
 * What the fold's save left, for each who is in it: as if they had been saved one after the other. Where others came in
 * between, all see what is there now.
 */
export const unfolded = <W extends Foldable>(
  { request, pending, left }: Folded<W>,
  saved: SavedSnapshot,
): readonly SavedSnapshot[] =>
  pending.map(({ change }, index) => {
    const own =
      saved.entries === request.entries
        ? {
            ...saved,
            revision: saved.revision - (pending.length - 1 - index),
            versionTag: change.save,
            entries: left[index] as Entries,
          }
        : saved
    return pick(own, keysAfter(change.since, change.edits))
  })
