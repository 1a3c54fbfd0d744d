// Finds the position of a request in a flow: reads the rows, checks that the position can be used, and replays the
// journal. If the definition of the flow has changed, finds the last page that still fits. Puts a stored row into the
// cache, where the next request finds it.

import { E, O, pipe } from '../core/prelude.cjs'
import { shared } from '../core/process.js'
import { principalOf } from '../core/well-known-keys.js'
import type { Session } from '../store/contract.js'
import type { FlowHead, FlowPosition, FlowStore, NewRow } from '../store/flow-contract.js'
import { FlowChanged, FlowExpired, type FlowExpiredReason } from './errors.js'
import {
  describe,
  type Entry,
  isWaiting,
  kOf,
  type Place,
  type Replayed,
  replay,
  type WaitingStep,
} from './journal.js'
import {
  addRows,
  type CachedFlow,
  cachedFlow,
  type Journal,
  journalOf,
  knownRows,
  takeBody,
} from './journal-cache.js'
import { hasSecrets } from './secret-answer.js'
import { effectsIn, type Instance } from './segment.js'
import type { AnyFlow } from './steps.js'

/** A flow that is served at a path. */
export interface ServedFlow {
  readonly flow: AnyFlow
  /** The path at which the flow is served. */
  readonly at: string
  /** Returns the path to which the visitor is redirected after the end of the flow. */
  readonly done: (result: unknown) => unknown
}

/** The flows that this process serves, by name. */
const served = shared('served-flows:1', () => new Map<string, ServedFlow>())

export const serve = (flow: ServedFlow): void => {
  served.set(flow.flow.name, flow)
}

export const servedFlow = (name: string): ServedFlow | undefined => served.get(name)

export interface Position {
  readonly served: ServedFlow
  readonly instance: Instance
  readonly row: string | undefined
  /** The idempotency key of the row, or the seed of the flow for the first page. */
  readonly parentMade: string | undefined
  /** Whether the flow was cut, so that the position can no longer be answered. */
  readonly cut: boolean
  readonly cached: CachedFlow
  readonly journal: Journal
  readonly replayed: Replayed
  /** The step that waits for an answer. */
  readonly step: WaitingStep
  /** The number of answers, and of the characters of all records. */
  readonly answers: number
  readonly size: number
  /** Returns the path of the latest page. */
  readonly latest: () => string | undefined
  /** The answer that was given from outside of the session. */
  readonly given: FlowPosition['given']
}

/** The flow was changed. The visitor goes on at an earlier page, which still fits. */
export interface Rewound {
  readonly to: string
}

export const pathOf = ({ at }: ServedFlow, place: Place): string => `${at}?k=${kOf(place)}`

export const flowsIn = (session: Session): FlowStore => {
  const { flows } = session.handle
  if (flows === undefined) throw new TypeError('the store of this session has no flows')
  return flows
}

/** Reads a position. Returns `undefined` if the session has no such flow. */
export const readPosition = async (
  flow: ServedFlow,
  session: Session,
  place: Place,
): Promise<E.Either<unknown, Position | Rewound | undefined>> => {
  const key = { session: session.id, flow: place.flow }
  const cached = cachedFlow(key)
  const store = flowsIn(session)
  const read = await store.read(key, place.row, knownRows(cached, place.row))()
  if (E.isLeft(read)) return read
  if (O.isNone(read.right)) return E.right(undefined)
  const { head, rows } = read.right.value
  const expired = expiryOf(flow, principalOf(session), place, read.right.value)
  if (expired !== undefined) return E.left(expired)
  addRows(cached, rows, head)
  const journal = journalOf(cached, place.row)
  const instance: Instance = { ...head, key, flow: flow.flow, store, isStored: true }
  const parentMade = parentMadeOf(instance, cached, place)
  return positionAt(instance, place, read.right.value, { served: flow, cached, journal, parentMade })
}

/**
 * Returns a position that this process has in its cache. The flow may have changed meanwhile, but a write or a claim is
 * then refused. A tangent is always read, since it may have been answered from outside of the session.
 */
