// Implements the flows of the memory store. Each operation is a synchronous function, which the memory store runs as one
// step.

import { SaveConflict, type SessionGone } from '../core/errors.js'
import type { Json } from '../core/json.js'
import { E, O } from '../core/prelude.cjs'
import type { SessionId } from '../core/token.js'
import type { Change, SavedSnapshot } from './contract.js'
import {
  type Claim,
  type Claimed,
  type EffectKey,
  type FlowHead,
  type FlowKey,
  type FlowPosition,
  type FlowRow,
  type FlowWrite,
  type ListedFlow,
  MAX_ANSWERS,
  MAX_FLOWS,
  MAX_JOURNAL_CHARS,
  type NewEnd,
  type NewFlow,
  type NewRow,
  type Seen,
  versionOf,
} from './flow-contract.js'

interface Row extends FlowRow {
  readonly step: string
}

interface Effect {
  readonly claim: string
  readonly claimedUntil: number
  readonly value: Json | undefined
}

interface Flow extends Omit<FlowHead, 'expired'> {
  readonly madeEnd: string | undefined
  readonly idleMs: number | undefined
  readonly usedAt: number
  readonly until: number
  readonly rows: ReadonlyMap<string, Row>
  readonly effects: Map<string, Effect>
}

/** The data of the memory store that flows use. */
interface Sessions {
  readonly now: () => number
  readonly isAlive: (id: SessionId) => boolean
  readonly save: (id: SessionId, change: Change) => E.Either<SessionGone, SavedSnapshot>
}

type Written = E.Either<SaveConflict | SessionGone, SavedSnapshot | undefined>

const nameOf = ({ scope, name, occurrence }: EffectKey): string => JSON.stringify([scope, name, occurrence])

const noRows: ReadonlyMap<string, Row> = new Map()

export class MemoryFlows {
  /** The flows of each session, the most recently used last. */
  readonly #flows = new Map<SessionId, Map<string, Flow>>()
  readonly #sessions: Sessions

  constructor(sessions: Sessions) {
    this.#sessions = sessions
  }

