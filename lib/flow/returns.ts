// Answers tangents, from the session or from outside of it, and lists and drops the flows of a session.

import { randomUUID } from 'node:crypto'
import { DecodeError, type SessionError, type StoreError } from '../core/errors.js'
import { E, O, pipe, TE } from '../core/prelude.cjs'
import { unprovenReason } from '../request/scope.js'
import { currentSession } from '../request/with-session.js'
import type { Session, SessionStore } from '../store/contract.js'
import { type FlowHead, type FlowStore, MAX_VALUE_CHARS } from '../store/flow-contract.js'
import { answerWaiting, type Fitting, fitting } from './answer.js'
import { FlowChanged, type FlowError, FlowExpired, FlowFull } from './errors.js'
import {
  decode,
  describe,
  encode,
  isProofOf,
  isWaiting,
  kOf,
  parseAnswerToken,
  parseK,
  replay,
  type TokenPlace,
  type WaitingStep,
} from './journal.js'
import { addRows, cachedFlow, journalOf } from './journal-cache.js'
import { expiryOf, flowsIn, pathOf, servedFlow } from './position.js'
import type { Codec } from './steps.js'

type Result<A> = Promise<E.Either<unknown, A>>

/** Encodes the answer to a tangent. The answer is a value of the codec's type, or its JSON. */
const encoded = (codec: Codec, answer: unknown): E.Either<readonly string[], Fitting> => {
  const value = codec.is(answer) ? E.right(answer) : decode(codec, answer)
  return E.isLeft(value) ? value : fitting(codec, encode('answer', codec, value.right))
}

const tangentAnswer =
  (answer: unknown) =>
  (step: WaitingStep): E.Either<readonly string[], Fitting> =>
    step.kind === 'tangent'
      ? encoded(step.codec, answer)
      : E.left([`${step.name} waits for no value of the server`])

/** The path to which the visitor is redirected with the status 303. */
export interface Returned {
  readonly to: string
}

/**
 * Answers a tangent of the current session, and returns the path of the flow's next page. `k` is the value that the
 * tangent passed to `to`. `answer` is a value of the tangent's type, or its JSON.
 *
 * @throws as a `Left`: `FlowExpired` for an unknown `k`, `DecodeError` for an answer that does not fit, and the errors of
 * the tasks that follow in the flow
 *
 * @example
 * ```ts
 * import { returnFrom } from 'keyrow/flow'
 * import { buildSession, withSession } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const back = withSession(buildSession(memoryStore()), () => returnFrom('AAAAAAAAAAAAAAAAAAAAAA', 'ada'))
 * console.log((await back())._tag) // Left
 * ```
 */
export const returnFrom = (k: string, answer: unknown): TE.TaskEither<FlowError | SessionError, Returned> => {
  const returning = async (): Result<Returned> => {
    const name = await nameOf(k)
    if (E.isLeft(name)) return name
    return E.map((to: string) => ({ to }))(await answerWaiting(name.right, k, tangentAnswer(answer)))
  }
  return returning as TE.TaskEither<FlowError | SessionError, Returned>
}

/** Returns the name of the flow to which `k` belongs in the current session. */
const nameOf = async (k: string): Promise<E.Either<FlowExpired | SessionError, string>> => {
  const session = await currentSession()
  if (E.isLeft(session)) return session
  const place = O.toUndefined(parseK(k))
  if (place === undefined || O.isNone(session.right.snapshot))
    return E.left(new FlowExpired('unknown', 'of this page'))
  const key = { session: session.right.id, flow: place.flow }
  return pipe(
    await flowsIn(session.right).read(key, undefined, [])(),
    E.chainW(
      O.match(
        () => E.left(new FlowExpired('unknown', 'of this page')),
        ({ head }) => E.right(head.name),
      ),
    ),
  )
}

/**
 * Answers a tangent from outside of its session, for example from a link in a mail that is opened on another device.
 * `token` is the token that the tangent's option `send` got. A token can be used once. The flow goes on when the visitor
 * posts to the flow's URL in the session. Use this function in the handler of a POST, since mail programs open links.
 *
 * @throws as a `Left`: `FlowExpired` for an unknown, expired or used token, `DecodeError` for an answer that does not fit
 */
