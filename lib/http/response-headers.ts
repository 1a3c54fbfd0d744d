// The session that a request shows: the one that its cookie opens; an arrival; or both, which then become one. What
// arrived is put on top of the session, its handler runs, the session is saved, and only then the arrival is destroyed:
// so nothing is lost when a process dies in between, and doing it twice changes nothing.
import * as E from 'fp-ts/lib/Either.js'
import * as O from 'fp-ts/lib/Option.js'
import type * as TE from 'fp-ts/lib/TaskEither.js'
import { SaveConflict, type SessionError, SessionGone, type StoreError } from '../core/errors.js'
import { emptySnapshot, keysOf } from '../core/session.js'
import { Token } from '../core/token.js'
import { PRINCIPAL, withEntries } from '../core/well-known-keys.js'
import { replace, type Scope } from '../request/scope.js'
import {
  destroySession,
  type LoadOptions,
  loadSession,
  openSession,
  originOf,
  publishUnopened,
  rotateSession,
  sessionToken,
} from '../request/verbs.js'
import type { Session, SessionStore } from '../store/contract.js'
import type { SessionCookies } from './cookie.js'
import { isPrefetch, type RequestInfo } from './csrf.js'
import type { TokenGuard } from './token-guard.js'

export interface Presented {
  /** What a cookie of the request has opened. */
  readonly session: O.Option<Session>
  /** The cookie by which the browser is given the session. */
  readonly by: keyof SessionCookies
  /** What arrived before, and is to become the session, or a part of it. */
  readonly crossSite?: Session
}

/** What opens sessions: where they live, and what is known of the adapter. */
export interface LoaderOptions {
  readonly store: SessionStore
  readonly cookies: SessionCookies
  readonly guard: TokenGuard | undefined
  readonly options?: LoadOptions | undefined
}

type Opened<A> = TE.TaskEither<StoreError, A>

export const presentedBy =
  (opening: LoaderOptions) =>
  (info: RequestInfo): Opened<Presented> =>
  async () => {
    const { session, crossSite } = opening.cookies
    const tokens = session.read(info.cookieHeader, info.secure)
    const isShown = tokens.length > 0
    const arrived = crossSite?.read(info)
    const by = !isShown && crossSite?.isHidden(info) === true ? 'crossSite' : 'session'
    // A page that is fetched ahead leaves what arrived to the visit.
    if (arrived === undefined || (isShown && isAhead(info))) {
      const found = await opened(opening, info, tokens, opening.options)()
      return E.isLeft(found) ? found : E.right({ session: found.right, by })
    }
    // In this order: a request that does not find the arrival any more finds the session with it.
    const came = await opened(opening, info, [arrived])()
    if (E.isLeft(came)) return came
    const found = await opened(opening, info, tokens, opening.options)()
    if (E.isLeft(found) || O.isNone(came.right))
      return E.isLeft(found) ? found : E.right({ session: found.right, by })
    if (O.isSome(found.right))
      return E.right({ session: found.right, by: 'session', crossSite: came.right.value })
    const isOver = await haveEnded(opening.store, tokens)
    if (E.isLeft(isOver)) return isOver
    const stays = isAhead(info) || !isOver.right || (!isShown && crossSite?.showsBoth(info) === false)
    return E.right(
      stays
        ? { session: came.right, by: 'crossSite' }
        : { session: came.right, by: 'session', crossSite: came.right.value },
    )
  }

/** Whether tokens that open nothing are all of sessions that are over. One that was rotated lives on. */
const haveEnded = async (
  store: SessionStore,
  tokens: readonly string[],
): Promise<E.Either<StoreError, boolean>> => {
  for (const token of tokens) {
    const parsed = Token.parse(token)
    if (O.isNone(parsed)) continue
    const found = await store.refresh(parsed.value.id, emptySnapshot, keysOf([]))()
    if (E.isLeft(found)) return found
    if (O.isSome(found.right)) return E.right(false)
  }
  return E.right(true)
}

export const isAhead = ({ request }: RequestInfo): boolean => request !== undefined && isPrefetch(request)

/**
 * The session that the first of these tokens opens which opens one. Where none does, a token that was never ours is
 * counted by the guard, if there is one.
 */
