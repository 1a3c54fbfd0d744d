// Answers a position of a flow: runs the segment after the answer, and stores the row. An equal answer leads to the same
// row, so a repeated request stores nothing new. If another request was first, the position is read again.

import { randomBytes } from 'node:crypto'
import { DecodeError, NoCurrentSession, SaveConflict } from '../core/errors.js'
import type { Json } from '../core/json.js'
import { E, O } from '../core/prelude.cjs'
import { dropEditsSince } from '../request/save-with.js'
import { chainHere, unprovenReason } from '../request/scope.js'
import { sessionHere } from '../request/with-session.js'
import type { Session } from '../store/contract.js'
import { MAX_ANSWERS, MAX_VALUE_CHARS } from '../store/flow-contract.js'
import { FlowBusy, FlowExpired, FlowFull } from './errors.js'
import {
  canonical,
  decode,
  type Entry,
  encode,
  isFresh,
  type Place,
  parseK,
  rowIdOf,
  type WaitingStep,
} from './journal.js'
import {
  cachedPosition,
  checkGuards,
  firstPosition,
  localPath,
  type Position,
  pathOf,
  type Rewound,
  readPosition,
  type ServedFlow,
  servedFlow,
} from './position.js'
import { publishEnds, stored, write } from './row.js'
import { secretDigest } from './secret-answer.js'
import { begin, type Instance, runSegment, type Segment, type SegmentEnd } from './segment.js'
import type { Codec } from './steps.js'

type Result<A> = Promise<E.Either<unknown, A>>

/** An answer that fits its step: the value to record, and the decoded value. */
export interface Fitting {
  readonly value: Json
  readonly decoded: unknown
  /** The codec that has decoded `value`. A decoded value with a secret has no such codec. */
  readonly codec?: Codec
}

/** Decodes the answer to a position. A `Left` is what the caller does without an answer. */
export type Give<M> = (position: Position) => E.Either<M, Fitting>

/** The path to which the answer leads, or what `Give` returned. */
export type AnswerResult<M> = { readonly to: string } | { readonly missed: M }

/** Makes the input of a flow that the store does not have, as JSON. `undefined` if the position must exist. */
export type Start = (() => Result<Json>) | undefined

const MAX_ATTEMPTS = 5

/** How a position is answered. */
interface Answering<M> {
  readonly start: Start
  readonly give: Give<M>
  /** Whether another request was first in an earlier attempt. */
  readonly repeated: boolean
  /** The called flows that end together with the answer. */
  readonly ending: readonly Instance[]
}

/** Answers a position of the current session. If the answer is refused, the session keeps no edit of it. */
export const answerAt = async <M>(
  flow: ServedFlow,
  place: Place,
  start: Start,
  give: Give<M>,
): Result<AnswerResult<M>> => {
  const scope = chainHere()?.scope
  if (scope === undefined) return E.left(new NoCurrentSession())
  const reason = unprovenReason(scope.session)
  if (reason !== undefined) return E.left(reason)
  scope.answers += 1
  try {
    return await answerAgain(flow, place, start, give)
  } finally {
    scope.answers -= 1
  }
}

const answerAgain = async <M>(
  flow: ServedFlow,
  place: Place,
  start: Start,
  give: Give<M>,
): Result<AnswerResult<M>> => {
  for (let attempt = 1; ; attempt += 1) {
    const session = sessionHere()
    if (E.isLeft(session)) return session
    const answering = { start, give, repeated: attempt > 1, ending: [] }
    const outcome = await answerOnce(flow, session.right, place, answering)
    if (E.isRight(outcome)) return outcome
    dropEditsSince(session.right)
    if (!(outcome.left instanceof SaveConflict && outcome.left.record === 'flow')) return outcome
    if (attempt === MAX_ATTEMPTS) return E.left(new FlowBusy(flow.flow.name, 'answer', 1000))
  }
}

// Most answers find their position in the cache, have no guards, and come to the next page at once. Each promise costs
// time, so the functions on this way are not `async`, and only the write makes promises.

