// What the session adds to the head of an answer: its cookies, and what caches may do with an answer that is for one
// visitor alone.

export interface AnswerHeaders {
  /** The `Set-Cookie` headers: none in most answers. */
  readonly cookies: readonly string[]
  /** Whether the handler has looked at a session by now. */
  readonly looked: () => boolean
}

export const nothingAdded: AnswerHeaders = { cookies: [], looked: () => false }

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
export const cacheHeaders = ({ cookies, looked }: AnswerHeaders, own: CacheHeaders): CacheHeaders => {
  const isPrivate = looked()
  if (cookies.length > 0) return { cacheControl: 'no-store', vary: isPrivate ? varying(own.vary) : own.vary }
  return isPrivate ? { cacheControl: own.cacheControl ?? 'no-store', vary: varying(own.vary) } : own
}

const varying = (vary: string | undefined): string => {
  if (vary === undefined || vary.trim() === '') return 'Cookie'
  const names = vary.split(',').map((name) => name.trim().toLowerCase())
  return names.includes('*') || names.includes('cookie') ? vary : `${vary}, Cookie`
}