export const cachedPosition = (served: ServedFlow, session: Session, place: Place): Position | undefined => {
  const key = { session: session.id, flow: place.flow }
  const cached = cachedFlow(key)
  const { head } = cached
  const generation = place.row === undefined ? 0 : cached.rows.get(place.row)?.generation
  if (head === undefined || generation !== head.generation) return undefined
  const read = { head, generation, rows: [], given: undefined }
  if (expiryOf(served, principalOf(session), place, read) !== undefined) return undefined
  const journal = journalOf(cached, place.row)
  const instance: Instance = { ...head, key, flow: served.flow, store: flowsIn(session), isStored: true }
  const parentMade = parentMadeOf(instance, cached, place)
  const body = takeBody(cached, place.row, parentMade, served.flow)
  const position = positionAt(instance, place, read, { served, cached, journal, parentMade }, body)
  if (E.isLeft(position) || 'to' in position.right || position.right.step.kind === 'tangent') return undefined
  return position.right
}

const parentMadeOf = ({ seed }: Instance, { rows }: CachedFlow, { row }: Place): string | undefined =>
  row === undefined ? seed : rows.get(row)?.made

/** Returns the position after a journal, or the earlier page to which the visitor goes back. */
const positionAt = (
  instance: Instance,
  { flow, row }: Place,
  { head, generation, given }: FlowPosition,
  parts: Pick<Position, 'served' | 'cached' | 'journal' | 'parentMade'>,
  body?: Replayed,
): E.Either<FlowChanged, Position | Rewound> => {
  const { served, cached, journal, parentMade } = parts
  const found =
    body === undefined
      ? replayedAt(served.flow, head, journal.entries)
      : waitingIn(served.flow, journal.length, body)
  if (E.isLeft(found)) return rewoundTo(served, flow, rewound(served, head, journal, found.left))
  return E.right({
    served,
    instance,
    row,
    parentMade,
    cut: generation !== head.generation,
    cached,
    journal,
    replayed: found.right.replayed,
    step: found.right.step,
    answers: head.answers,
    size: head.size,
    latest: () => latestOf(served, flow, head),
    given,
  })
}

const rewoundTo = (
  served: ServedFlow,
  flow: string,
  earlier: E.Either<FlowChanged, string | undefined>,
): E.Either<FlowChanged, Rewound> =>
  E.map((row: string | undefined) => ({ to: pathOf(served, { flow, row }) }))(earlier)

const latestOf = (served: ServedFlow, flow: string, { latest }: FlowHead): string | undefined =>
  latest === undefined ? undefined : pathOf(served, { flow, row: latest })

/** Returns the error of a position that cannot be used. A cut position can be used to find a repeated answer. */
export const expiryOf = (
  served: ServedFlow,
  principal: string | undefined,
  { flow }: Place,
  { head, generation }: FlowPosition,
): FlowExpired | undefined => {
  const { end } = head
  const reason = unusable(served, principal, head, generation)
  if (reason === undefined) return undefined
  const path = {
    finished: typeof end === 'object' ? end.to : undefined,
    unknown: latestOf(served, flow, head),
  }
  const isLocal = head.name === served.flow.name && (reason === 'finished' || reason === 'unknown')
  return new FlowExpired(reason, served.flow.name, isLocal ? path[reason] : undefined)
}

/** Returns the reason why a position cannot be used. A cut position can be used to find a repeated answer. */
const unusable = (
  { flow }: ServedFlow,
  principal: string | undefined,
  head: FlowHead,
  generation: number | undefined,
): FlowExpiredReason | undefined => {
  if (head.name !== flow.name) return 'unknown'
  if (head.principal !== undefined && head.principal !== principal) return 'principal'
  if (head.end !== undefined) return head.end === 'evicted' ? 'evicted' : 'finished'
  if (head.expired) return 'expired'
  return generation === undefined ? 'unknown' : undefined
}

/** Runs the guards that stand before a position in the body. Returns the first failure. */
export const checkGuards = async ({ replayed }: Position): Promise<E.Either<unknown, unknown>> => {
  for (const { task } of replayed.guards) {
    const passed = await task()()
    if (E.isLeft(passed)) return passed
  }
  return E.right(undefined)
}

type Found = Pick<Position, 'replayed' | 'step'>

/** Replays a journal. Fails with `FlowChanged` if the body does not come to a page after the journal. */
export const replayedAt = (
  flow: AnyFlow,
  { input, version }: Pick<FlowHead, 'input' | 'version'>,
  entries: readonly Entry[],
): E.Either<FlowChanged, Found> => {
  if (version !== flow.version && !flow.accepts.includes(version))
    return E.left(
      new FlowChanged(
        flow.name,
        0,
        `a flow of version ${String(version)}`,
        `version ${String(flow.version)}`,
      ),
    )
  return pipe(
    replay(flow, input, version, entries),
    E.chain((replayed) => waitingIn(flow, entries.length, replayed)),
  )
}

