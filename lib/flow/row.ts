// Stores the row of an answer, together with the flow, the ends of called flows, and the edits of the session.

import { randomBytes } from 'node:crypto'
import { SaveConflict } from '../core/errors.js'
import { E } from '../core/prelude.cjs'
import { newIdempotencyKey } from '../core/token.js'
import { principalOf } from '../core/well-known-keys.js'
import { saveCurrentWith, storeCurrentSession } from '../request/save-with.js'
import { sessionHere } from '../request/with-session.js'
import { publish } from '../store/events.js'
import { MAX_JOURNAL_CHARS, type NewRow } from '../store/flow-contract.js'
import { FlowFull } from './errors.js'
import { answerTokenOf, calledIdOf, encode, recordOf, type WaitingStep } from './journal.js'
import { keepBody } from './journal-cache.js'
import { cacheRow, isWorthKeeping, type Position, pathOf } from './position.js'
import {
  begin,
  charsOf,
  type Instance,
  newFlowOf,
  type Paused,
  publishStart,
  runBeside,
  type Segment,
} from './segment.js'
import type { CallStep, TangentStep } from './steps.js'

type Result<A> = Promise<E.Either<unknown, A>>

/** Stores the row of a segment that has come to the next page. */
export const stored = (
  position: Position,
  segment: Segment,
  paused: Paused,
  ending: readonly Instance[],
): Result<{ readonly to: string }> => {
  const before = beforeWaiting(segment, paused.step)
  if (before === undefined) return storedRow(position, segment, paused, ending)
  return before.then((done) => (E.isLeft(done) ? done : storedRow(position, segment, paused, ending)))
}

const newRow = ({ row, parentMade }: Position, { row: id, records }: Segment, step: WaitingStep): NewRow => ({
  id,
  parent: row,
  parentMade,
  step: step.name,
  records: records.map(recordOf),
  chars: charsOf(records),
  made: newIdempotencyKey(),
  cuts: step.kind === 'forward',
})

const storedRow = (
  position: Position,
  segment: Segment,
  { step, body }: Paused,
  ending: readonly Instance[],
): Result<{ readonly to: string }> => {
  const { instance, row } = segment
  const made = newRow(position, segment, step)
  if (position.size + made.chars > MAX_JOURNAL_CHARS)
    return Promise.resolve(E.left(new FlowFull(instance.flow.name, 'journal')))
  const session = sessionHere()
  if (E.isLeft(session)) return Promise.resolve(session)
  const { session: id, flow } = instance.key
  const to = pathOf(position.served, { flow, row })
  const writing = instance.isStored
    ? write(instance, made, ending, to)
    : writeFirst(instance, made, ending, to)
  return writing.then((written) => {
    if (E.isLeft(written)) return written
    publish('flowAdvanced', { id, flow, name: instance.flow.name, step: step.name })
    publishEnds(ending)
    cacheRow(position, made, segment.records, principalOf(session.right))
    if (body !== undefined && isWorthKeeping(position, step))
      keepBody(position.cached, { row, made: made.made, flow: instance.flow, body })
    return E.right({ to })
  })
}

/** Does what a step needs before the flow waits there: begins a called flow, or sends a token. */
const beforeWaiting = (segment: Segment, step: WaitingStep): Result<unknown> | undefined => {
  if (step.kind === 'call') return calling(segment, step)
  return step.kind === 'tangent' ? sending(segment, step) : undefined
}

/** Stores the first row of a flow that the store does not have. */
const writeFirst = async (
  instance: Instance,
  row: NewRow,
  ending: readonly Instance[],
  to: string,
): Result<unknown> => {
  const session = await storeCurrentSession()
  if (E.isLeft(session)) return session
  // The first row is stored together with the flow, unless the row has to be stored together with edits.
  if (session.right.edits.isEmpty() && !row.cuts) {
    const started = await instance.store.begin(instance.key, newFlowOf(instance), row)()
    if (E.isRight(started)) publishStart(instance, started.right)
    return started
  }
  const started = await begin(instance)
  return E.isLeft(started) ? started : write(instance, row, ending, to)
}

/** Stores a row and ends flows, together with the edits of the current session. */
export const write = (
  { key, generation, store }: Instance,
  row: NewRow | undefined,
  ending: readonly Instance[],
  to: string,
): Result<unknown> => {
  const session = sessionHere()
  if (E.isLeft(session)) return Promise.resolve(session)
  const principal = principalOf(session.right)
  const ends = ending.map((flow) => ({
    key: flow.key,
    seen: { generation: flow.generation, principal },
    to,
    made: newIdempotencyKey(),
  }))
  const rowWrite = row && { key, seen: { generation, principal }, row }
  return saveCurrentWith((change) => store.write({ session: key.session, row: rowWrite, ends, change }))()
}

export const publishEnds = (ending: readonly Instance[]): void => {
  for (const { key, flow } of ending)
    publish('flowEnded', { id: key.session, flow: key.flow, name: flow.name })
}

/** Begins the flow that a step calls. A repetition finds the flow. */
const calling = async ({ instance, row }: Segment, step: CallStep): Result<unknown> => {
  const started = await begin(instance)
  if (E.isLeft(started)) return started
  const called: Instance = {
    key: { ...instance.key, flow: calledIdOf(instance.seed, row) },
    flow: step.flow,
    store: instance.store,
    seed: randomBytes(16).toString('hex'),
    input: encode('input', step.flow.input, step.input),
    version: step.flow.version,
    principal: instance.principal,
    generation: 0,
    isStored: false,
    caller: { name: instance.flow.name, flow: instance.key.flow, row },
  }
  const result = await begin(called)
  return E.isLeft(result) && !(result.left instanceof SaveConflict) ? result : E.right(undefined)
}

/** Runs the task of a tangent that sends the token. */
const sending = async (segment: Segment, { task, name }: TangentStep<unknown>): Result<unknown> => {
  if (task === undefined) return E.right(undefined)
  const { key, seed } = segment.instance
  const token = answerTokenOf(seed, key.session, { flow: key.flow, row: segment.row })
  return runBeside(segment, `send ${name}`, () => task(token))
}
