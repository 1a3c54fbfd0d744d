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
import type { Scope, ScopeRequest } from '../request/scope.js'
import { sessionToken } from '../request/verbs.js'
import type { Session, SessionStore } from '../store/contract.js'
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
  readonly unproven?: UnprovenPolicy | ((request: UnprovenRequest) => UnprovenPolicy)
}

export interface UnprovenRequest extends CheckedRequest {
  /** The path of the URL, without its query. In Express it includes the path at which a router is mounted. */
  readonly path: string
}

/** What the option `bound` adds to one request. */
export interface BoundRequest extends Rights {
  readonly proof: ScopeRequest['proof']
  readonly isPassive: boolean
  /** The task that fails in the place of the handler, if the request is refused. */
  readonly refused: (() => TE.TaskEither<ProofRequired, never>) | undefined
  /** The response to a registration or a refresh. */
  readonly answer: TE.TaskEither<SessionError, BindingReply> | undefined
  /** Returns the headers of the response. `looked` tells whether the handler has read a session. */
  readonly headersOf: (scope: Scope, looked: boolean) => BoundHeaders
}

interface Rights {
  /** The session that the handler gets. */
  readonly found: FoundSession
  /** The session that the request must not change. */
  readonly readOnly: SessionId | undefined
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

/** A bound cookie is valid for this time after the browser has deleted it, because its last request may be under way. */
const TOLERANCE_MS = 60_000

/** A challenge is offered so long before the bound cookie ends. Chromium refreshes the cookie two minutes before its end. */
const OFFER_MS = CHALLENGE_MS + 30_000

/** The checked options of an adapter. */
interface Binding {
  readonly cookie: SessionCookies['bound']
  readonly lifetimeMs: number
  /** The paths of the requests with which browsers bind and refresh. */
  readonly paths: { readonly register: string; readonly refresh: string }
  readonly policyFor: (request: UnprovenRequest) => UnprovenPolicy
}

/** @throws `TypeError` or `RangeError` for invalid options */
export const boundWith = (
  { path = '/session-binding', maxAgeMs = 600_000, unproven = 'read' }: BoundOptions,
  { store, domain, path: cookiePath = '/', partitioned }: CookieOptions & { readonly store: SessionStore },
  cookie: SessionCookies['bound'],
) => {
  if (domain !== undefined || cookiePath !== '/' || partitioned === true)
    throw new TypeError('bound needs a cookie without domain, partitioned or a path: browsers bind one host')
  if (store.ids?.authenticate === undefined)
    throw new TypeError('bound needs a store with verifiable ids, whose key authenticates the bound cookie')
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
  return (info: RequestInfo, found: FoundSession): BoundRequest =>
    boundRequest(binding, info, withoutBoundCrossSite(found))
}

/** A bound session is never merged into another one, since its key proves nothing about the other session. */
const withoutBoundCrossSite = (found: FoundSession): FoundSession =>
  found.crossSite === undefined || registrationOf(found.crossSite) === undefined
    ? found
    : withoutCrossSite(found)

const withoutCrossSite = ({ session, cookie }: FoundSession): FoundSession => ({ session, cookie })

const boundRequest = (binding: Binding, info: RequestInfo, found: FoundSession): BoundRequest => {
  const { request = { headers: {} }, secure } = info
  const path = pathOf(request)
  const cookie = stateOf(binding, info, found)
  let proven: BoundKey | undefined
  const answer = secure ? answerTo(binding, request, path, (key) => (proven = key)) : undefined
  const id = O.toUndefined(found.session)?.id
  const isUnproven = cookie.isProven === false
  const policy = isUnproven && answer === undefined ? binding.policyFor(withPath(request, path)) : 'allow'
  // An adapter that does not know `answer` runs its handler, which must not change an unproven session.
  const rights = answer
    ? { ...UNRESTRICTED, found: withoutCrossSite(found), readOnly: isUnproven ? id : undefined }
    : rightsOf(found, policy, request)
  return {
    ...rights,
    proof: id === undefined || cookie.isProven === undefined ? undefined : { id, isProven: cookie.isProven },
    isPassive: answer !== undefined || rights.readOnly !== undefined,
    answer,
    headersOf: (scope, looked) =>
      secure && found.cookie === 'session'
        ? {
            cookies: cookiesOf(binding, scope, rights.found, cookie, proven),
            headers: answer === undefined ? offers(binding, scope, rights.found, cookie, looked) : [],
          }
        : NOTHING,
  }
}

const UNRESTRICTED = { readOnly: undefined, refused: undefined }

const NOTHING: BoundHeaders = { cookies: [], headers: [] }

const withPath = ({ method, url, headers }: CheckedRequest, path: string): UnprovenRequest => ({
  method,
  url,
  headers,
  path,
})

/** Returns the task that answers a registration or a refresh. `note` gets the key that was proved. */
const answerTo = (
  binding: Binding,
  request: CheckedRequest,
  path: string,
  note: (key: BoundKey) => void,
): BoundRequest['answer'] => {
  const { paths } = binding
  if (request.method !== 'POST' || (path !== paths.register && path !== paths.refresh)) return undefined
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

const pathOf = (request: CheckedRequest): string => {
  // Express removes the path of a router from `url`.
  const { originalUrl, url = '' } = request as CheckedRequest & { readonly originalUrl?: string }
  const target = originalUrl ?? url
  if (!target.startsWith('/')) return URL.canParse(target) ? new URL(target).pathname : ''
  const end = target.indexOf('?')
  return end < 0 ? target : target.slice(0, end)
}

/** What the bound cookie of a request says. */
interface CookieState {
  /** `undefined` if the session is not bound. */
  readonly isProven: boolean | undefined
  /** The time until which the cookie is valid. */
  readonly expiresAt?: number | undefined
  /** Whether the response must delete the cookie, if its session is still bound. A browser refreshes only a missing cookie. */
  readonly isStale: boolean
  readonly isPresent: boolean
}

const stateOf = (
  { cookie, lifetimeMs }: Binding,
  { secure, cookieHeader }: RequestInfo,
  { session }: FoundSession,
): CookieState => {
  const text = secure ? cookie.read(cookieHeader, secure)[0] : undefined
  const isPresent = text !== undefined
  const registration = O.isSome(session) ? registrationOf(session.value) : undefined
  if (O.isNone(session) || registration === undefined)
    return { isProven: undefined, isStale: false, isPresent }
  const now = timeOf(session.value.handle)
  const expiresAt = isPresent ? cookieExpiry(session.value, registration, text) : undefined
  const isValid =
    expiresAt !== undefined && expiresAt > now && expiresAt <= now + lifetimeMs + 2 * TOLERANCE_MS
  const isNew = secure && Math.abs(now - registration.at) < GRACE_MS
  // A cookie that has just ended may have been replaced by a refresh that is under way.
  const isStale = isPresent && !isValid && (expiresAt === undefined || expiresAt < now - TOLERANCE_MS)
  return { isProven: isValid || isNew, expiresAt: isValid ? expiresAt : undefined, isStale, isPresent }
}

/** Returns what a request may do by this policy. It merges no cross-site session, unless the policy allows everything. */
const rightsOf = (
  found: FoundSession,
  policy: UnprovenPolicy,
  request: CheckedRequest,
): Rights & Pick<BoundRequest, 'refused'> => {
  if (policy === 'allow' || O.isNone(found.session)) return { ...UNRESTRICTED, found }
  const only = withoutCrossSite(found)
  const { id } = found.session.value
  if (policy === 'anonymous') return { ...UNRESTRICTED, found: { ...only, session: O.none } }
  if (policy === 'read' && !isUnsafe(request)) return { found: only, readOnly: id, refused: undefined }
  publish('proofRefused', { id, reason: 'unproven', ...skipped(request) })
  return { found: only, readOnly: id, refused: () => TE.left(new ProofRequired(id)) }
}

/** Returns why the browser has not refreshed the cookie, if it says so. */
const skipped = (request: CheckedRequest): { readonly skipped?: string } => {
  const reason = /^[a-z_]{1,40}/.exec(headerOf(request, 'secure-session-skipped') ?? '')?.[0]
  return reason === undefined ? {} : { skipped: reason }
}

/** Whether the response has the token of the session. */
const isTokenSent = ({ session }: Scope, { session: before, crossSite }: FoundSession): boolean =>
  O.isNone(before) || sessionToken(before.value) !== sessionToken(session) || crossSite?.id === session.id

/** Returns the bound cookies of a response. */
const cookiesOf = (
  { cookie, lifetimeMs }: Binding,
  scope: Scope,
  found: FoundSession,
  { isPresent, isStale }: CookieState,
  proven: BoundKey | undefined,
): readonly string[] => {
  if (!isPresent && proven === undefined) return []
  const { session } = scope
  const registration = scope.state === 'destroyed' ? undefined : registrationOf(session)
  if (registration !== undefined && registration.id === proven?.id) {
    const expiresAt = timeOf(session.handle) + lifetimeMs + TOLERANCE_MS
    const text = authenticatedText(session, cookieOf(registration), expiresAt)
    return [cookie.serialize(text, true, 0, lifetimeMs)]
  }
  const isOver =
    registration === undefined &&
    (O.isSome(found.session) || (O.isSome(session.snapshot) && isTokenSent(scope, found)))
  return isPresent && (isStale || isOver) ? [cookie.clear(true)] : []
}

/**
 * Returns the header that offers a registration, or gives the browser a challenge for the refresh that will soon be due. The
 * offer comes with the token of a signed-in session.
 */
const offers = (
  { paths }: Binding,
  scope: Scope,
  found: FoundSession,
  { isProven = false, expiresAt }: CookieState,
  looked: boolean,
): BoundHeaders['headers'] => {
  const { session, state } = scope
  if (state === 'destroyed' || state === 'gone' || O.isNone(session.snapshot)) return []
  if (registrationOf(session) === undefined) {
    if (principalOf(session) === undefined || !isTokenSent(scope, found)) return []
    const challenge = registrationChallenge(session)
    const offer = `${ALGORITHMS};path="${paths.register}";challenge="${challenge}"`
    return [['Secure-Session-Registration', offer]]
  }
  const isDue = expiresAt !== undefined && expiresAt - TOLERANCE_MS - timeOf(session.handle) < OFFER_MS
  return looked && isProven && isDue ? [['Secure-Session-Challenge', challengeFor(session)]] : []
}
