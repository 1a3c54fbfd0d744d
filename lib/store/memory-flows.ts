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
  type ListedFlow,
  MAX_ANSWERS,
  MAX_FLOWS,
  MAX_JOURNAL_CHARS,
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
  /** The time at which a live session expires at the latest, or `undefined` for an ended session. */
  readonly latestExpiration: (id: SessionId) => number | undefined
  readonly save: (id: SessionId, change: Change) => E.Either<SessionGone, SavedSnapshot>
}

type Written = E.Either<SaveConflict | SessionGone, SavedSnapshot | undefined>

const nameOf = ({ scope, name, occurrence }: EffectKey): string => JSON.stringify([scope, name, occurrence])

const sizeOf = ({ records }: NewRow): number => JSON.stringify(records).length

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
    const expiration = this.#sessions.latestExpiration(session)
    const all = this.#flows.get(session) ?? new Map<string, Flow>()
    if (expiration === undefined || all.has(id)) return E.left(new SaveConflict(id, 'begin', 'flow'))
    const evicted = this.#evict(all)
    const { idleMs, maxAgeMs, ...head } = flow
    const now = this.#sessions.now()
    const added: Flow = {
      ...head,
      ...{ generation: 0, latest: undefined, answers: 0, size: 0, end: undefined, madeEnd: undefined },
      ...{ idleMs, usedAt: now, until: Math.min(expiration, now + (maxAgeMs ?? Number.POSITIVE_INFINITY)) },
      rows: noRows,
      effects: new Map(),
    }
    all.set(id, row === undefined ? added : this.#withRow(added, row))
    this.#flows.set(session, all)
    return E.right(evicted)
  }

  advance(key: FlowKey, seen: Seen, row: NewRow, change: Change | undefined): Written {
    const flow = this.#writable(key, seen)
    const done = this.#find(key.session, key.flow)?.rows.get(row.id)?.made === row.made
    const fits =
      flow !== undefined && flow.answers < MAX_ANSWERS && flow.size + sizeOf(row) <= MAX_JOURNAL_CHARS
    if (!done && (!fits || flow.rows.has(row.id)))
      return E.left(new SaveConflict(key.flow, 'advance', 'flow'))
    return this.#withChange(key.session, change, () => {
      if (!done && flow !== undefined)
        this.#put(key, { ...this.#withRow(flow, row), principal: flow.principal ?? seen.principal })
    })
  }

  end(
    key: FlowKey,
    seen: Seen,
    { to, made }: { readonly to: string; readonly made: string },
    change: Change | undefined,
  ): Written {
    const flow = this.#writable(key, seen)
    const done = this.#find(key.session, key.flow)?.madeEnd === made
    if (!done && flow === undefined) return E.left(new SaveConflict(key.flow, 'end', 'flow'))
    return this.#withChange(key.session, change, () => {
      if (!done && flow !== undefined) this.#put(key, { ...this.#ended(flow), end: { to }, madeEnd: made })
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
    if (present !== undefined && present.claimedUntil > now && present.claim !== claim.claim) return 'busy'
    flow.effects.set(nameOf(claim), {
      claim: claim.claim,
      claimedUntil: now + claim.claimMs,
      value: undefined,
    })
    return 'claimed'
  }

  record(claim: Claim, value: Json): boolean {
    const effects = this.#flows.get(claim.session)?.get(claim.flow)?.effects
    const present = effects?.get(nameOf(claim))
    if (effects === undefined || present?.claim !== claim.claim) return false
    if (present.value === undefined) effects.set(nameOf(claim), { ...present, value })
    return true
  }

  release(claim: Claim): void {
    const effects = this.#flows.get(claim.session)?.get(claim.flow)?.effects
    const present = effects?.get(nameOf(claim))
    if (present?.claim === claim.claim && present.value === undefined) effects?.delete(nameOf(claim))
  }

  list(session: SessionId): readonly ListedFlow[] {
    if (this.#sessions.latestExpiration(session) === undefined) return []
    return [...(this.#flows.get(session) ?? [])]
      .filter(([, flow]) => flow.end === undefined && !this.#isExpired(flow))
      .map(([id, { name, latest, rows, answers, usedAt }]) => ({
        ...{ id, name, latest, answers, usedAt },
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
    return this.#sessions.latestExpiration(session) === undefined
      ? undefined
      : this.#flows.get(session)?.get(flow)
  }

  #isExpired({ until, usedAt, idleMs = Number.POSITIVE_INFINITY }: Flow): boolean {
    return Math.min(until, usedAt + idleMs) <= this.#sessions.now()
  }

  #writable({ session, flow: id }: FlowKey, { generation, principal }: Seen): Flow | undefined {
    const flow = this.#find(session, id)
    if (flow?.generation !== generation || flow.end !== undefined || this.#isExpired(flow)) return undefined
    return flow.principal === undefined || flow.principal === principal ? flow : undefined
  }

  #withChange(session: SessionId, change: Change | undefined, write: () => void): Written {
    const saved = change === undefined ? E.right(undefined) : this.#sessions.save(session, change)
    if (E.isRight(saved)) write()
    return saved
  }

  #withRow(flow: Flow, row: NewRow): Flow {
    const { cuts, ...rest } = row
    const generation = flow.generation + (cuts ? 1 : 0)
    return {
      ...flow,
      ...{ generation, latest: row.id, answers: flow.answers + 1, size: flow.size + sizeOf(row) },
      usedAt: this.#sessions.now(),
      rows: new Map(flow.rows).set(row.id, { ...rest, generation }),
    }
  }

  #ended(flow: Flow): Flow {
    const { generation } = flow
    return {
      ...flow,
      generation: generation + 1,
      latest: undefined,
      rows: noRows,
      effects: new Map(),
      usedAt: this.#sessions.now(),
    }
  }

  #put({ session, flow: id }: FlowKey, flow: Flow): void {
    const all = this.#flows.get(session)
    all?.delete(id)
    all?.set(id, flow)
  }

  /** Evicts the least recently used flows so that one more can begin, and returns the number of evicted flows. */
  #evict(all: Map<string, Flow>): number {
    const open = [...all].filter(([, { end }]) => end === undefined)
    const evicted = open.slice(0, Math.max(0, open.length - MAX_FLOWS + 1))
    for (const [id, flow] of evicted)
      all.set(id, { ...this.#ended(flow), usedAt: flow.usedAt, end: 'evicted' })
    for (const [id] of [...all].slice(0, Math.max(0, all.size - 3 * MAX_FLOWS))) all.delete(id)
    return evicted.length
  }
}