const waitingIn = (flow: AnyFlow, length: number, replayed: Replayed): E.Either<FlowChanged, Found> => {
  const { next } = replayed
  if (!next.done && isWaiting(next.value)) return E.right({ replayed, step: next.value })
  const asked = next.done ? 'its end' : describe(next.value)
  return E.left(new FlowChanged(flow.name, length, 'a page', asked))
}

// Returns the last row before the change whose page still fits. An effect that has run is never dropped silently. So if
// the records after this row have effects, the result is the error.
const rewound = (
  flow: ServedFlow,
  head: FlowHead,
  { entries, boundaries }: Journal,
  changed: FlowChanged,
): E.Either<FlowChanged, string | undefined> => {
  const earlier = boundaries
    .slice(0, -1)
    .filter(({ end, generation }) => end <= changed.at && generation === head.generation)
  for (const { row, end } of earlier.toReversed()) {
    if (E.isLeft(replayedAt(flow.flow, head, entries.slice(0, end)))) continue
    const drops = effectsIn(entries.slice(end))
    const { at, recorded, asked } = changed
    return drops.length === 0
      ? E.right(row)
      : E.left(new FlowChanged(flow.flow.name, at, recorded, asked, drops))
  }
  return E.left(changed)
}

/**
 * Returns the position of the first page of a flow that the store does not have. A GET runs no effect, so the flow must
 * begin with a page.
 */
export const firstPosition = (
  flow: ServedFlow,
  session: Session,
  id: string,
  start: Pick<Instance, 'input' | 'seed'>,
): Position => {
  const instance: Instance = {
    ...start,
    key: { session: session.id, flow: id },
    flow: flow.flow,
    store: flowsIn(session),
    version: flow.flow.version,
    principal: principalOf(session),
    caller: undefined,
    generation: 0,
    isStored: false,
  }
  const cached = cachedFlow(instance.key)
  const journal = journalOf(cached, undefined)
  const found = replayedAt(flow.flow, instance, journal.entries)
  if (E.isLeft(found) || found.right.step.kind === 'tangent' || found.right.step.kind === 'call')
    throw new TypeError(`the flow ${flow.flow.name} must begin with a page`)
  const parts = { served: flow, cached, journal, parentMade: start.seed }
  const unused = { cut: false, answers: 0, size: 0, latest: () => undefined, given: undefined }
  return { ...parts, ...unused, ...found.right, instance, row: undefined }
}

/** Adds a row to the cache after it was stored. `principal` is the principal with which it was stored. */
export const cacheRow = (
  { instance, cached, answers, size }: Position,
  row: NewRow,
  entries: readonly Entry[],
  principal: string | undefined,
): void => {
  const { flow, version, input, seed, caller } = instance
  const generation = instance.generation + (row.cuts ? 1 : 0)
  addRows(cached, [{ ...row, generation, entries }], {
    name: flow.name,
    version,
    input,
    seed,
    caller,
    generation,
    latest: row.id,
    principal: instance.principal ?? principal,
    answers: answers + 1,
    size: size + row.chars,
    end: undefined,
    expired: false,
  })
}

/** A journal with fewer records than this is replayed in a few microseconds. */
const MIN_KEPT = 8

/**
 * Whether a running body is kept, after this answer, for the answer to the next page. After an answer with a secret it is
 * not kept, since the next page must not get the secret.
 */
export const isWorthKeeping = ({ step, journal }: Position, next: WaitingStep): boolean => {
  const codecs = step.kind === 'dispatch' ? Object.values(step.choices) : [step.codec]
  return (
    journal.length >= MIN_KEPT && next.kind !== 'tangent' && next.kind !== 'call' && !codecs.some(hasSecrets)
  )
}

const ORIGIN = 'http://localhost'

/**
 * Returns a path of this site, percent-encoded. Throws a `TypeError` for any other value, which could lead to another
 * site.
 */
export const localPath = (what: string, path: unknown): string => {
  const url =
    typeof path === 'string' && path.startsWith('/') && URL.canParse(path, ORIGIN)
      ? new URL(path, ORIGIN)
      : undefined
  if (url?.origin === ORIGIN) return url.pathname + url.search + url.hash
  throw new TypeError(
    `${what} returned ${JSON.stringify(path)}: it must be a path of this site, such as /cart`,
  )
}
