// Several saves of one session as one: each edit is done on what the one before left.
import { is } from 'immutable'
import { applyEdits, composeEdits, type Edits, type Entries, noEdits } from '../core/edits.js'
import { hasUnknown, keysAfter, narrowed, type Snapshot } from '../core/session.js'
import type { SessionId } from '../core/token.js'
import type { Change, SavedSnapshot, SaveRequest } from './contract.js'

export interface Folded<W> {
  readonly request: SaveRequest
  /** Those that are in it; the others' updates threw. */
  readonly waiting: readonly W[]
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
  waiting: readonly W[],
  base: Snapshot | undefined,
): Folded<W> => {
  const [only] = waiting
  // Most saves have their session for themselves.
  if (only !== undefined && waiting.length === 1 && base === undefined) {
    const { edits, since, entries } = only.change
    return { request: { id, changes: [only.change], edits, since, entries }, waiting, left: [entries] }
  }
  const since = newest(waiting, base && knowsEnough(base, waiting[0]?.change) ? base : undefined)
  let [entries, edits]: [Entries, Edits | undefined] = [since.entries, undefined]
  const included: W[] = []
  const left: Entries[] = []
  for (const one of waiting)
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
  return { request: { id, changes, edits: edits ?? noEdits, since, entries }, waiting: included, left }
}

/**
 * So many of them, at most, can be folded, from the first on: what one knows, and its updates are done on, all know. One
 * that updates what it does not know is saved by itself.
 */
export const alike = (waiting: readonly Foldable[], atMost: number): number => {
  if (waiting.length === 1) return 1
  const [first, ...others] = waiting.slice(0, atMost).map(({ change }) => change)
  if (first === undefined || isUnknowing(first)) return 1
  const other = others.findIndex((change) => !is(change.since.keys, first.since.keys) || isUnknowing(change))
  return other < 0 ? others.length + 1 : other + 1
}

const isUnknowing = ({ since, edits }: Change): boolean => hasUnknown(since, edits)

const knowsEnough = ({ keys }: Snapshot, change: Change | undefined): boolean =>
  change !== undefined &&
  !isUnknowing(change) &&
  (keys === undefined || (change.since.keys?.isSubset(keys) ?? false))

const newest = (waiting: readonly Foldable[], base: Snapshot | undefined): Snapshot =>
  waiting.reduce<Snapshot | undefined>(
    (known, { change }) =>
      known !== undefined && known.revision >= change.since.revision ? known : change.since,
    base,
  ) as Snapshot

/**
 * What the fold's save left, for each who is in it: as if they had been saved one after the other. Where others came in
 * between, all see what is there now.
 */
export const unfolded = <W extends Foldable>(
  { request, waiting, left }: Folded<W>,
  saved: SavedSnapshot,
): readonly SavedSnapshot[] =>
  waiting.map(({ change }, index) => {
    const own =
      saved.entries === request.entries
        ? {
            ...saved,
            revision: saved.revision - (waiting.length - 1 - index),
            mark: change.save,
            entries: left[index] as Entries,
          }
        : saved
    return narrowed(own, keysAfter(change.since, change.edits))
  })
