// Saves that are done together: of several sessions in one statement, and those of one session folded into one save,
// in the order in which they came. While a session's save is under way its next ones wait, and then go on from what that
// one left: so updates of one key by many requests of a process take one statement for many, not one for each.

import * as E from 'fp-ts/lib/Either.js'
import * as O from 'fp-ts/lib/Option.js'
import type { Change, ManyOperations, SavedSnapshot, SessionStore } from '../port/session-store.js'
import type { Snapshot } from '../session/session.js'
import type { SessionId } from '../session/token.js'
import { alike, type Folded, folded, unfolded } from './folding.js'
import { type BatchLimits, concernsAll, gathering, overloaded } from './gathering.js'

type Outcome = Awaited<ReturnType<ReturnType<SessionStore['save']>>>

interface Waiting {
  readonly change: Change
  readonly resolve: (outcome: Outcome | PromiseLike<Outcome>) => void
  readonly reject: (thrown: unknown) => void
}

/** The saves of one session that are done as one; `base` is what an earlier save of this process left. */
interface Group {
  readonly id: SessionId
  readonly waiting: readonly Waiting[]
  readonly base: Snapshot | undefined
}

interface Lines {
  /** By session, in the order in which the first of each came. */
  readonly waiting: Map<SessionId, Waiting[]>
  readonly underWay: Set<SessionId>
  readonly bases: Map<SessionId, Snapshot>
  size: number
}

export const batchedSaves = (
  store: SessionStore,
  many: ManyOperations,
  { batch, atOnce, queue }: Required<BatchLimits>,
): SessionStore['save'] => {
  const lines: Lines = { waiting: new Map(), underWay: new Set(), bases: new Map(), size: 0 }
  const left = (group: Group, snapshot: Snapshot | undefined): void => {
    lines.underWay.delete(group.id)
    if (snapshot !== undefined && lines.waiting.has(group.id)) lines.bases.set(group.id, snapshot)
    joined()
  }
  // A statement's observer may throw: that is everybody's, and their places are free again.
  const send = (groups: readonly Group[]): Promise<void> =>
    saveAll(store, many, groups, left).catch((thrown: unknown) => {
      for (const group of groups) {
        left(group, undefined)
        for (const { reject } of group.waiting) reject(thrown)
      }
    })
  const joined = gathering({ next: () => nextGroups(lines, batch), send }, atOnce)
  return (id, change) => () => {
    if (lines.size >= queue) return Promise.resolve(E.left(overloaded('save', queue)))
    return new Promise((resolve, reject) => {
      const same = lines.waiting.get(id)
      if (same === undefined) lines.waiting.set(id, [{ change, resolve, reject }])
      else same.push({ change, resolve, reject })
      lines.size += 1
      joined()
    })
  }
}

/** Of one session, half as many as a header remembers saves: so that a retry can be told from its first try. */
const AT_MOST = 32

const nextGroups = (lines: Lines, batch: number): readonly Group[] | undefined => {
  const groups: Group[] = []
  for (const [id, all] of lines.waiting) {
    if (lines.underWay.has(id)) continue
    const waiting = all.splice(0, alike(all, AT_MOST))
    if (all.length === 0) lines.waiting.delete(id)
    groups.push({ id, waiting, base: lines.bases.get(id) })
    lines.bases.delete(id)
    lines.underWay.add(id)
    lines.size -= waiting.length
    if (groups.length >= batch) break
  }
  return groups.length === 0 ? undefined : groups
}

type Left = (group: Group, snapshot: Snapshot | undefined) => void

const saveAll = async (
  store: SessionStore,
  many: ManyOperations,
  groups: readonly Group[],
  left: Left,
): Promise<void> => {
  const folds = groups.map((group) => ({ group, fold: folded(group.id, group.waiting, group.base) }))
  const ready = folds.filter(({ fold }) => fold.waiting.length > 0)
  for (const { group, fold } of folds) if (fold.waiting.length === 0) left(group, undefined)
  const [first] = ready
  if (first === undefined) return
  if (ready.length === 1 && first.fold.waiting.length === 1) {
    await saveEach(store, first.group, first.fold.waiting, left)
    return
  }
  const results = await many.save(ready.map(({ fold }) => fold.request))()
  for (const [index, { group, fold }] of ready.entries()) {
    if (E.isLeft(results) && concernsAll(results.left)) fail(group, fold.waiting, results, left)
    else {
      const saved = E.isRight(results) ? (results.right[index] ?? O.none) : O.none
      if (O.isSome(saved)) succeed(group, fold, saved.value, left)
      // Not awaited: it may wait for a lock, and those behind need not.
      else void saveEach(store, group, fold.waiting, left)
    }
  }
}

const succeed = (group: Group, fold: Folded<Waiting>, saved: SavedSnapshot, left: Left): void => {
  left(group, saved)
  for (const [index, one] of unfolded(fold, saved).entries()) fold.waiting[index]?.resolve(E.right(one))
}

const fail = (group: Group, waiting: readonly Waiting[], failure: Outcome, left: Left): void => {
  left(group, undefined)
  for (const { resolve } of waiting) resolve(failure)
}

/** One after the other, each by itself. */
const saveEach = async (
  store: SessionStore,
  group: Group,
  waiting: readonly Waiting[],
  left: Left,
): Promise<void> => {
  let latest: Snapshot | undefined
  for (const { change, resolve, reject } of waiting)
    try {
      const outcome = await store.save(group.id, change)()
      if (E.isRight(outcome)) latest = outcome.right
      resolve(outcome)
    } catch (thrown) {
      reject(thrown)
    }
  left(group, latest)
}
