// Binds sessions to browsers, by the option `bound` of the adapters. The response that gives a signed-in browser its token
// also offers a registration. A browser that knows Device Bound Session Credentials makes a key pair, registers the public
// key, and gets the bound cookie, which lives for some minutes. Before the cookie ends, the browser proves with its key that
// it may have the next one. A thief of the cookies cannot.

import {
  authenticatedText,
  type BoundKey,
  CHALLENGE_MS,
  cookieExpiry,
  cookieOf,
  registrationOf,
  timeOf,
} from '../bound/binding.js'
import {
  type BindingReply,
  type BindingRequest,
  type BindingResult,
  challengeFor,
  refresh,
  register,
  registrationChallenge,
} from '../bound/endpoints.js'
import { ALGORITHMS } from '../bound/proof-token.js'
import { ProofRequired, type SessionError } from '../core/errors.js'
import { numberOption } from '../core/options.js'
import { O, TE } from '../core/prelude.cjs'
import type { SessionId } from '../core/token.js'
import { principalOf } from '../core/well-known-keys.js'
import type { Proof, Scope } from '../request/scope.js'
import { sessionToken } from '../request/verbs.js'
import type { Session } from '../store/contract.js'
import { publish } from '../store/events.js'
import type { CookieOptions, SessionCookies } from './cookie.js'
import { type CheckedRequest, headerOf, isUnsafe, type RequestInfo } from './csrf.js'
import type { FoundSession } from './find-session.js'

/**
 * What a request of a bound session may do if its browser has not proved that it has the key.
 *
 * - `read`: GET, HEAD, OPTIONS and TRACE requests may read the session. Edits of the session, and all other requests, fail
 *   with `ProofRequired`.
 * - `refuse`: every request fails with `ProofRequired`.
 * - `anonymous`: the handler gets a new session without values, as if the request had no cookie. A sign-in page needs it.
 * - `allow`: the handler runs as usual. It can call `currentProof` or `requireProof`.
 */
export type UnprovenPolicy = 'read' | 'refuse' | 'anonymous' | 'allow'

export interface BoundOptions {
  /** Browsers send their requests to `<path>/register` and `<path>/refresh`. Default: `/session-binding`. */
  readonly path?: string
  /**
   * The lifetime of the bound cookie in milliseconds, from 5 minutes to 1 day. Chromium refreshes the cookie two minutes before
   * its end, and signs only a few proofs in a short time. Default: 10 minutes.
   */
  readonly maxAgeMs?: number
  /** What an unproven request may do, for all requests or by a function of the request. Default: `read`. */
  readonly unproven?: UnprovenPolicy | ((request: CheckedRequest) => UnprovenPolicy)
}

/** What the option `bound` adds to one request. */
export interface BoundRequest {
  readonly proof: Proof
  /** The session that the handler gets. */
  readonly found: FoundSession
  readonly readOnly: SessionId | undefined
  /** The task that fails in the place of the handler, if the request is refused. */
  readonly refused: (() => TE.TaskEither<ProofRequired, never>) | undefined
  /** The response to a registration or a refresh. */
  readonly answer: TE.TaskEither<SessionError, BindingReply> | undefined
  /** Returns the headers of the response. `looked` tells whether the handler has read a session. */
  readonly headersOf: (scope: Scope, looked: boolean) => BoundHeaders
}

interface BoundHeaders {
  readonly cookies: readonly string[]
  readonly headers: readonly (readonly [name: string, value: string])[]
}

/**
 * A request that was under way when the browser registered its key has no bound cookie yet. So for this time after the
 * registration no cookie is needed.
 */
const GRACE_MS = 30_000

/** The checked options of an adapter. */
interface Binding {
  readonly cookie: SessionCookies['bound']
  readonly lifetimeMs: number
  /** The paths of the requests with which browsers bind and refresh. */
  readonly paths: { readonly register: string; readonly refresh: string }
  readonly policyFor: (request: CheckedRequest) => UnprovenPolicy
}

