// Answers a position of a flow: runs the segment after the answer, and stores the row. An equal answer leads to the same
// row, so a repeated request stores nothing new. If another request was first, the position is read again.

import { randomBytes } from 'node:crypto'
import { DecodeError, SaveConflict } from '../core/errors.js'
import type { Json } from '../core/json.js'
import { E, O } from '../core/prelude.cjs'
import { newIdempotencyKey } from '../core/token.js'
import { dropEditsSince, saveCurrentWith, storeCurrentSession } from '../request/save-with.js'
import { currentSession } from '../request/with-session.js'
import type { Change, Session } from '../store/contract.js'
import { publish } from '../store/events.js'
import { MAX_ANSWERS, MAX_JOURNAL_CHARS, MAX_VALUE_CHARS, type NewRow } from '../store/flow-contract.js'
import { FlowBusy, FlowExpired, FlowFull } from './errors.js'
import {
  answerTokenOf,
  calledIdOf,
  canonical,
  decode,
  encode,
  kOf,
  type Place,
  parseK,
  recordOf,
  rowIdOf,
  type WaitingStep,
} from './journal.js'
import { addRows } from './journal-cache.js'
import {
  firstPosition,
  type Position,
  pathOf,
  principalOf,
  type Rewound,
  readPosition,
  type ServedFlow,
  servedFlow,
} from './position.js'
import { secretDigest } from './secret-answer.js'
import { begin, newFlowOf, publishStart, runBeside, runSegment, type Segment } from './segment.js'
import type { CallStep, Codec, TangentStep } from './steps.js'

type Result<A> = Promise<E.Either<unknown, A>>

/** An answer that fits its step: the value to record, and the decoded value. */
export interface Fitting {
  readonly value: Json
  readonly decoded: unknown
}

/** Decodes the answer to a position. A `Left` is what the caller does without an answer. */
export type Give<M> = (position: Position) => E.Either<M, Fitting>

/** The path to which the answer leads, or what `Give` returned. */
export type AnswerResult<M> = { readonly to: string } | { readonly missed: M }

/** Makes the input of a flow that the store does not have, as JSON. `undefined` if the position must exist. */
export type Start = (() => Result<Json>) | undefined

const MAX_ATTEMPTS = 5

/** Answers a position of the current session. */
export const answerAt = async <M>(
  flow: ServedFlow,
  place: Place,
  start: Start,
  give: Give<M>,
): Result<AnswerResult<M>> => {
  for (let attempt = 1; ; attempt += 1) {
    const session = await currentSession()
    if (E.isLeft(session)) return session
    const outcome = await answerOnce(flow, session.right, place, start, give, attempt > 1)
    const isConflict =
      E.isLeft(outcome) && outcome.left instanceof SaveConflict && outcome.left.record === 'flow'
    if (!isConflict) return outcome
    dropEditsSince(session.right)
    if (attempt === MAX_ATTEMPTS) return E.left(new FlowBusy(flow.flow.name, 'answer', 1000))
  }
}

const answerOnce = async <M>(
  flow: ServedFlow,
  session: Session,
  place: Place,
  start: Start,
  give: Give<M>,
  repeated: boolean,
): Result<AnswerResult<M>> => {
  const found = await positionFor(flow, session, place, start)
  if (E.isLeft(found)) return found
  if ('to' in found.right) return E.right(found.right)
  const position = found.right
  for (const { task } of position.replayed.guards) {
    const passed = await task()()
    if (E.isLeft(passed)) return passed
  }
  const given = give(position)
  if (E.isLeft(given)) return E.right({ missed: given.left })
  return advanced(position, session, given.right, repeated)
}

/** Reads a position. If the store does not have the flow, returns the position of the first page. */
export const positionFor = async (
  flow: ServedFlow,
  session: Session,
  place: Place,
  start: Start,
): Result<Position | Rewound> => {
  const found = O.isSome(session.snapshot) ? await readPosition(flow, session, place) : E.right(undefined)
  if (E.isLeft(found)) return found
  if (found.right !== undefined) return E.right(found.right)
  if (place.row !== undefined || start === undefined)
    return E.left(new FlowExpired('unknown', flow.flow.name))
  const input = await start()
  if (E.isLeft(input)) return input
  const seed = randomBytes(16).toString('hex')
  return E.right(firstPosition(flow, session, place.flow, { input: input.right, seed }))
}

