// Binds sessions to browsers, by the option `bound` of the adapters. The response that gives a signed-in browser its token
// also offers a registration. A browser that knows Device Bound Session Credentials makes a key pair, registers the public
// key, and gets the bound cookie, which lives for some minutes. Before the cookie ends, the browser proves with its key that
// it may have the next one. A thief of the cookies cannot.

import {
  authenticatedText,
  type BoundKey,
  boundKeyOf,
  CHALLENGE_MS,
  cookieOf,
  expiryOf,
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
  /** The lifetime of the bound cookie in milliseconds, from 1 minute to 1 day. Default: 10 minutes. */
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
  /** The error of a request that is refused. */
  readonly refusal: ProofRequired | undefined
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
  const lifetimeMs = numberOption('bound.maxAgeMs', maxAgeMs, 60_000, 86_400_000)
  const paths = { register: `${path}/register`, refresh: `${path}/refresh` }
  const instructions = (session: Session): string =>
    JSON.stringify({
      session_identifier: session.id,
      refresh_url: paths.refresh,
      scope: { include_site: false },
      credentials: [{ type: 'cookie', ...cookie.description() }],
    })
  const policyFor = (request: CheckedRequest): UnprovenPolicy =>
    typeof unproven === 'function' ? unproven(request) : unproven

  /** Returns the task that answers a registration or a refresh. `note` gets the key that was proved. */
  const answerTo = (request: CheckedRequest, note: (key: BoundKey) => void): BoundRequest['answer'] => {
    if (request.method !== 'POST') return undefined
    const requested = pathOf(request)
    const asked: BindingRequest = {
      proof: headerOf(request, 'secure-session-response'),
      id: headerOf(request, 'sec-secure-session-id'),
    }
    const noted = TE.map(({ reply, proven }: BindingResult) => {
      if (proven !== undefined) note(proven)
      return reply
    })
    if (requested === paths.register) return noted(register(asked, instructions))
    return requested === paths.refresh ? noted(refresh(asked, instructions)) : undefined
  }

  return (info: RequestInfo, found: FoundSession): BoundRequest => {
    const { request = { headers: {} }, secure, cookieHeader } = info
    const text = secure ? cookie.read(cookieHeader, secure)[0] : undefined
    const state = stateOf(found, text)
    let proven: BoundKey | undefined
    const answer = secure ? answerTo(request, (key) => (proven = key)) : undefined
    const rights =
      state.proof === 'unproven' && answer === undefined
        ? rightsOf(found, policyFor(request), isUnsafe(request))
        : { found, readOnly: undefined, refusal: undefined }
    const headersOf = (scope: Scope, looked: boolean): BoundHeaders =>
      secure && found.cookie === 'session'
        ? {
            cookies: cookiesOf({ scope, found, text, state, proven, cookie, lifetimeMs }),
            headers: answer === undefined ? offers(scope, found, state, looked, paths.register) : [],
          }
        : NOTHING
    const proof = O.isNone(rights.found.session) ? 'unbound' : state.proof
    return { proof, ...rights, answer, headersOf }
  }
}

const NOTHING: BoundHeaders = { cookies: [], headers: [] }

const pathOf = (request: CheckedRequest): string => {
  // Express removes the path of a router from `url`.
  const { originalUrl, url = '' } = request as CheckedRequest & { readonly originalUrl?: string }
  const target = originalUrl ?? url
  const path = target.startsWith('/') ? target : URL.canParse(target) ? new URL(target).pathname : ''
  return path.split('?')[0] ?? ''
}

interface State {
  readonly proof: Proof
  /** The time at which the bound cookie ends. */
  readonly expiresAt?: number
}

const stateOf = ({ session }: FoundSession, text: string | undefined): State => {
  const key = O.isSome(session) ? boundKeyOf(session.value) : undefined
  if (O.isNone(session) || key === undefined) return { proof: 'unbound' }
  const now = timeOf(session.value.handle)
  const expiresAt = text === undefined ? undefined : expiryOf(session.value.token, cookieOf(key), text)
  if (expiresAt !== undefined && expiresAt > now) return { proof: 'proven', expiresAt }
  return { proof: text === undefined && now < key.at + GRACE_MS ? 'proven' : 'unproven' }
}

/** Returns what an unproven request may do. An unproven request never merges a cross-site session. */
const rightsOf = (
  { session, cookie, ...rest }: FoundSession,
  policy: UnprovenPolicy,
  isChange: boolean,
): Pick<BoundRequest, 'found' | 'readOnly' | 'refusal'> => {
  const only = { session, cookie }
  const { id } = (session as O.Some<Session>).value
  if (policy === 'allow') return { found: { ...only, ...rest }, readOnly: undefined, refusal: undefined }
  if (policy === 'anonymous')
    return { found: { session: O.none, cookie }, readOnly: undefined, refusal: undefined }
  if (policy === 'read' && !isChange) return { found: only, readOnly: id, refusal: undefined }
  publish('proofRefused', { id, reason: 'unproven' })
  return { found: only, readOnly: id, refusal: new ProofRequired(id) }
}

interface CookieContext {
  readonly scope: Scope
  readonly found: FoundSession
  readonly text: string | undefined
  readonly state: State
  readonly proven: BoundKey | undefined
  readonly cookie: SessionCookies['bound']
  readonly lifetimeMs: number
}

/** Returns the bound cookies of a response. */
const cookiesOf = (context: CookieContext): readonly string[] => {
  const { scope, found, text, state, proven, cookie, lifetimeMs } = context
  const { session } = scope
  const before = O.toUndefined(found.session)
  const key = boundKeyOf(session)
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
  { session, state }: Scope,
  found: FoundSession,
  { proof, expiresAt }: State,
  looked: boolean,
  path: string,
): BoundHeaders['headers'] => {
  if (state === 'destroyed' || state === 'gone' || O.isNone(session.snapshot)) return []
  const key = boundKeyOf(session)
  const isSent = O.isNone(found.session) || sessionToken(found.session.value) !== sessionToken(session)
  if (key === undefined)
    return isSent && principalOf(session) !== undefined
      ? [
          [
            'Secure-Session-Registration',
            `${ALGORITHMS};path="${path}";challenge="${registrationChallenge(session)}"`,
          ],
        ]
      : []
  const isDue = expiresAt !== undefined && expiresAt - timeOf(session.handle) < CHALLENGE_MS
  return looked && proof === 'proven' && isDue && !isSent
    ? [['Secure-Session-Challenge', challengeFor(session)]]
    : []
}
