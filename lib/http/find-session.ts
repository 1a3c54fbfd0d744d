// Finds the session of a request by its session cookie, by its cross-site cookie, or by both. If a request has both
// cookies, the cross-site session is merged into the session of the session cookie, the regular session. First the
// regular session gets the values of the cross-site session. Then the handler runs, the regular session is saved, and
// the cross-site session is destroyed. So nothing is lost if the process dies. A repeated merge is harmless.

import { SaveConflict, type SessionError, SessionGone, type StoreError } from '../core/errors.js'
import { E, O, type TE } from '../core/prelude.cjs'
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

export interface FoundSession {
  /** The session that a cookie of the request opens. */
  readonly session: O.Option<Session>
  /** The cookie with which the response sends the session's token. */
  readonly cookie: keyof SessionCookies
  /** The cross-site session to merge into `session`. If both are the same session, it becomes the regular session. */
  readonly crossSite?: Session
}

export interface LoaderOptions {
  readonly store: SessionStore
  readonly cookies: SessionCookies
  readonly guard: TokenGuard | undefined
  readonly options?: LoadOptions | undefined
}

export const findSession =
  (loader: LoaderOptions) =>
  (info: RequestInfo): TE.TaskEither<StoreError, FoundSession> =>
  async () => {
    const { session, crossSite } = loader.cookies
    const tokens = session.read(info.cookieHeader, info.secure)
    const hasToken = tokens.length > 0
    const crossSiteToken = crossSite?.read(info)
    const cookie = !hasToken && crossSite?.isWithheld(info) === true ? 'crossSite' : 'session'
    // A prefetch does not merge the sessions. The next request for a displayed page merges them.
    const merges = crossSiteToken !== undefined && !(hasToken && isPrefetchOf(info))
    // The cross-site session is loaded first. If a concurrent merge has destroyed it, the regular session, which is
    // loaded next, has the merged values.
    const second = merges ? await open(loader, info, [crossSiteToken]) : E.right(O.none)
    if (E.isLeft(second)) return second
    const found = await open(loader, info, tokens, loader.options)
    if (E.isLeft(found)) return found
    if (O.isNone(second.right)) return E.right({ session: found.right, cookie })
    if (O.isNone(found.right)) {
      const ended = await haveEnded(loader.store, tokens)()
      if (E.isLeft(ended)) return ended
      const stays =
        isPrefetchOf(info) || !ended.right || (!hasToken && crossSite?.carriesBoth(info) === false)
      if (stays) return E.right({ session: second.right, cookie: 'crossSite' })
    }
    const opened = O.isSome(found.right) ? found.right : second.right
    return E.right({ session: opened, cookie: 'session', crossSite: second.right.value })
  }

/**
 * Whether the sessions of all these tokens have ended. A session whose secret was replaced has not ended. The tokens may be
 * forged, so the expirations stay as they are.
 */
const haveEnded =
  (store: SessionStore, tokens: readonly string[]): TE.TaskEither<StoreError, boolean> =>
  async () => {
    for (const token of tokens) {
      const parsed = Token.parse(token)
      if (O.isNone(parsed)) continue
      const found = await store.refresh(parsed.value.id, emptySnapshot, keysOf([]), false)()
      if (E.isLeft(found)) return found
      if (O.isSome(found.right)) return E.right(false)
    }
    return E.right(true)
  }

export const isPrefetchOf = ({ request }: RequestInfo): boolean =>
  request !== undefined && isPrefetch(request)

/** Opens the session of the first valid token. If none is valid, the guard counts the first possibly foreign token. */
const open = async (
  { store, guard }: LoaderOptions,
  info: RequestInfo,
  tokens: readonly string[],
  options?: LoadOptions,
): Promise<E.Either<StoreError, O.Option<Session>>> => {
  let foreign: string | undefined
  for (const token of tokens) {
    if (guard?.refuses(info.address) === true && originOf(store, token) === 'foreign') {
      publishUnopened(token)
      continue
    }
    const found = await openSession(store, token, options)()
    if (E.isLeft(found)) return found
    if (E.isRight(found.right)) return E.right(O.some(found.right.right))
    // The load above has prepared the store, and only a prepared store recognises its own ids.
    if (found.right.left !== 'expired' && originOf(store, token) !== 'own') foreign ??= token
  }
  if (foreign !== undefined) guard?.count(info.address, foreign)
  return E.right(O.none)
}

/** Returns the session, with the values of the cross-site session if there is one. */
export const withCrossSite = ({ session, crossSite }: FoundSession): O.Option<Session> =>
  O.isSome(session) && crossSite !== undefined && crossSite.id !== session.value.id
    ? O.some(withEntries(crossSite.store)(session.value))
    : session

/**
 * Destroys the cross-site session after the save. The result is true if the response must delete the cross-site cookie.
 * If the destruction fails, the cookie stays, and a later request merges again.
 */
export const endCrossSite =
  (scope: Scope, { session: opened, crossSite }: FoundSession): TE.TaskEither<SessionError, boolean> =>
  async () => {
    const { session, state } = scope
    if (crossSite === undefined || state === 'gone') return E.right(false)
    if (crossSite.id === session.id) return E.right(await isRegular(scope, crossSite))
    // The rotation follows the destruction. Otherwise a concurrent request with both cookies could find the secret of
    // the regular session replaced, and continue with the cross-site session.
    if (E.isLeft(await destroySession(crossSite)())) return E.right(false)
    const isRotated = O.isNone(opened) || sessionToken(session) !== sessionToken(opened.value)
    if (state === 'destroyed' || isRotated || !crossSite.store.has(PRINCIPAL)) return E.right(true)
    const rotated = await rotateSession(session)()
    if (E.isRight(rotated)) replace(scope, rotated.right)
    // `isOver` means that another request has rotated or ended the session first.
    const isOver =
      E.isLeft(rotated) && (rotated.left instanceof SaveConflict || rotated.left instanceof SessionGone)
    return E.isRight(rotated) || isOver ? E.right(true) : rotated
  }

/**
 * Whether the cross-site session can become the regular session. It cannot if a concurrent sign-in has rotated the
 * cross-site session, because the browser then has a newer token.
 */
const isRegular = async ({ session, state }: Scope, crossSite: Session): Promise<boolean> => {
  if (state === 'destroyed' || sessionToken(session) !== sessionToken(crossSite)) return true
  const found = await loadSession(session.handle, sessionToken(session), { keys: [] })()
  return E.isRight(found) && O.isSome(found.right)
}
