// Serves a flow over HTTP. A GET shows the page of a position, and stores nothing. A POST answers the page, and redirects
// to the next page. So a reload never sends a form again.

import { randomUUID } from 'node:crypto'
import { EncodeError, type SessionError } from '../core/errors.js'
import { E, type TE } from '../core/prelude.cjs'
import { type CheckedRequest, isUnsafe, senderOf, verifyCsrf } from '../http/csrf.js'
import type { RequestRejected } from '../http/errors.js'
import { storeCurrentSession } from '../request/save-with.js'
import { currentRequest } from '../request/scope.js'
import { currentSession } from '../request/with-session.js'
import { publish } from '../store/events.js'
import { answerAt, type Fitting, fitting, positionFor, type Start, settled } from './answer.js'
import { FlowChanged, type FlowError, FlowExpired } from './errors.js'
import { calledIdOf, decode, encode, kOf, type Place, parseK } from './journal.js'
import {
  checkGuards,
  localPath,
  type Position,
  pathOf,
  type ServedFlow,
  serve,
  servedFlow,
} from './position.js'
import { decodeAnswer, hasSecrets, lacksSecret, withoutSecrets } from './secret-answer.js'
import type {
  AnyFlow,
  Codec,
  DispatchStep,
  Flow,
  Html,
  Page,
  PageStep,
  Rendered,
  Reply,
  TangentStep,
} from './steps.js'

/** A request to a flow. The framework's handler passes the parsed form as `body`. */
export interface FlowRequest extends CheckedRequest {
  readonly method: string
  /** The path and the query. */
  readonly url: string
  readonly body: unknown
}

/** A value, or a promise or a task of the value. */
export type Eventually<A> = A | Promise<A> | TE.TaskEither<unknown, A>

export interface FlowOptions<I, A> {
  /** The path at which the flow is served, such as `/checkout`. */
  readonly at: string
  /** Returns the input of a new instance. The input is stored with the first answer. */
  readonly start: (request: FlowRequest) => Eventually<I>
  /** Returns the path to which the visitor is redirected after the end of the flow. */
  readonly done: (result: A) => Eventually<string>
  /** Returns the response to a request for a page that can no longer be used. `expired.given` is what was posted. */
  readonly onExpired?: (expired: FlowExpired, request: FlowRequest) => Rendered
  /**
   * Whether the first page stores the session of a visitor who has none. It is needed if the first answer has effects or
   * edits: two equal first answers of a visitor without a session would be two sessions. Default: false.
   */
  readonly storeSession?: boolean
}

/** Handles the requests to a flow. The framework's adapter must have made a current session. */
export type FlowHandler<L> = (
  request: FlowRequest,
) => TE.TaskEither<L | FlowError | SessionError | RequestRejected, Reply>

/**
 * Makes the handler of a flow. A handler for each framework is made from it: `nodeFlow`, `expressFlow`, `fastifyFlow`,
 * `koaFlow`, `honoFlow` and `fetchFlow`. Flows are found by their name, so serve each flow once.
 *
 * @throws `TypeError` for a path that is no path of this site
 *
 * @example
 * ```ts
 * import * as t from 'io-ts'
 * import { flow, flowHandler, suspend } from 'keyrow/flow'
 * import { buildSession, withSession } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const survey = flow({ name: 'survey', input: t.type({}) }, function* () {
 *   yield* suspend('tea', t.type({ tea: t.string }), ({ url }) => `<form method="post" action="${url}">…</form>`)
 * })
 * const handler = flowHandler(survey, { at: '/survey', start: () => ({}), done: () => '/thanks' })
 * const url = '/survey?k=AAAAAAAAQACAAAAAAAAACg'
 * const request = { method: 'GET', url, headers: {}, body: undefined }
 * const reply = await withSession(buildSession(memoryStore()), () => handler(request))()
 * console.log(reply._tag === 'Right' && reply.right.status) // 200
 * ```
 */
