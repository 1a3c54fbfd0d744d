// Runs the body of a flow on a journal, without any effect. Derives the ids of rows, the keys of effects and the tokens
// of tangents.

import { createHmac, timingSafeEqual } from 'node:crypto'
import { deepFreeze, type Json } from '../core/json.js'
import { type AnyKey, encodeValue, problemsOf } from '../core/key.js'
import { E, O } from '../core/prelude.cjs'
import { type SessionId, sha256 } from '../core/token.js'
import type { JournalRecord } from '../store/flow-contract.js'
import { FlowChanged } from './errors.js'
import type {
  AnyFlow,
  CallStep,
  Codec,
  DispatchStep,
  GuardStep,
  PageStep,
  Step,
  TangentStep,
} from './steps.js'

/** A record of a journal. The decoded value is kept, since the same record is replayed again and again. */
export interface Entry {
  readonly kind: string
  readonly name: string
  readonly value: Json
  /** The number of characters of the value as JSON, if it is known. */
  readonly chars?: number
  decoded?: Decoded | undefined
}

/** A value that was decoded from its JSON, and the codec. */
interface Decoded {
  readonly codec: Codec
  readonly value: E.Right<unknown>
}

export const entryOf = ([kind, name, value]: JournalRecord): Entry => ({ kind, name, value })

export const recordOf = ({ kind, name, value }: Entry): JournalRecord => [kind, name, value]

/** A step that ends a segment. The flow then waits for an answer. */
export type WaitingStep = PageStep | DispatchStep | TangentStep<unknown> | CallStep

export const isWaiting = (step: Step<unknown>): step is WaitingStep =>
  ['suspend', 'forward', 'dispatch', 'tangent', 'call'].includes(step.kind)

type Running = Generator<Step<unknown>, unknown>

/** The state of a body after a journal. */
export interface Replayed {
  readonly running: Running
  /** The step after the journal, or the result. */
  readonly next: IteratorResult<Step<unknown>, unknown>
  /** The guards that were passed. The request must run them. */
  readonly guards: readonly GuardStep<unknown>[]
}

export const describe = ({ kind, name }: { readonly kind: string; readonly name: string }): string =>
  `${kind} '${name}'`

export const isEffect = ({ kind }: { readonly kind: string }): boolean =>
  kind === 'effect' || kind === 'once' || kind === 'transaction'

/** Decodes a chosen form of a `dispatch`, which is recorded with its tag. */
const decodeChoice = ({ choices }: DispatchStep, value: Json): E.Either<readonly string[], unknown> => {
  const { tag, value: chosen } = value as { readonly tag: string; readonly value: Json }
  const codec = Object.hasOwn(choices, tag) ? choices[tag] : undefined
  if (codec === undefined) return E.left([`there is no choice ${tag}`])
  return E.map((decoded: unknown) => deepFreeze({ tag, value: decoded }))(decode(codec, chosen))
}

/** Decodes a value with a codec, and freezes the result. */
export const decode = (codec: Codec, value: unknown): E.Either<readonly string[], unknown> => {
  const decoded = codec.decode(value)
  return E.isLeft(decoded) ? E.left(problemsOf(decoded.left)) : E.right(deepFreeze(decoded.right))
}

/** Encodes a value as JSON. Throws an `EncodeError` if the value does not fit the codec. */
export const encode = (name: string, codec: Codec, value: unknown): Json =>
  encodeValue({ name, codec } satisfies AnyKey, value)

/** Returns the decoded value of a record for a step. */
export const valueFor = (step: Step<unknown>, entry: Entry): E.Either<readonly string[], unknown> => {
  if (step.kind === 'dispatch') return decodeChoice(step, entry.value)
  if (!('codec' in step)) return E.right(undefined)
  if (entry.decoded?.codec === step.codec) return entry.decoded.value
  const value = decode(step.codec, entry.value)
  if (E.isRight(value)) entry.decoded = { codec: step.codec, value }
  return value
}

/** Starts the body of a flow, with its input as JSON. */
const started = (flow: AnyFlow, input: Json): E.Either<FlowChanged, Running> => {
  const decoded = decode(flow.input, input)
  return E.isLeft(decoded)
    ? E.left(
        new FlowChanged(flow.name, 0, `an input that does not fit (${decoded.left.join('; ')})`, 'its input'),
      )
    : E.right(flow.body(decoded.right))
}

/**
 * Runs the body on a journal. Nothing else is run. Fails with `FlowChanged` at the first record that does not fit.
 * `begunBy` is the version that began the instance.
 */
export const replay = (
  flow: AnyFlow,
  input: Json,
  begunBy: number,
  journal: readonly Entry[],
): E.Either<FlowChanged, Replayed> => {
  const body = started(flow, input)
  if (E.isLeft(body)) return body
  const running = body.right
  const guards: GuardStep<unknown>[] = []
  let next = running.next()
  let used = 0
  while (!next.done) {
    const step = next.value
    const entry = journal[used]
    if (step.kind === 'guard') guards.push(step)
    else if (step.kind !== 'since') {
      if (entry === undefined) return E.right({ running, next, guards })
      used += 1
    }
    const value = valueIn(step, entry, begunBy)
    if (E.isLeft(value)) return E.left(new FlowChanged(flow.name, used - 1, value.left, describe(step)))
    next = running.next(value.right)
  }
  const unused = journal[used]
  return unused === undefined
    ? E.right({ running, next, guards })
    : E.left(new FlowChanged(flow.name, used, describe(unused), 'nothing more'))
}