const answerOnce = <M>(
  flow: ServedFlow,
  session: Session,
  place: Place,
  answering: Answering<M>,
): Result<AnswerResult<M>> => {
  const known = answering.repeated ? undefined : cachedPosition(flow, session, place)
  if (known?.replayed.guards.length === 0) return answerPosition(known, session, answering)
  return answerGuarded(known, flow, session, place, answering)
}

const answerGuarded = async <M>(
  known: Position | undefined,
  flow: ServedFlow,
  session: Session,
  place: Place,
  answering: Answering<M>,
): Result<AnswerResult<M>> => {
  const found =
    known === undefined ? await positionFor(flow, session, place, answering.start) : E.right(known)
  if (E.isLeft(found)) return found
  if ('to' in found.right) return E.right(found.right)
  const passed = await checkGuards(found.right)
  return E.isLeft(passed) ? passed : answerPosition(found.right, session, answering)
}

const answerPosition = <M>(
  position: Position,
  session: Session,
  answering: Answering<M>,
): Result<AnswerResult<M>> => {
  const given = answering.give(position)
  return E.isLeft(given)
    ? Promise.resolve(E.right({ missed: given.left }))
    : advanced(position, session, given.right, answering)
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
  if (place.row !== undefined || start === undefined || !isFresh(place.flow))
    return E.left(new FlowExpired('unknown', flow.flow.name))
  const input = await start()
  if (E.isLeft(input)) return input
  const seed = randomBytes(16).toString('hex')
  return E.right(firstPosition(flow, session, place.flow, { input: input.right, seed }))
}

type Advancing = Pick<Answering<unknown>, 'repeated' | 'ending'>

const advanced = (
  position: Position,
  session: Session,
  fitting: Fitting,
  advancing: Advancing,
): Result<{ readonly to: string }> => {
  const { seed, flow } = position.instance
  const text = canonical(fitting.value)
  const row = rowIdOf(seed, flow.version, position.row, digestOf(position, session, text, fitting.decoded))
  const mayBeMade = advancing.repeated || position.cut || position.answers >= MAX_ANSWERS
  const made = { row, entry: entryOfAnswer(position, fitting, text.length), answer: fitting.decoded }
  if (!mayBeMade) return advancedTo(made, position, session, advancing)
  return madeBefore(position, session, row).then((before) => {
    if (E.isLeft(before)) return before
    return before.right === undefined ? advancedTo(made, position, session, advancing) : E.right(before.right)
  })
}

/** An answer with its record and the id of its row. */
interface Made {
  readonly row: string
  readonly entry: Entry & { readonly chars: number }
  readonly answer: unknown
}

const advancedTo = (
  { row, entry, answer }: Made,
  position: Position,
  session: Session,
  advancing: Advancing,
): Result<{ readonly to: string }> => {
  const { instance } = position
  const limit = limitOf(position, entry.chars)
  if (limit !== undefined) return Promise.resolve(E.left(limit))
  const segment: Segment = {
    instance,
    row,
    session,
    before: position.journal,
    records: [entry],
    answer,
  }
  const onEnd = (end: E.Either<unknown, SegmentEnd>): Result<{ readonly to: string }> => {
    if (E.isLeft(end)) return Promise.resolve(end)
    return 'step' in end.right
      ? stored(position, segment, end.right, advancing.ending)
      : ended(position, session, end.right.result, advancing)
  }
  const end = runSegment(segment, position.replayed)
  return end instanceof Promise ? end.then(onEnd) : onEnd(end)
}

/** Returns the record of an answer. It keeps the decoded value, so that a replay need not decode it. */
const entryOfAnswer = (
  { step: { kind, name } }: Position,
  { value, decoded, codec }: Fitting,
  chars: number,
): Made['entry'] => {
  const known = codec && ({ codec, value: { _tag: 'Right', right: decoded } } as const)
  return { kind, name, value, chars, decoded: known }
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
  chars: number,
): FlowExpired | FlowFull | undefined => {
  if (cut) return new FlowExpired('cut', flow.name, latest())
  if (chars > MAX_VALUE_CHARS) return new FlowFull(flow.name, 'value')
  return answers >= MAX_ANSWERS ? new FlowFull(flow.name, 'answers') : undefined
}

