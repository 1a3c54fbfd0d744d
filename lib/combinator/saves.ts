// Saves that are done together: of several sessions in one statement, and those of one session folded into one save,
// in the order in which they came. While a session's save is under way its next ones wait, and then go on from what that
// one left: so updates of one key by many requests of a process take one statement for many, not one for each.

import * as E from 'fp-ts/lib/Either.js'
import * as O from 'fp-ts/lib/Option.js'
import type { ManyOperations, SavedSnapshot, SessionStore } from '../port/session-store.js'
import type { Snapshot } from '../session/session.js'
import { type Folded, folded, unfolded } from './folding.js'
import { type BatchLimits, briefly, concernsAll, gathering, inTime, overloaded } from './gathering.js'
import { type Group, type Outcome, saveLine, type Waiting } from './save-line.js'

export const batchedSaves = (
  store: SessionStore,
  many: ManyOperations,
  { batch, atOnce, queue, waitMs }: Required<BatchLimits>,
): SessionStore['save'] => {
  const line = saveLine(batch, waitMs)
  const left = (group: Group, snapshot: Snapshot | undefined): void => {
    line.left(group, snapshot)
    joined()
  }
  // A statement's observer may throw: that is everybody's, and their places are free again.
  const send = (groups: readonly Group[]): Promise<void> =>
    saveAll({ store, many, left, waitMs }, groups).catch((thrown: unknown) => {
      for (const group of groups) {
        left(group, undefined)
        for (const { reject } of group.waiting) reject(thrown)
      }
    })
  const joined = gathering({ next: line.next, send }, atOnce)
  return (id, change) => () => {
    const refused = store.refusal?.() ?? (line.size() >= queue ? overloaded('save', queue) : undefined)
    if (refused !== undefined) return Promise.resolve(E.left(refused))
    return new Promise((resolve, reject) => {
      line.join(id, { change, since: performance.now(), resolve, reject })
      joined()
    })
  }
}

interface Saving {
  readonly store: SessionStore
  readonly many: ManyOperations
  readonly waitMs: number
  /** Tells that a group was answered. */
  readonly left: (group: Group, snapshot: Snapshot | undefined) => void
}

const saveAll = async (saving: Saving, groups: readonly Group[]): Promise<void> => {
  const { many, left } = saving
  const folds = groups.map((group) => ({ group, fold: folded(group.id, group.waiting, group.base) }))
  const ready = folds.filter(({ fold }) => fold.waiting.length > 0)
  for (const { group, fold } of folds) if (fold.waiting.length === 0) left(group, undefined)
  const [first] = ready
  if (first === undefined) return
  if (ready.length === 1 && first.fold.waiting.length === 1) {
    await briefly(saveEach(saving, first.group, first.fold.waiting))
    return
  }
  const results = await many.save(ready.map(({ fold }) => fold.request))()
  for (const [index, { group, fold }] of ready.entries()) {
    if (E.isLeft(results) && concernsAll(results.left)) fail(saving, group, fold.waiting, results)
    else {
      const saved = E.isRight(results) ? (results.right[index] ?? O.none) : O.none
      if (O.isSome(saved)) succeed(saving, group, fold, saved.value)
      // Not awaited: it may wait for a lock, and those behind need not.
      else void saveEach(saving, group, fold.waiting)
    }
  }
}

const succeed = ({ left }: Saving, group: Group, fold: Folded<Waiting>, saved: SavedSnapshot): void => {
  left(group, saved)
  for (const [index, one] of unfolded(fold, saved).entries()) fold.waiting[index]?.resolve(E.right(one))
}

const fail = ({ left }: Saving, group: Group, waiting: readonly Waiting[], failure: Outcome): void => {
  left(group, undefined)
  for (const { resolve } of waiting) resolve(failure)
}

/** One after the other, each by itself, for as long as their turn may take. */
const saveEach = async (
  { store, left, waitMs }: Saving,
  group: Group,
  waiting: readonly Waiting[],
): Promise<void> => {
  let latest: Snapshot | undefined
  for (const one of waiting)
    try {
      if (inTime([one], 'save', waitMs).length === 0) continue
      const outcome = await store.save(group.id, one.change)()
      if (E.isRight(outcome)) latest = outcome.right
      one.resolve(outcome)
    } catch (thrown) {
      one.reject(thrown)
    }
  left(group, latest)
}
