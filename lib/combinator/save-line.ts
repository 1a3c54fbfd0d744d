// The line of saves that wait: those of one session together, and never two batches of one session at once.

import { jsonSize } from '../base/json.js'
import type { Change, SessionStore } from '../port/session-store.js'
import type { Snapshot } from '../session/session.js'
import type { SessionId } from '../session/token.js'
import { alike } from './folding.js'
import { BATCH_SIZE, type InLine, inTime } from './gathering.js'

export type Outcome = Awaited<ReturnType<ReturnType<SessionStore['save']>>>

export interface Waiting extends InLine {
  readonly resolve: (outcome: Outcome) => void
  readonly change: Change
}

/** The saves of one session that are done as one; `base` is what an earlier save of this process left. */
export interface Group {
  readonly id: SessionId
  readonly waiting: readonly Waiting[]
  readonly base: Snapshot | undefined
}

export interface SaveLine {
  /** How many were not answered yet. */
  readonly size: () => number
  readonly join: (id: SessionId, one: Waiting) => void
  readonly next: () => readonly Group[] | undefined
  /** The group was answered; its session is as this, if that is known. The second time does nothing. */
  readonly left: (group: Group, snapshot: Snapshot | undefined) => void
}

/** Of one session, half as many as a header remembers saves: so that a retry can be told from its first try. */
const AT_MOST = 32

interface State {
  /** By session, in the order in which the first of each came. */
  readonly waiting: Map<SessionId, Waiting[]>
  readonly underWay: Map<SessionId, Group>
  readonly bases: Map<SessionId, Snapshot>
  size: number
}

export const saveLine = (batch: number, waitMs: number): SaveLine => {
  const state: State = { waiting: new Map(), underWay: new Map(), bases: new Map(), size: 0 }
  const { waiting, underWay, bases } = state
  return {
    size: () => state.size,
    join: (id, one) => {
      const same = waiting.get(id)
      if (same === undefined) waiting.set(id, [one])
      else same.push(one)
      state.size += 1
    },
    next: () => nextGroups(state, batch, waitMs),
    left: (group, snapshot) => {
      if (underWay.get(group.id) !== group) return
      underWay.delete(group.id)
      state.size -= group.waiting.length
      if (snapshot !== undefined && waiting.has(group.id)) bases.set(group.id, snapshot)
    },
  }
}

const nextGroups = (state: State, batch: number, waitMs: number): readonly Group[] | undefined => {
  const groups: Group[] = []
  let size = 0
  for (const [id, all] of state.waiting) {
    if (state.underWay.has(id)) continue
    const group = taken(state, id, all, waitMs)
    if (group === undefined) continue
    groups.push(group)
    size += sizeOf(group)
    if (groups.length >= batch || size > BATCH_SIZE) break
  }
  return groups.length === 0 ? undefined : groups
}

/** Out of the line, those of a session that go together; none, if they have all waited too long. */
const taken = (state: State, id: SessionId, all: Waiting[], waitMs: number): Group | undefined => {
  const { waiting, underWay, bases } = state
  const some = all.splice(0, alike(all, AT_MOST))
  if (all.length === 0) waiting.delete(id)
  const group = { id, waiting: inTime(some, 'save', waitMs), base: bases.get(id) }
  bases.delete(id)
  state.size -= some.length - group.waiting.length
  if (group.waiting.length === 0) return undefined
  underWay.set(id, group)
  return group
}

const sizeOf = ({ waiting }: Group): number => {
  let size = 0
  for (const { change } of waiting)
    for (const key of change.edits.keys()) size += key.length + jsonSize(change.entries.get(key) ?? null)
  return size
}
