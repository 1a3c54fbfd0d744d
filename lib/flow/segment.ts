// Runs a flow from an answer to the next page: the effects, edits and guards of one request. Effects are claimed before
// they run, and recorded afterwards, so no two requests run the same effect.

import { randomUUID } from 'node:crypto'
import { DecodeError, SaveConflict, type SessionError } from '../core/errors.js'
import type { Json } from '../core/json.js'
import { E, TE, t } from '../core/prelude.cjs'
import { delay } from '../core/process.js'
import { apartFromEdits, storeCurrentSession } from '../request/save-with.js'
import { currentSession, updatedHere } from '../request/with-session.js'
import type { Session } from '../store/contract.js'
import { publish } from '../store/events.js'
import {
  type Claim,
  type Claimed,
  type FlowKey,
  type FlowStore,
  MAX_VALUE_CHARS,
  type NewFlow,
} from '../store/flow-contract.js'
import { FlowBusy, FlowChanged, FlowFull } from './errors.js'
import {
  describe,
  type Entry,
  effectKeyOf,
  encode,
  isEffect,
  isWaiting,
  type Replayed,
  replay,
  valueFor,
  type WaitingStep,
} from './journal.js'
import type { Journal } from './journal-cache.js'
import type { AnyFlow, EffectStep, Step, TransactionStep } from './steps.js'

/** An instance of a flow in the current session. */
export interface Instance extends Pick<NewFlow, 'seed' | 'input' | 'version' | 'principal' | 'caller'> {
  readonly key: FlowKey
  readonly flow: AnyFlow
  readonly store: FlowStore
  readonly generation: number
  /** Whether the store has the flow. */
  isStored: boolean
}

/** A segment: the records from an answer on. `row` is the id of the row that the segment makes. */
export interface Segment {
  readonly instance: Instance
  readonly row: string
  /** The session before the answer. */
  readonly session: Session
  /** The records before the answer. */
  readonly before: Journal
  /** The records of the segment. The first one is the answer. */
  readonly records: Entry[]
  /** The decoded answer, with its secrets. */
  readonly answer: unknown
}

/** A body that has come to a page. */
export interface Paused {
  readonly step: WaitingStep
  /** The running body, if it is in the same state as after a replay. */
  readonly body: Replayed | undefined
}

/** The end of a segment: the step that waits for the next answer, or the result of the flow. */
export type SegmentEnd = Paused | { readonly result: unknown }

type Result<A> = Promise<E.Either<unknown, A>>

/** Returns the flow as a new flow of the store. */
export const newFlowOf = ({ flow, seed, input, version, principal, caller }: Instance): NewFlow => {
  const { name, idleMs, maxAgeMs } = flow
  return { name, version, input, seed, principal, caller, idleMs, maxAgeMs }
}

/** Stores the flow if the store does not have it, and the session too. */
export const begin = async (instance: Instance): Result<void> => {
  if (instance.isStored) return E.right(undefined)
  const session = await storeCurrentSession()
  if (E.isLeft(session)) return session
  const started = await instance.store.begin(instance.key, newFlowOf(instance), undefined)()
  if (E.isLeft(started)) return started
  publishStart(instance, started.right)
  return E.right(undefined)
}

export const publishStart = (instance: Instance, evicted: number): void => {
  instance.isStored = true
  const { session: id, flow } = instance.key
  publish('flowBegun', { id, flow, name: instance.flow.name, evicted })
}

/** Runs the segment, from the body that waits for the answer. The result is a promise if a step has to be waited for. */
export const runSegment = (
  segment: Segment,
  { running, guards }: Replayed,
): E.Either<unknown, SegmentEnd> | Result<SegmentEnd> => {
  const reached = { running, next: running.next(segment.answer), guards }
  // A task may change the variables of the body. A replay would not run this task.
  return endAt(segment, reached, guards.length > 0) ?? runSteps(segment, reached)
}

/** Returns the end of the segment, if the body has come to a page or to its end. */
const endAt = (
  segment: Segment,
  reached: Replayed,
  hasRunTask: boolean,
): E.Either<FlowChanged, SegmentEnd> | undefined => {
  const { next } = reached
  if (next.done) return checked(segment, { result: next.value })
  return isWaiting(next.value)
    ? checked(segment, { step: next.value, body: hasRunTask ? undefined : reached })
    : undefined
}