export const flowHandler = <I, A, L>(flow: Flow<I, A, L>, options: FlowOptions<I, A>): FlowHandler<L> => {
  const { at, start, done, onExpired, storeSession = false } = options
  if (/[?#]/.test(at))
    throw new TypeError(`at is ${JSON.stringify(at)}: it must have no query and no fragment`)
  const known: ServedFlow = {
    flow,
    at: localPath('at', at),
    done: done as (result: unknown) => unknown,
  }
  serve(known)
  const startOf =
    (request: FlowRequest): Start =>
    async () =>
      E.map((input: unknown) => encode('input', flow.input, input))(await settled(start(request)))
  return (request) => () => {
    const answer = METHODS[request.method]
    if (answer === undefined) return Promise.resolve(E.right(NOT_ALLOWED))
    return answer(known, request, startOf(request), storeSession).then((reply) =>
      E.isLeft(reply) ? rejected(known, request, reply.left, onExpired) : reply,
    ) as Promise<E.Either<never, Reply>>
  }
}

type Result<A> = Promise<E.Either<unknown, A>>

const NOT_ALLOWED: Reply = { status: 405, headers: { Allow: 'GET, HEAD, POST' }, body: '' }

const queryOf = ({ url }: FlowRequest): URLSearchParams =>
  new URLSearchParams(url.split('?').slice(1).join('?'))

/** Returns the query of the first page, without keyrow's own parameters. `start` gets it again with the answer. */
const ownQuery = (request: FlowRequest): string => {
  const query = queryOf(request)
  for (const name of ['k', 'choice', 's']) query.delete(name)
  return query.size === 0 ? '' : `&${query.toString()}`
}

/** Returns the position that a request names. Without `k`, a new flow begins. */
const placeOf = ({ flow }: ServedFlow, query: URLSearchParams): E.Either<FlowExpired, Place> => {
  const k = query.get('k')
  if (k === null) return E.right({ flow: randomUUID(), row: undefined })
  return E.fromOption(() => new FlowExpired('unknown', flow.name))(parseK(k))
}

const get = async (
  flow: ServedFlow,
  request: FlowRequest,
  start: Start,
  storeSession: boolean,
): Result<Reply> => {
  const query = queryOf(request)
  const place = placeOf(flow, query)
  if (E.isLeft(place)) return place
  // The first page gets a URL of its own. So the page is the same when the browser fetches it again after Back.
  if (!query.has('k')) return E.right(seeOther(pathOf(flow, place.right) + ownQuery(request)))
  const session = storeSession ? await storeCurrentSession() : await currentSession()
  if (E.isLeft(session)) return session
  const found = await positionFor(flow, session.right, place.right, start)
  if (E.isLeft(found)) return found
  if ('to' in found.right) return E.right(seeOther(found.right.to))
  if (found.right.cut) return E.left(new FlowExpired('cut', flow.flow.name, found.right.latest()))
  const passed = await checkGuards(found.right)
  if (E.isLeft(passed)) return passed
  return shown(found.right, request, undefined)
}

/** An answer that does not fit: the reasons, and the form to which it was posted. */
interface Misfit {
  readonly position: Position
  readonly problems: readonly string[]
  readonly given: unknown
  readonly tag: string | undefined
}

const post = async (flow: ServedFlow, request: FlowRequest, start: Start): Result<Reply> => {
  const query = queryOf(request)
  const place = placeOf(flow, query)
  if (E.isLeft(place)) return place
  const { csrf, answer } = fieldsOf(request.body)
  if (!isFromOwnPage(request, place.right)) {
    const accepted = await verifyCsrf(request, csrf)()
    if (E.isLeft(accepted)) return accepted
  }
  const tag = query.get('choice') ?? undefined
  const outcome = await answerAt<Misfit>(flow, place.right, start, (position) =>
    posted(position, answer, tag),
  )
  if (E.isLeft(outcome)) return outcome
  return 'to' in outcome.right
    ? E.right(seeOther(outcome.right.to))
    : shown(outcome.right.missed.position, request, outcome.right.missed)
}

/** Returns the fields of a form, and the token in its field `csrf`. */
const fieldsOf = (body: unknown): { readonly csrf: unknown; readonly answer: unknown } => {
  if (typeof body !== 'object' || body === null || Array.isArray(body))
    return { csrf: undefined, answer: body ?? {} }
  const { csrf, ...answer } = body as { readonly csrf?: unknown }
  return { csrf, answer }
}

// A page of another origin cannot know the id of a row. So a form for a row needs no token if the browser does not say
// from which page the form comes.
const isFromOwnPage = (request: FlowRequest, { row }: Place): boolean => {
  const sender = senderOf(request, currentRequest()?.origin ?? { secure: false })
  return sender === 'same-origin' || (row !== undefined && (sender === 'unknown' || sender === 'none'))
}

/** Decodes a posted answer. */
const posted = (position: Position, answer: unknown, tag: string | undefined): E.Either<Misfit, Fitting> => {
  const { step, given } = position
  const misfit = (problems: readonly string[], shown?: unknown): Misfit => ({
    position,
    problems,
    given: shown,
    tag,
  })
  const missed = (...parts: Parameters<typeof misfit>): E.Either<Misfit, never> => E.left(misfit(...parts))
  if (step.kind === 'call') return missed([])
  // Only the server answers a tangent. The visitor's POST goes on with an answer that was given by a token.
  if (step.kind === 'tangent')
    return given === undefined ? missed([]) : E.mapLeft(misfit)(fitting(step.codec, given))
  const codec = step.kind === 'dispatch' ? choiceOf(step, tag) : step.codec
  if (codec === undefined) return missed([`there is no choice ${tag ?? ''}`])
  const [fitted, secrets] = decodeAnswer(() => fittingPosted(step.name, codec, answer))
  if (E.isLeft(fitted)) return missed(fitted.left, withoutSecrets(answer, secrets))
  return step.kind === 'dispatch' ? E.right(chosen(tag, fitted.right)) : fitted
}

const chosen = (tag = '', { value, decoded }: Fitting): Fitting => ({
  value: { tag, value },
  decoded: Object.freeze({ tag, value: decoded }),
})

// The first request gets the same value as later requests, which decode what is stored. Only secrets are not stored.
const fittingPosted = (name: string, codec: Codec, answer: unknown): E.Either<readonly string[], Fitting> => {
  const decoded = decode(codec, answer)
  if (E.isLeft(decoded)) return decoded
  if (lacksSecret(decoded.right)) return E.left(['a secret is missing'])
  try {
    const value = encode(name, codec, decoded.right)
    return hasSecrets(codec) ? E.right({ value, decoded: decoded.right }) : fitting(codec, value)
  } catch (error) {
    // PostgreSQL cannot store some texts, for example with U+0000.
    if (error instanceof EncodeError) return E.left([error.reason])
    throw error
  }
}

const choiceOf = ({ choices }: DispatchStep, tag = ''): Codec | undefined =>
  Object.hasOwn(choices, tag) ? choices[tag] : undefined

/** Shows the page of a position, or redirects to the path at which the server waits for a value. */
const shown = async (position: Position, request: FlowRequest, missed: Misfit | undefined): Result<Reply> => {
  const { step, served, instance, row } = position
  const place = { flow: instance.key.flow, row }
  if (step.kind === 'tangent' && position.given === undefined)
    return E.right(seeOther(localPath('to', step.to(kOf(place)))))
  if (step.kind === 'call') return E.right(seeOther(calledPath(position, step.flow)))
  const url = pathOf(served, place) + (row === undefined ? ownQuery(request) : '')
  const made = await settled(pageOf(step, url, missed))
  return E.map((html: unknown) => replyOf(html as Html, missed === undefined ? 200 : 422))(made)
}

const pageOf = (
  step: PageStep | DispatchStep | TangentStep<unknown>,
  url: string,
  missed: Misfit | undefined,
): Rendered => {
  if (step.kind === 'tangent') return (step.page ?? continuePage)({ url })
  const at = (codec: Codec, suffix = '', isMissed = true): Page => ({
    url: `${url}${suffix}${hasSecrets(codec) ? '&s=1' : ''}`,
    problems: isMissed ? (missed?.problems ?? []) : [],
    given: isMissed ? objectOf(missed?.given) : {},
  })
  if (step.kind !== 'dispatch') return step.page(at(step.codec))
  const pages = Object.entries(step.choices).map(
    ([tag, codec]) => [tag, at(codec, `&choice=${encodeURIComponent(tag)}`, tag === missed?.tag)] as const,
  )
  return step.page(Object.fromEntries(pages))
}

const objectOf = (given: unknown): Readonly<Record<string, unknown>> =>
  typeof given === 'object' && given !== null ? (given as Readonly<Record<string, unknown>>) : {}

const calledPath = ({ instance, row }: Position, called: AnyFlow): string => {
  const flow = servedFlow(called.name)
  if (flow === undefined) throw new TypeError(`the flow ${called.name} is called, but it has no handler`)
  return pathOf(flow, { flow: calledIdOf(instance.seed, row ?? ''), row: undefined })
}

const seeOther = (location: string): Reply => ({ status: 303, headers: { Location: location }, body: '' })

/** The headers of each page. A page's URL is of no use without the cookie, and still no other site gets it. */
const PAGE_HEADERS = {
  'Content-Type': 'text/html; charset=utf-8',
  'Cache-Control': 'no-store',
  'Referrer-Policy': 'same-origin',
}

const replyOf = (html: Html, status: number): Reply =>
  typeof html === 'string'
    ? { status, headers: PAGE_HEADERS, body: html }
    : { ...html, status: html.status === 200 ? status : html.status, headers: withDefaults(html.headers) }

/** Adds the default headers that a page does not have. */
const withDefaults = (own: Reply['headers']): Reply['headers'] => {
  const names = new Set(Object.keys(own).map((name) => name.toLowerCase()))
  const missing = Object.entries(PAGE_HEADERS).filter(([name]) => !names.has(name.toLowerCase()))
  return { ...Object.fromEntries(missing), ...own }
}

const METHODS: Readonly<Record<string, typeof get>> = { GET: get, HEAD: get, POST: post }

/** Responds to a request for a page that cannot be used. Any other failure fails the request. */
const rejected = async (
  { flow, at }: ServedFlow,
  request: FlowRequest,
  failure: unknown,
  onExpired: FlowOptions<never, never>['onExpired'],
): Result<Reply> => {
  if (failure instanceof FlowChanged) publish('flowRejected', { name: flow.name, reason: 'changed' })
  if (!(failure instanceof FlowExpired)) return E.left(failure)
  const { reason, latest } = failure
  publish('flowRejected', { name: flow.name, reason })
  // A repeated last answer leads to where the first one has led.
  if (latest !== undefined && (reason === 'finished' || !isUnsafe(request))) return E.right(seeOther(latest))
  const isSecret = queryOf(request).has('s')
  const given = isUnsafe(request) && !isSecret ? fieldsOf(request.body).answer : undefined
  const expired = new FlowExpired(reason, flow.name, latest, given)
  const made = await settled(onExpired?.(expired, request) ?? expiredPage(expired, at))
  return E.map((html: unknown) => replyOf(html as Html, 410))(made)
}

/** The page of a tangent that was answered by a token. A GET runs no effect, so the visitor has to press a button. */
const continuePage = ({ url }: { readonly url: string }): string =>
  [
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>Go on</title>',
    `<form method="post" action="${escaped(url)}"><button>Go on</button></form></html>`,
  ].join('\n')

const REASONS: Readonly<Record<FlowExpired['reason'], string>> = {
  unknown: 'This page is not known any more. Your session may have ended.',
  expired: 'This page has expired.',
  cut: 'You have already gone on from this page.',
  finished: 'This has already been finished.',
  evicted: 'Too many other pages were opened after this one.',
  principal: 'This page belongs to another user.',
  used: 'This link was used before.',
}

const escaped = (text: string): string =>
  text.replace(/[&<>"']/g, (character) => `&#${String(character.charCodeAt(0))};`)

/** The default page for an expired page. It shows what was posted, so that nothing is lost. */
const expiredPage = ({ reason, latest, given }: FlowExpired, at: string): string => {
  const fields = Object.entries(objectOf(given))
  const list = fields.map(
    ([name, value]) =>
      `<dt>${escaped(name)}</dt><dd>${escaped(typeof value === 'string' ? value : JSON.stringify(value))}</dd>`,
  )
  return [
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>This page cannot be used</title>',
    `<p>${REASONS[reason]}</p>`,
    ...(list.length === 0 ? [] : [`<p>This was not stored:</p><dl>${list.join('')}</dl>`]),
    `<p><a href="${escaped(latest ?? at)}">Go on</a></p></html>`,
  ].join('\n')
}