/** @throws `TypeError` or `RangeError` for invalid options */
export const boundWith = (
  { path = '/session-binding', maxAgeMs = 600_000, unproven = 'read' }: BoundOptions,
  { domain, path: cookiePath = '/', partitioned }: CookieOptions,
  cookie: SessionCookies['bound'],
) => {
  if (domain !== undefined || cookiePath !== '/' || partitioned === true)
    throw new TypeError('bound needs a cookie without domain, partitioned or a path: browsers bind one host')
  if (!/^\/[\w/.-]*[\w-]$/.test(path))
    throw new TypeError(
      `bound.path: "${path}" has to begin with /, and to have letters, digits, /, . and - only`,
    )
  const binding: Binding = {
    cookie,
    lifetimeMs: numberOption('bound.maxAgeMs', maxAgeMs, 300_000, 86_400_000),
    paths: { register: `${path}/register`, refresh: `${path}/refresh` },
    policyFor: (request) => (typeof unproven === 'function' ? unproven(request) : unproven),
  }
  return (info: RequestInfo, found: FoundSession): BoundRequest => boundRequest(binding, info, found)
}

const boundRequest = (binding: Binding, info: RequestInfo, found: FoundSession): BoundRequest => {
  const { request = { headers: {} }, secure, cookieHeader } = info
  const text = secure ? binding.cookie.read(cookieHeader, secure)[0] : undefined
  const state = stateOf(found, text)
  let proven: BoundKey | undefined
  const answer = secure ? answerTo(binding, request, (key) => (proven = key)) : undefined
  const isFree = state.proof !== 'unproven' || answer !== undefined
  const rights = isFree
    ? { found, readOnly: undefined, refused: undefined }
    : rightsOf(found, binding.policyFor(request), request)
  return {
    ...rights,
    proof: O.isNone(rights.found.session) ? 'unbound' : state.proof,
    answer,
    headersOf: (scope, looked) =>
      secure && found.cookie === 'session'
        ? {
            cookies: cookiesOf(binding, { scope, found, text, state, proven }),
            headers: answer === undefined ? offers(binding, scope, found, state, looked) : [],
          }
        : NOTHING,
  }
}

/** Returns the task that answers a registration or a refresh. `note` gets the key that was proved. */
const answerTo = (
  binding: Binding,
  request: CheckedRequest,
  note: (key: BoundKey) => void,
): BoundRequest['answer'] => {
  const { paths } = binding
  const path = request.method === 'POST' ? pathOf(request) : ''
  if (path !== paths.register && path !== paths.refresh) return undefined
  const asked: BindingRequest = {
    proof: headerOf(request, 'secure-session-response'),
    id: headerOf(request, 'sec-secure-session-id'),
  }
  const answering = path === paths.register ? register : refresh
  return TE.map(({ reply, proven }: BindingResult) => {
    if (proven !== undefined) note(proven)
    return reply
  })(answering(asked, (session) => instructions(binding, session)))
}

/** Returns the JSON that tells the browser when to refresh, and which cookie. */
const instructions = ({ paths, cookie }: Binding, { id }: Session): string =>
  JSON.stringify({
    session_identifier: id,
    refresh_url: paths.refresh,
    scope: { include_site: false },
    credentials: [{ type: 'cookie', ...cookie.description() }],
  })

/** A challenge is offered so long before the bound cookie ends. Chromium refreshes the cookie two minutes before its end. */
const OFFER_MS = CHALLENGE_MS + 30_000

const NOTHING: BoundHeaders = { cookies: [], headers: [] }

const pathOf = (request: CheckedRequest): string => {
  // Express removes the path of a router from `url`.
  const { originalUrl, url = '' } = request as CheckedRequest & { readonly originalUrl?: string }
  const target = originalUrl ?? url
  if (!target.startsWith('/')) return URL.canParse(target) ? new URL(target).pathname : ''
  const end = target.indexOf('?')
  return end < 0 ? target : target.slice(0, end)
}

interface State {
  readonly proof: Proof
  /** The time at which the bound cookie ends. */
  readonly expiresAt?: number
}

const stateOf = ({ session }: FoundSession, text: string | undefined): State => {
  const registration = O.isSome(session) ? registrationOf(session.value) : undefined
  if (O.isNone(session) || registration === undefined) return { proof: 'unbound' }
  const { token, handle } = session.value
  const now = timeOf(handle)
  const expiresAt = text === undefined ? undefined : cookieExpiry(token, registration, text)
  if (expiresAt !== undefined && expiresAt > now) return { proof: 'proven', expiresAt }
  return { proof: text === undefined && now < registration.at + GRACE_MS ? 'proven' : 'unproven' }
}