const runSteps = async (segment: Segment, { running, next: first, guards }: Replayed): Result<SegmentEnd> => {
  let hasRunTask = guards.length > 0
  for (let next = first; ; ) {
    const end = endAt(segment, { running, next, guards }, hasRunTask)
    if (end !== undefined) return end
    const step = next.value as Exclude<Step<unknown>, WaitingStep>
    if (step.kind !== 'since') hasRunTask = true
    const value = await stepValue(segment, step)
    if (E.isLeft(value)) return value
    next = running.next(value.right)
  }
}

/** A journal of at most this many records is checked at each answer. */
const ALWAYS_CHECKED = 50

// Replays the new journal. If the body comes to another step than before, it is not determined by its journal, and no
// later request could show the page.
const checked = (
  { instance, row, before, records }: Segment,
  end: SegmentEnd,
): E.Either<FlowChanged, SegmentEnd> => {
  // A longer journal is checked for one row in 16, chosen by the row's id. The GET of the next page replays it, too.
  if (before.length > ALWAYS_CHECKED && !row.startsWith('0')) return E.right(end)
  const { flow, input, version } = instance
  const again = replay(flow, input, version, [...before.entries, ...records])
  if (E.isLeft(again)) return again
  const { next } = again.right
  const [first, second] = [
    'step' in end ? describe(end.step) : 'its end',
    next.done ? 'its end' : describe(next.value),
  ]
  if (first === second) return E.right(end)
  return E.left(
    new FlowChanged(flow.name, before.length + records.length, first, `${second} when it is run again`),
  )
}

const stepValue = (
  segment: Segment,
  step: Exclude<Step<unknown>, WaitingStep>,
): Result<unknown> | E.Either<unknown, unknown> => {
  if (step.kind === 'guard') return step.task()()
  if (step.kind === 'since') return E.right(segment.instance.version >= step.version)
  if (step.kind === 'edit') {
    segment.records.push({ kind: 'edit', name: step.name, value: null })
    return E.map(() => undefined)(updatedHere(step.edit))
  }
  return runEffect(segment, step)
}

type AnyEffect = EffectStep<unknown> | TransactionStep<unknown>

/** Runs an effect, or returns the value that was recorded before. */
const runEffect = async (segment: Segment, step: AnyEffect): Result<unknown> => {
  const started = await begin(segment.instance)
  if (E.isLeft(started)) return started
  const claim = claimOf(segment, step)
  const json = await (step.kind === 'transaction'
    ? apartFromEdits(segment.session, inTransaction(segment.instance, step, claim))()
    : claimed(segment.instance, step, claim))
  if (E.isLeft(json)) return json
  const entry: Entry = { kind: step.kind, name: step.name, value: json.right }
  segment.records.push(entry)
  return E.mapLeft((problems: readonly string[]) => new DecodeError(step.name, problems))(
    valueFor(step, entry),
  )
}

const claimOf = ({ instance, row, before, records }: Segment, step: AnyEffect): Claim => {
  const isOfFlow = step.kind === 'once' || (step.kind === 'transaction' && step.scope === 'flow')
  const isSame = ({ kind, name }: Entry): boolean => kind === step.kind && name === step.name
  return {
    ...instance.key,
    scope: isOfFlow ? instance.key.flow : row,
    name: `${step.kind} ${step.name}`,
    occurrence: [...before.entries, ...records].filter(isSame).length,
    claim: randomUUID(),
    claimMs: step.kind === 'transaction' ? 1 : step.claimMs,
  }
}

/** The time for which a request waits for another request that runs the same effect, in milliseconds. */
const MAX_WAIT_MS = 2000

/** Claims an effect. Waits if another request runs it. */
const claimedOrRecorded = async (
  { flow, generation }: Instance,
  store: FlowStore,
  claim: Claim,
  name: string,
): Result<Exclude<Claimed, 'busy' | 'refused' | 'full'>> => {
  const until = performance.now() + MAX_WAIT_MS
  for (let pause = 20; ; pause = Math.min(2 * pause, 250)) {
    const result = await store.claim(claim, generation)()
    if (E.isLeft(result)) return result
    if (result.right === 'full') return E.left(new FlowFull(flow.name, 'journal'))
    if (result.right === 'refused') return E.left(new SaveConflict(claim.flow, 'claim', 'flow'))
    if (result.right !== 'busy') return E.right(result.right)
    if (performance.now() + pause > until) return E.left(new FlowBusy(flow.name, name, 1000))
    await delay(pause)
  }
}