const advanced = async (
  position: Position,
  session: Session,
  { value, decoded }: Fitting,
  repeated: boolean,
): Result<{ readonly to: string }> => {
  const { instance, step } = position
  const { flow, seed } = instance
  const row = rowIdOf(seed, flow.version, position.row, digestOf(position, session, { value, decoded }))
  const mayBeMade = repeated || position.cut || position.answers >= MAX_ANSWERS
  const before = mayBeMade ? await madeBefore(position, session, row) : E.right(undefined)
  if (E.isLeft(before)) return before
  if (before.right !== undefined) return E.right(before.right)
  const limit = limitOf(position, value)
  if (limit !== undefined) return E.left(limit)
  const segment: Segment = {
    ...{ instance, row, before: position.journal.entries },
    records: [{ kind: step.kind, name: step.name, value }],
  }
  const end = await runSegment(segment, position.replayed, position.replayed.running.next(decoded))
  if (E.isLeft(end)) return end
  return 'step' in end.right ? stored(position, segment, end.right.step) : ended(position, end.right.result)
}

/** Returns the path of a row if an equal answer has made it before, and the row can still be answered. */
const madeBefore = async (
  { served, instance: { key } }: Position,
  session: Session,
  row: string,
): Result<{ readonly to: string } | undefined> => {
  const place = { flow: key.flow, row }
  const done = await readPosition(served, session, place)
  if (E.isLeft(done))
    return done.left instanceof FlowExpired && done.left.reason === 'unknown' ? E.right(undefined) : done
  const isCut = done.right === undefined || ('cut' in done.right && done.right.cut)
  return E.right(isCut ? undefined : { to: pathOf(served, place) })
}

/** Returns the reason why a position cannot get this answer. */
const limitOf = (
  { cut, latest, answers, instance: { flow } }: Position,
  value: Json,
): FlowExpired | FlowFull | undefined => {
  if (cut) return new FlowExpired('cut', flow.name, latest)
  if (JSON.stringify(value).length > MAX_VALUE_CHARS) return new FlowFull(flow.name, 'value')
  return answers >= MAX_ANSWERS ? new FlowFull(flow.name, 'answers') : undefined
}

/** Returns the text from which the id of the row is derived. */
const digestOf = ({ step }: Position, { token }: Session, { value, decoded }: Fitting): string => {
  if ('once' in step && step.once) return ''
  return `${canonical(value)} ${secretDigest(token, decoded)}`
}

/** Stores the row of a segment that has come to the next page. */
const stored = async (
  position: Position,
  segment: Segment,
  step: WaitingStep,
): Result<{ readonly to: string }> => {
  const { instance, row } = segment
  const before =
    step.kind === 'call'
      ? await calling(segment, step)
      : step.kind === 'tangent'
        ? await sending(segment, step)
        : E.right(undefined)
  if (E.isLeft(before)) return before
  const made: NewRow = {
    ...{ id: row, parent: position.row, step: step.name, records: segment.records.map(recordOf) },
    ...{ made: newIdempotencyKey(), cuts: step.kind === 'forward' },
  }
  const chars = JSON.stringify(made.records).length
  if (position.size + chars > MAX_JOURNAL_CHARS) return E.left(new FlowFull(instance.flow.name, 'journal'))
  const written = await writeRow(instance, made)
  if (E.isLeft(written)) return written
  const { session: id, flow } = instance.key
  publish('flowAdvanced', { id, flow, name: instance.flow.name, step: step.name })
  const generation = instance.generation + (made.cuts ? 1 : 0)
  addRows(instance.key, position.cached, [{ ...made, generation }])
  return E.right({ to: pathOf(position.served, { flow: instance.key.flow, row }) })
}

const writeRow = async (instance: Segment['instance'], row: NewRow): Result<unknown> => {
  if (!instance.isStored) {
    const session = await storeCurrentSession()
    if (E.isLeft(session)) return session
    // The first row is stored together with the flow, unless the row has to be stored together with edits.
    if (session.right.edits.isEmpty() && !row.cuts) {
      const started = await instance.store.begin(instance.key, newFlowOf(instance), row)()
      if (E.isRight(started)) publishStart(instance, started.right)
      return started
    }
    const started = await begin(instance)
    if (E.isLeft(started)) return started
  }
  return writeWithSession(instance, (seen, change) => instance.store.advance(instance.key, seen, row, change))
}