/** Returns the value of a step. If the next record does not belong to the step, returns a description of the record. */
const valueIn = (
  step: Step<unknown>,
  entry: Entry | undefined,
  begunBy: number,
): E.Either<string, unknown> => {
  if (step.kind === 'since') return E.right(begunBy >= step.version)
  if (step.kind === 'guard' || entry === undefined) return E.right(undefined)
  if (step.kind !== entry.kind || step.name !== entry.name) return E.left(describe(entry))
  const value = valueFor(step, entry)
  return E.isRight(value)
    ? value
    : E.left(`${describe(entry)} with a value that does not fit (${value.left.join('; ')})`)
}

const bytesOf = (uuid: string): Buffer => Buffer.from(uuid.replaceAll('-', ''), 'hex')

const uuidOf = (bytes: Buffer): string => uuidOfHex(bytes.toString('hex'))

/** Returns the first 128 bits as a UUID. */
const uuidOfHex = (hex: string): string =>
  `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20, 32)}`

const shortOf = (uuid: string): string => bytesOf(uuid).toString('base64url')

/** The position of a page: a flow, and the row whose page is meant, or `undefined` for the first page. */
export interface Place {
  readonly flow: string
  readonly row: string | undefined
}

/** Writes a position as the parameter `k` of a URL. */
export const kOf = ({ flow, row }: Place): string =>
  row === undefined ? shortOf(flow) : `${shortOf(flow)}.${shortOf(row)}`

const K = /^([\w-]{21}[AQgw])(?:\.([\w-]{21}[AQgw]))?$/

export const parseK = (k: string): O.Option<Place> => {
  const [, flow, row] = K.exec(k) ?? []
  if (flow === undefined) return O.none
  const uuid = (text: string): string => uuidOf(Buffer.from(text, 'base64url'))
  return O.some({ flow: uuid(flow), row: row === undefined ? undefined : uuid(row) })
}

/** Writes JSON with the members of each object in order. So equal values have equal texts. */
export const canonical = (value: Json): string => JSON.stringify(ordered(value))

const ordered = (value: Json): Json => {
  if (typeof value !== 'object' || value === null) return value
  if (Array.isArray(value)) return (value as readonly Json[]).map(ordered)
  const members = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1))
  return Object.fromEntries(members.map(([name, member]) => [name, ordered(member)] as const))
}

const derived = (seed: string, ...parts: readonly (string | number)[]): Buffer =>
  createHmac('sha256', Buffer.from(seed, 'hex')).update(JSON.stringify(parts)).digest()

/**
 * Derives the id of a row from its parent and the answer. So the same answer makes the same row. The version of the
 * definition is a part of the id, since the effects after the answer may differ.
 */
// The seed is a key: nobody else can compute the id. A hash with a key in front is safe here, since an id has only half
// of the bits of the hash, so no one can compute the hash of a longer text from an id. An HMAC of Node.js takes 17 µs more.
export const rowIdOf = (seed: string, version: number, parent: string | undefined, answer: string): string =>
  uuidOfHex(sha256(`${seed} row ${String(version)} ${parent ?? ''} ${answer}`))

/**
 * Derives the id of the flow that is called at a row. It is a UUID of version 8. The other flows have random ids, which
 * are of version 4. So a called flow that is missing is not begun by a visitor.
 */
export const calledIdOf = (seed: string, row: string): string => {
  const id = uuidOf(derived(seed, 'call', row))
  return `${id.slice(0, 14)}8${id.slice(15)}`
}

/** Whether a visitor may begin the flow with this id. */
export const isFresh = (flow: string): boolean => flow[14] === '4'

/** Derives the idempotency key that the task of an effect gets. */
export const effectKeyOf = (seed: string, scope: string, name: string, occurrence: number): string =>
  derived(seed, 'effect', scope, name, occurrence).toString('base64url')

/** The position of a tangent that a token answers. */
export interface TokenPlace extends Place {
  readonly session: SessionId
  readonly row: string
  readonly proof: string
}

const proofOf = (seed: string, row: string): string => derived(seed, 'token', row).toString('base64url')

/** Makes the token that answers a tangent from outside of its session. */
export const answerTokenOf = (
  seed: string,
  session: SessionId,
  { flow, row }: Place & { readonly row: string },
): string => [shortOf(session), shortOf(flow), shortOf(row), proofOf(seed, row)].join('.')

export const parseAnswerToken = (token: string): O.Option<TokenPlace> => {
  const [, session = '', k = '', proof] =
    /^([\w-]{21}[AQgw])\.([\w-]{22}\.[\w-]{22})\.([\w-]{43})$/.exec(token) ?? []
  const place = O.toUndefined(parseK(k))
  if (proof === undefined || place?.row === undefined) return O.none
  const id = uuidOf(Buffer.from(session, 'base64url')) as SessionId
  return O.some({ session: id, flow: place.flow, row: place.row, proof })
}

export const isProofOf = (seed: string, { row, proof }: TokenPlace): boolean =>
  timingSafeEqual(Buffer.from(proofOf(seed, row)), Buffer.from(proof))