/** Returns the text from which the id of the row is derived. */
const digestOf = ({ step }: Position, { token }: Session, text: string, decoded: unknown): string =>
  'once' in step && step.once ? '' : `${text} ${secretDigest(token, decoded)}`

/** Ends a flow. Its result goes to the caller, or to `done`, which returns the next path. */
const ended = async (
  { instance, served }: Position,
  session: Session,
  result: unknown,
  { repeated, ending }: Pick<Answering<unknown>, 'repeated' | 'ending'>,
): Result<{ readonly to: string }> => {
  const started = await begin(instance)
  if (E.isLeft(started)) return started
  const all = [...ending, instance]
  if (instance.caller !== undefined) return returned(instance, session, result, { repeated, ending: all })
  const to = await doneAt(served, result)
  if (E.isLeft(to)) return to
  const written = await write(instance, undefined, all, to.right)
  if (E.isLeft(written)) return written
  publishEnds(all)
  return E.right({ to: to.right })
}

const doneAt = async ({ done }: ServedFlow, result: unknown): Result<string> => {
  const to = await settled(done(result))
  return E.map((path: unknown) => localPath('done', path))(to)
}

/** Waits for a value, a promise or a task. */
export const settled = async (value: unknown): Result<unknown> => {
  const made = await value
  return typeof made === 'function' ? (made as () => Result<unknown>)() : E.right(made)
}

/** Gives the result of a called flow to its caller. The called flow ends together with the caller's next row. */
const returned = async (
  { flow: { name, result: codec }, caller }: Instance,
  session: Session,
  result: unknown,
  { repeated, ending }: Pick<Answering<unknown>, 'repeated' | 'ending'>,
): Result<{ readonly to: string }> => {
  if (codec === undefined || caller === undefined)
    throw new TypeError(`the flow ${name} has no codec \`result\``)
  const flow = servedFlow(caller.name)
  if (flow === undefined) return E.left(new FlowExpired('unknown', caller.name))
  const give: Give<readonly string[]> = ({ step }) =>
    step.kind === 'call'
      ? fitting(codec, encode('result', codec, result))
      : E.left([`${step.name} waits for no result`])
  const place = { flow: caller.flow, row: caller.row }
  return fits(
    caller.name,
    await answerOnce(flow, session, place, { start: undefined, give, repeated, ending }),
  )
}

/** Decodes a value that was encoded by the same codec. */
export const fitting = (codec: Codec, value: Json): E.Either<readonly string[], Fitting> =>
  E.map((decoded: unknown) => ({ value, decoded, codec }))(decode(codec, value))

/** Answers a position that waits for a value of the server. Returns the path of the next page. */
export const answerWaiting = async (
  name: string,
  k: string,
  give: (step: WaitingStep) => E.Either<readonly string[], Fitting>,
): Result<string> => {
  const [flow, place] = [servedFlow(name), O.toUndefined(parseK(k))]
  if (flow === undefined || place === undefined) return E.left(new FlowExpired('unknown', name))
  const outcome = await answerAt(flow, place, undefined, ({ step }) => give(step))
  return E.map(({ to }: { readonly to: string }) => to)(fits(name, outcome))
}

/** Turns an answer that does not fit into an error. */
const fits = (
  name: string,
  outcome: E.Either<unknown, AnswerResult<readonly string[]>>,
): E.Either<unknown, { readonly to: string }> => {
  if (E.isLeft(outcome)) return outcome
  return 'to' in outcome.right
    ? E.right(outcome.right)
    : E.left(new DecodeError(`the answer to ${name}`, outcome.right.missed))
}