  read(
    { session, flow: id }: FlowKey,
    row: string | undefined,
    known: readonly string[],
  ): O.Option<FlowPosition> {
    const flow = this.#find(session, id)
    if (flow === undefined) return O.none
    const rows: Row[] = []
    const above = (of: string | undefined) => (of === undefined ? undefined : flow.rows.get(of))
    for (let at = above(row); at !== undefined && !known.includes(versionOf(at)); at = above(at.parent))
      rows.unshift(at)
    return O.some({
      head: { ...flow, expired: this.#isExpired(flow) },
      generation: row === undefined ? 0 : flow.rows.get(row)?.generation,
      rows,
      given: flow.effects.get(
        nameOf({ session, flow: id, scope: row ?? '', name: 'keyrow:answer', occurrence: 0 }),
      )?.value,
    })
  }

  begin(
    { session, flow: id }: FlowKey,
    flow: NewFlow,
    row: NewRow | undefined,
  ): E.Either<SaveConflict, number> {
    const all = this.#flows.get(session) ?? new Map<string, Flow>()
    if (!this.#sessions.isAlive(session) || all.has(id)) return E.left(new SaveConflict(id, 'begin', 'flow'))
    const evicted = this.#evict(all, flow.caller?.flow)
    const { idleMs, maxAgeMs, ...head } = flow
    const now = this.#sessions.now()
    const added: Flow = {
      ...head,
      generation: 0,
      latest: undefined,
      answers: 0,
      size: 0,
      end: undefined,
      madeEnd: undefined,
      idleMs,
      usedAt: now,
      until: now + (maxAgeMs ?? Number.POSITIVE_INFINITY),
      rows: noRows,
      effects: new Map(),
    }
    all.set(id, row === undefined ? added : this.#withRow(added, row))
    this.#flows.set(session, all)
    return E.right(evicted)
  }

  write({ session, row, ends, change }: FlowWrite): Written {
    const parts = [
      ...ends.map((end) => this.#endOf(end)),
      ...(row === undefined ? [] : [this.#advanceOf(row)]),
    ]
    for (const part of parts) if (E.isLeft(part)) return part
    const saved = change === undefined ? E.right(undefined) : this.#sessions.save(session, change)
    if (E.isRight(saved)) for (const part of parts) if (E.isRight(part)) part.right()
    return saved
  }

  /** Returns the function that stores the row. */
  #advanceOf({ key, seen, row }: NonNullable<FlowWrite['row']>): E.Either<SaveConflict, () => void> {
    const flow = this.#writable(key, seen)
    if (this.#find(key.session, key.flow)?.rows.get(row.id)?.made === row.made)
      return E.right(() => undefined)
    const fits =
      flow !== undefined && flow.answers < MAX_ANSWERS && flow.size + row.chars <= MAX_JOURNAL_CHARS
    const above = row.parent === undefined ? flow?.seed : flow?.rows.get(row.parent)?.made
    const isBelow = above !== undefined && above === row.parentMade
    if (!fits || !isBelow || flow.rows.has(row.id))
      return E.left(new SaveConflict(key.flow, 'advance', 'flow'))
    return E.right(() => {
      this.#put(key, { ...this.#withRow(flow, row), principal: flow.principal ?? seen.principal })
    })
  }

  /** Returns the function that ends the flow. */
  #endOf({ key, seen, to, made }: NewEnd): E.Either<SaveConflict, () => void> {
    if (this.#find(key.session, key.flow)?.madeEnd === made) return E.right(() => undefined)
    const flow = this.#writable(key, seen)
    if (flow === undefined) return E.left(new SaveConflict(key.flow, 'end', 'flow'))
    return E.right(() => {
      this.#put(key, { ...this.#ended(flow), end: { to }, madeEnd: made })
    })
  }

  claim(claim: Claim, generation: number): Claimed {
    const flow = this.#find(claim.session, claim.flow)
    const now = this.#sessions.now()
    if (
      flow === undefined ||
      flow.end !== undefined ||
      flow.generation !== generation ||
      this.#isExpired(flow)
    )
      return 'refused'
    const present = flow.effects.get(nameOf(claim))
    if (present?.value !== undefined) return { value: present.value }
    if (flow.size >= MAX_JOURNAL_CHARS) return 'full'
    if (present !== undefined && present.claimedUntil > now && present.claim !== claim.claim) return 'busy'
    flow.effects.set(nameOf(claim), {
      claim: claim.claim,
      claimedUntil: now + claim.claimMs,
      value: undefined,
    })
    return 'claimed'
  }

  record(claim: Claim, value: Json, chars: number): boolean {
    const flows = this.#flows.get(claim.session)
    const flow = flows?.get(claim.flow)
    const present = flow?.effects.get(nameOf(claim))
    if (flow === undefined || present?.claim !== claim.claim) return false
    if (present.value !== undefined) return true
    flow.effects.set(nameOf(claim), { ...present, value })
    flows?.set(claim.flow, { ...flow, size: flow.size + chars })
    return true
  }

  release(claim: Claim): void {
    const effects = this.#flows.get(claim.session)?.get(claim.flow)?.effects
    const present = effects?.get(nameOf(claim))
    if (present?.claim === claim.claim && present.value === undefined) effects?.delete(nameOf(claim))
  }

  list(session: SessionId): readonly ListedFlow[] {
    if (!this.#sessions.isAlive(session)) return []
    return [...(this.#flows.get(session) ?? [])]
      .filter(([, flow]) => flow.end === undefined && !this.#isExpired(flow))
      .map(([id, { name, latest, rows, answers, usedAt }]) => ({
        id,
        name,
        latest,
        answers,
        usedAt,
        step: rows.get(latest ?? '')?.step,
      }))
      .reverse()
  }

  drop({ session, flow }: FlowKey): void {
    this.#flows.get(session)?.delete(flow)
  }

  /** Deletes the flows of an ended session. */
  remove(session: SessionId): void {
    this.#flows.delete(session)
  }

  #find(session: SessionId, flow: string): Flow | undefined {
    return this.#sessions.isAlive(session) ? this.#flows.get(session)?.get(flow) : undefined
  }

  #isExpired({ until, usedAt, idleMs = Number.POSITIVE_INFINITY }: Flow): boolean {
    return Math.min(until, usedAt + idleMs) <= this.#sessions.now()
  }

  #writable({ session, flow: id }: FlowKey, { generation, principal }: Seen): Flow | undefined {
    const flow = this.#find(session, id)
    if (flow?.generation !== generation || flow.end !== undefined || this.#isExpired(flow)) return undefined
    return flow.principal === undefined || flow.principal === principal ? flow : undefined
  }

  #withRow(flow: Flow, row: NewRow): Flow {
    const { cuts, chars, id, parent, step, records, made } = row
    const generation = flow.generation + (cuts ? 1 : 0)
    return {
      ...flow,
      generation,
      latest: id,
      answers: flow.answers + 1,
      size: flow.size + chars,
      usedAt: this.#sessions.now(),
      rows: new Map(flow.rows).set(id, { id, parent, step, records, made, generation }),
    }
  }

  #ended(flow: Flow): Flow {
    const { generation } = flow
    return {
      ...flow,
      generation: generation + 1,
      latest: undefined,
      rows: noRows,
      usedAt: this.#sessions.now(),
    }
  }

  #put({ session, flow: id }: FlowKey, flow: Flow): void {
    const all = this.#flows.get(session)
    all?.delete(id)
    all?.set(id, flow)
  }

  /** Evicts the least recently used flows so that one more can begin, and returns the number of evicted flows. */
  #evict(all: Map<string, Flow>, caller: string | undefined): number {
    const open = [...all].filter(([id, { end }]) => end === undefined && id !== caller)
    const evicted = open.slice(0, Math.max(0, open.length - MAX_FLOWS + 1))
    for (const [id, flow] of evicted)
      all.set(id, { ...this.#ended(flow), usedAt: flow.usedAt, end: 'evicted' })
    for (const [id] of [...all].slice(0, Math.max(0, all.size - 3 * MAX_FLOWS)))
      if (id !== caller) all.delete(id)
    return evicted.length
  }
}