const opened =
  (
    { store, guard }: LoaderOptions,
    { address }: RequestInfo,
    tokens: readonly string[],
    options?: LoadOptions,
  ): Opened<O.Option<Session>> =>
  async () => {
    const strangers: string[] = []
    for (const token of tokens) {
      const found =
        guard === undefined
          ? await loadSession(store, token, options)()
          : await guardedSession(store, guard.refuses(address), token, options, strangers)
      if (E.isLeft(found) || O.isSome(found.right)) return found
    }
    const [stranger] = strangers
    if (stranger !== undefined) guard?.count(address, stranger)
    return E.right(O.none)
  }

/** Notes a token that was never ours; one whose client is refused is not looked up. */
const guardedSession = async (
  store: SessionStore,
  isRejected: boolean,
  token: string,
  options: LoadOptions | undefined,
  strangers: string[],
): Promise<E.Either<StoreError, O.Option<Session>>> => {
  if (isRejected && originOf(store, token) === 'foreign') {
    publishUnopened(token)
    return E.right(O.none)
  }
  const found = await openSession(store, token, options)()
  if (E.isLeft(found)) return found
  if (E.isRight(found.right)) return E.right(O.some(found.right.right))
  // Asked afterwards: a store that has just been made ready knows its ids.
  if (found.right.left !== 'expired' && originOf(store, token) !== 'own') strangers.push(token)
  return E.right(O.none)
}

/** The session with what arrived on top of it. */
export const withCrossSite = ({ session, crossSite }: Presented): O.Option<Session> =>
  O.isSome(session) && crossSite !== undefined && crossSite.id !== session.value.id
    ? O.some(withEntries(crossSite.store)(session.value))
    : session

/**
 * After the save: makes an end of what arrived. Gives whether the session's cookie stands for it from now on; if a
 * process dies or a store fails before that, the next request does it all again.
 */
export const mergeCrossSite = async (
  scope: Scope,
  shown: Presented,
  crossSite: Session,
): Promise<E.Either<SessionError, boolean>> => {
  const { session, state } = scope
  if (state === 'gone') return E.right(false)
  if (crossSite.id === session.id) return E.right(await stands(scope, crossSite))
  // First this, then the new secret: a request that finds the old one dead finds no arrival either.
  if (E.isLeft(await destroySession(crossSite)())) return E.right(false)
  const isRotated = O.isNone(shown.session) || sessionToken(session) !== sessionToken(shown.session.value)
  if (state === 'destroyed' || isRotated || !crossSite.store.has(PRINCIPAL)) return E.right(true)
  const rotated = await rotateSession(session)()
  if (E.isRight(rotated)) replace(scope, rotated.right)
  // Another request was first, or has ended the session.
  const isOver =
    E.isLeft(rotated) && (rotated.left instanceof SaveConflict || rotated.left instanceof SessionGone)
  return E.isRight(rotated) || isOver ? E.right(true) : rotated
}

/** Not when a sign-in has overtaken this request, and given the browser another token. */
const stands = async ({ session, state }: Scope, crossSite: Session): Promise<boolean> => {
  if (state === 'destroyed' || sessionToken(session) !== sessionToken(crossSite)) return true
  const found = await loadSession(session.handle, sessionToken(session), { keys: [] })()
  return E.isRight(found) && O.isSome(found.right)
}

// What the session adds to the head of an answer: its cookies, and what caches may do with an answer that is for one
// visitor alone.

export interface SessionHeaders {
  /** The `Set-Cookie` headers: none in most answers. */
  readonly cookies: readonly string[]
  /** Whether the handler has looked at a session by now. */
  readonly looked: () => boolean
}

export const noSessionHeaders: SessionHeaders = { cookies: [], looked: () => false }

/** The headers of an answer that caches go by. */
export interface CacheHeaders {
  readonly cacheControl: string | undefined
  readonly vary: string | undefined
}

/**
 * What these headers become. An answer with one of our cookies is `no-store`: a cache would give one visitor's session
 * to the next. One whose handler looked at a session is too, unless it has its own `Cache-Control`; and it varies with
 * the cookie.
 */
export const cacheHeaders = ({ cookies, looked }: SessionHeaders, own: CacheHeaders): CacheHeaders => {
  const isPrivate = looked()
  if (cookies.length > 0) return { cacheControl: 'no-store', vary: isPrivate ? varying(own.vary) : own.vary }
  return isPrivate ? { cacheControl: own.cacheControl ?? 'no-store', vary: varying(own.vary) } : own
}

const varying = (vary: string | undefined): string => {
  if (vary === undefined || vary.trim() === '') return 'Cookie'
  const names = vary.split(',').map((name) => name.trim().toLowerCase())
  return names.includes('*') || names.includes('cookie') ? vary : `${vary}, Cookie`
}