const claimed = async (instance: Instance, step: EffectStep<unknown>, claim: Claim): Result<Json> => {
  const { store, seed, flow } = instance
  const first = await claimedOrRecorded(instance, store, claim, step.name)
  if (E.isLeft(first)) return first
  if (first.right !== 'claimed') return E.right(first.right.value)
  const json = await jsonOf(
    flow,
    step,
    step.task(effectKeyOf(seed, claim.scope, claim.name, claim.occurrence)),
  ).catch(async (error: unknown) => {
    await store.release(claim)()
    throw error
  })
  if (E.isLeft(json)) {
    await store.release(claim)()
    return json
  }
  const recorded = await store.record(claim, json.right, JSON.stringify(json.right).length)()
  if (E.isLeft(recorded)) return recorded
  if (recorded.right) return json
  // The claim has ended, and another request has claimed the effect. The value of that request counts.
  const later = await claimedOrRecorded(instance, store, { ...claim, claimMs: 1 }, step.name)
  if (E.isLeft(later)) return later
  return later.right === 'claimed'
    ? E.left(new FlowBusy(flow.name, step.name, 1000))
    : E.right(later.right.value)
}

/** Runs a task once in a branch, without a record in the journal. */
export const runBeside = async (
  { instance, row }: Segment,
  name: string,
  task: () => TE.TaskEither<unknown, unknown>,
): Result<unknown> => {
  const started = await begin(instance)
  if (E.isLeft(started)) return started
  const step = {
    kind: 'effect',
    name,
    codec: t.null,
    task: () => TE.map(() => null)(task()),
    claimMs: 30_000,
  } as const
  const claim = { ...instance.key, scope: row, name: `keyrow:${name}`, occurrence: 0, claim: randomUUID() }
  return claimed(instance, step, { ...claim, claimMs: step.claimMs })
}

/** Runs a task and encodes its value. */
const jsonOf = async (
  { name }: AnyFlow,
  step: AnyEffect,
  task: () => Promise<E.Either<unknown, unknown>>,
): Result<Json> => {
  const done = await task()
  if (E.isLeft(done)) return done
  const json = encode(step.name, step.codec, done.right)
  return JSON.stringify(json).length > MAX_VALUE_CHARS ? E.left(new FlowFull(name, 'value')) : E.right(json)
}

// The claim, the task and the record are in one transaction. A request that claims the same effect meanwhile waits for
// the end of this transaction.
const inTransaction = (
  instance: Instance,
  step: TransactionStep<unknown>,
  claim: Claim,
): TE.TaskEither<unknown, Json> =>
  step.database.transaction((tx) => async (): Result<Json> => {
    const store = await flowsHere()
    if (E.isLeft(store)) return store
    const mine = await claimedOrRecorded(instance, store.right, claim, step.name)
    if (E.isLeft(mine)) return mine
    if (mine.right !== 'claimed') return E.right(mine.right.value)
    const json = await jsonOf(instance.flow, step, step.task(tx))
    if (E.isLeft(json)) return json
    // The value counts for the size of the flow when the row is stored, so that the transaction does not lock the flow.
    const recorded = await store.right.record(claim, json.right, 0)()
    return E.isLeft(recorded) ? recorded : json
  })

/** Returns the flows of the current session's store in the current transaction. */
const flowsHere = async (): Promise<E.Either<SessionError, FlowStore>> => {
  const session = await currentSession()
  if (E.isLeft(session)) return session
  const { transactionScope, flows } = session.right.handle
  if (transactionScope === undefined || flows === undefined)
    throw new TypeError("effectInTransaction needs the database of the session's store")
  return E.right(flows)
}

/** Returns the number of characters that records add to the size of a flow. Values of effects were added before. */
export const charsOf = (records: readonly Entry[]): number =>
  records.reduce((sum, record) => sum + record.kind.length + record.name.length + 8 + valueChars(record), 2)

const valueChars = ({ kind, value, chars }: Entry): number =>
  kind === 'effect' || kind === 'once' ? 0 : (chars ?? JSON.stringify(value).length)

/** The names of the effects among records. */
export const effectsIn = (records: readonly Entry[]): readonly string[] =>
  records.filter(isEffect).map(({ name }) => name)