export const answerByToken = (
  store: SessionStore,
  token: string,
  answer: unknown,
): TE.TaskEither<FlowError | SessionError, void> => {
  const { flows } = store
  if (flows === undefined) throw new TypeError('this store has no flows')
  const answering = async (): Result<void> => {
    const found = await tangentOf(flows, token)
    if (E.isLeft(found)) return found
    const { place, head, step } = found.right
    const value = tangentAnswer(answer)(step)
    if (E.isLeft(value)) return E.left(new DecodeError(`the answer to ${step.name}`, value.left))
    if (JSON.stringify(value.right.value).length > MAX_VALUE_CHARS)
      return E.left(new FlowFull(head.name, 'value'))
    const { session, flow, row: scope } = place
    const key = { session, flow, scope, name: 'keyrow:answer', occurrence: 0 }
    const claim = { ...key, claim: randomUUID(), claimMs: 1000 }
    const claimed = await flows.claim(claim, head.generation)()
    if (E.isLeft(claimed)) return claimed
    if (claimed.right !== 'claimed') return E.left(new FlowExpired('used', head.name))
    const recorded = await flows.record(claim, value.right.value, 0)()
    return E.isRight(recorded) && !recorded.right
      ? E.left(new FlowExpired('used', head.name))
      : E.map(() => undefined)(recorded)
  }
  return answering as TE.TaskEither<FlowError | SessionError, void>
}

/** A tangent, and the flow in which it waits. */
interface FoundTangent {
  readonly place: TokenPlace
  readonly head: FlowHead
  readonly step: WaitingStep
}

/** Returns the tangent that a token answers. */
const tangentOf = async (flows: FlowStore, token: string): Result<FoundTangent> => {
  const place = O.toUndefined(parseAnswerToken(token))
  const unknown = E.left(new FlowExpired('unknown', 'of this token'))
  if (place === undefined) return unknown
  const read = await flows.read({ session: place.session, flow: place.flow }, place.row, [])()
  if (E.isLeft(read)) return read
  if (O.isNone(read.right) || !isProofOf(read.right.value.head.seed, place)) return unknown
  const { head, rows, generation } = read.right.value
  const served = servedFlow(head.name)
  if (served === undefined) return unknown
  const expired = expiryOf(served, head.principal, place, read.right.value)
  if (expired !== undefined) return E.left(expired)
  if (generation !== head.generation) return E.left(new FlowExpired('cut', head.name))
  const cached = cachedFlow(place)
  addRows(cached, rows, head)
  return pipe(
    replay(served.flow, head.input, head.version, journalOf(cached, place.row).entries),
    E.chain(({ next }) =>
      !next.done && isWaiting(next.value)
        ? E.right({ place, head, step: next.value })
        : E.left(new FlowChanged(head.name, 0, 'a tangent', next.done ? 'its end' : describe(next.value))),
    ),
  )
}

/** A flow of a session that can be answered. */
export interface RunningFlow {
  readonly name: string
  /** The step at which the flow is, or `undefined` at its first page. */
  readonly step: string | undefined
  readonly answers: number
  /** The time of the last answer, in milliseconds since 1970. */
  readonly usedAt: number
  /** Identifies the page at which the flow is. */
  readonly k: string
  /** The path of this page, if this process serves the flow. */
  readonly path: string | undefined
}

/**
 * Returns the flows of a session that can be answered, the most recently used first.
 *
 * @example
 * ```ts
 * import { buildSession, saveSession, sessionSet } from 'keyrow'
 * import { flowsOf } from 'keyrow/flow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const session = sessionSet('theme', 'dark')(buildSession(memoryStore()))
 * await saveSession(session)()
 * console.log(await flowsOf(session)()) // { _tag: 'Right', right: [] }
 * ```
 */
export const flowsOf = (session: Session): TE.TaskEither<StoreError, readonly RunningFlow[]> =>
  pipe(
    flowsIn(session).list(session.id),
    TE.map((flows) =>
      flows.map(({ id, name, step, latest, answers, usedAt }) => {
        const place = { flow: id, row: latest }
        const served = servedFlow(name)
        return { name, step, answers, usedAt, k: kOf(place), path: served && pathOf(served, place) }
      }),
    ),
  )

/** Deletes the flow of the current session to which `k` belongs. An unknown `k` changes nothing. */
export const dropFlow = (k: string): TE.TaskEither<SessionError, void> =>
  pipe(
    currentSession,
    TE.chainW((session): TE.TaskEither<SessionError, void> => {
      const [place, reason] = [parseK(k), unprovenReason(session)]
      if (reason !== undefined) return TE.left(reason)
      return O.isNone(place)
        ? TE.right(undefined)
        : flowsIn(session).drop({ session: session.id, flow: place.value.flow })
    }),
  )