type Write = (
  seen: Parameters<Segment['instance']['store']['advance']>[1],
  change: Change | undefined,
) => ReturnType<Segment['instance']['store']['advance']>

/** Writes to the flow, together with the edits of the current session. */
const writeWithSession = async ({ generation }: Segment['instance'], write: Write): Result<unknown> => {
  const session = await currentSession()
  if (E.isLeft(session)) return session
  return saveCurrentWith((change) => write({ generation, principal: principalOf(session.right) }, change))()
}

/** Begins the flow that a step calls. A repetition finds the flow. */
const calling = async ({ instance, row }: Segment, step: CallStep): Result<unknown> => {
  const started = await begin(instance)
  if (E.isLeft(started)) return started
  const called: Segment['instance'] = {
    ...{
      key: { ...instance.key, flow: calledIdOf(instance.seed, row) },
      flow: step.flow,
      store: instance.store,
    },
    ...{ seed: randomBytes(16).toString('hex'), input: encode('input', step.flow.input, step.input) },
    ...{ version: step.flow.version, principal: instance.principal, generation: 0, isStored: false },
    caller: callerOf(instance, row),
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

/** Writes the position of a `call` as the caller of the called flow. */
const callerOf = ({ key: { flow }, flow: { name } }: Segment['instance'], row: string): string =>
  `${kOf({ flow, row })} ${name}`

/** Ends a flow. Its result goes to the caller, or to `done`, which returns the next path. */
const ended = async (position: Position, result: unknown): Result<{ readonly to: string }> => {
  const { instance, served } = position
  const to = await (instance.caller === undefined
    ? doneAt(served, result)
    : returned(instance, instance.caller, result))
  if (E.isLeft(to)) return to
  const started = await begin(instance)
  if (E.isLeft(started)) return started
  const end = { to: to.right, made: newIdempotencyKey() }
  const written = await writeWithSession(instance, (seen, change) =>
    instance.store.end(instance.key, seen, end, change),
  )
  if (E.isLeft(written)) return written
  publish('flowEnded', { id: instance.key.session, flow: instance.key.flow, name: instance.flow.name })
  return E.right({ to: to.right })
}

const doneAt = async ({ done }: ServedFlow, result: unknown): Result<string> => {
  const made = await done(result)
  const to =
    typeof made === 'function' ? await (made as () => Promise<E.Either<unknown, unknown>>)() : E.right(made)
  return E.map((path: unknown) => localPath('done', path))(to)
}

/** Gives the result of a called flow to its caller, and returns the path of the caller's next page. */
const returned = (instance: Segment['instance'], caller: string, result: unknown): Result<string> => {
  const { name, result: codec } = instance.flow
  if (codec === undefined) throw new TypeError(`the flow ${name} has no codec \`result\``)
  return answerWaiting(caller.slice(caller.indexOf(' ') + 1), caller.split(' ')[0] ?? '', (step) =>
    step.kind === 'call'
      ? fitting(codec, encode('result', codec, result))
      : E.left(['the caller waits for no result']),
  )
}

/** Decodes a value that was encoded by the same codec. */
export const fitting = (codec: Codec, value: Json): E.Either<readonly string[], Fitting> =>
  E.map((decoded: unknown) => ({ value, decoded }))(decode(codec, value))

/** Answers a position that waits for a value of the server. Returns the path of the next page. */
export const answerWaiting = async (
  name: string,
  k: string,
  give: (step: WaitingStep) => E.Either<readonly string[], Fitting>,
): Result<string> => {
  const [flow, place] = [servedFlow(name), O.toUndefined(parseK(k))]
  if (flow === undefined || place === undefined) return E.left(new FlowExpired('unknown', name))
  const outcome = await answerAt(flow, place, undefined, ({ step }) => give(step))
  if (E.isLeft(outcome)) return outcome
  return 'to' in outcome.right
    ? E.right(outcome.right.to)
    : E.left(new DecodeError(`the answer to ${name}`, outcome.right.missed))
}

/** Returns a path of this site. Throws a `TypeError` for any other value, which could lead to another site. */
export const localPath = (what: string, path: unknown): string => {
  if (typeof path === 'string' && /^\/(?![/\\])[^\\\s]*$/.test(path)) return path
  throw new TypeError(
    `${what} returned ${JSON.stringify(path)}: it must be a path of this site, such as /cart`,
  )
}