/** Returns what an unproven request may do. An unproven request never merges a cross-site session. */
const rightsOf = (
  { session, cookie, ...rest }: FoundSession,
  policy: UnprovenPolicy,
  request: CheckedRequest,
): Pick<BoundRequest, 'found' | 'readOnly' | 'refused'> => {
  const only = { session, cookie }
  const { id } = (session as O.Some<Session>).value
  if (policy === 'allow') return { found: { ...only, ...rest }, readOnly: undefined, refused: undefined }
  if (policy === 'anonymous')
    return { found: { session: O.none, cookie }, readOnly: undefined, refused: undefined }
  if (policy === 'read' && !isUnsafe(request)) return { found: only, readOnly: id, refused: undefined }
  publish('proofRefused', { id, reason: 'unproven', ...skipped(request) })
  return { found: only, readOnly: id, refused: () => TE.left(new ProofRequired(id)) }
}

/** Returns why the browser has not refreshed the cookie, if it says so. */
const skipped = (request: CheckedRequest): { readonly skipped?: string } => {
  const reason = /^[a-z_]{1,40}/.exec(headerOf(request, 'secure-session-skipped') ?? '')?.[0]
  return reason === undefined ? {} : { skipped: reason }
}

interface CookieContext {
  readonly scope: Scope
  readonly found: FoundSession
  readonly text: string | undefined
  readonly state: State
  /** The key that this request has proved. */
  readonly proven: BoundKey | undefined
}

/** Returns the bound cookies of a response. */
const cookiesOf = ({ cookie, lifetimeMs }: Binding, context: CookieContext): readonly string[] => {
  const { scope, found, text, state, proven } = context
  const { session } = scope
  const before = O.toUndefined(found.session)
  const isSame = before?.token === session.token && scope.state !== 'destroyed'
  if (isSame && proven === undefined && state.proof === 'proven') return []
  const key = registrationOf(session)
  const hasEnded = scope.state === 'destroyed' || (before !== undefined && before.id !== session.id)
  if (hasEnded || key === undefined)
    return text !== undefined && before !== undefined ? [cookie.clear(true)] : []
  const now = timeOf(session.handle)
  const set = (expiresAt: number): readonly string[] => [
    cookie.serialize(authenticatedText(session.token, cookieOf(key), expiresAt), true, 0, expiresAt - now),
  ]
  if (proven?.id === key.id) return set(now + lifetimeMs)
  // After a rotation the cookie has to be made with the new secret. It proves what the old one has proved.
  const isRotated = before !== undefined && sessionToken(before) !== sessionToken(session)
  if (isRotated && state.expiresAt !== undefined && state.expiresAt > now) return set(state.expiresAt)
  // The browser refreshes a cookie that is missing, and not one that is only invalid.
  return text !== undefined && state.proof === 'unproven' ? [cookie.clear(true)] : []
}

/**
 * Returns the header that offers a registration, or gives the browser a challenge for the refresh that will soon be due. The
 * offer comes with the token of a signed-in session.
 */
const offers = (
  { paths }: Binding,
  { session, state }: Scope,
  found: FoundSession,
  { proof, expiresAt }: State,
  looked: boolean,
): BoundHeaders['headers'] => {
  if (state === 'destroyed' || state === 'gone' || O.isNone(session.snapshot)) return []
  const key = registrationOf(session)
  const isSent = O.isNone(found.session) || sessionToken(found.session.value) !== sessionToken(session)
  if (key === undefined)
    return isSent && principalOf(session) !== undefined
      ? [
          [
            'Secure-Session-Registration',
            `${ALGORITHMS};path="${paths.register}";challenge="${registrationChallenge(session)}"`,
          ],
        ]
      : []
  const isDue = expiresAt !== undefined && expiresAt - timeOf(session.handle) < OFFER_MS
  return looked && proof === 'proven' && isDue && !isSent
    ? [['Secure-Session-Challenge', challengeFor(session)]]
    : []
}
