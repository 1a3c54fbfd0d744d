// The answer of a handler that gives a `Response`: whether it is one, and the session's cookie on it.

import * as O from 'fp-ts/lib/Option.js'
import type { Session } from '../store/contract.js'
import { ResponseRejected } from './errors.js'
import { cacheHeaders, type SessionHeaders } from './response-headers.js'

/**
 * Looks at what a handler gave, before its session is saved. `undefined` is the answer of one that has upgraded its
 * connection. Throws a `ResponseRejected` for what is no response, for `Response.error()`, and where a new session
 * would be stored whose cookie cannot be sent.
 */
export const checkAnswer = (given: unknown, session: Session): void => {
  if (given !== undefined && !isResponse(given))
    throw new ResponseRejected(`the handler gave no response but ${typeof given}`)
  if (given !== undefined && given.status === 0)
    throw new ResponseRejected('the handler gave Response.error(), which no server can send')
  const isNew = O.isNone(session.snapshot) && !session.edits.isEmpty()
  if (isNew && !canCarry(given)) throw cannotCarry('nothing was stored')
}

export const cannotCarry = (what: string): ResponseRejected =>
  new ResponseRejected(
    `an answer that upgrades its connection cannot carry the session's cookie: ${what}. Store in a session, sign in and sign out in a request before it`,
  )

// Not by its class: a framework, or a package, may have one of its own.
const isResponse = (given: unknown): given is Response =>
  typeof given === 'object' && given !== null && 'status' in given && 'headers' in given

/** One that cannot be made anew (of an upgrade: 101) has to be changed itself, which some runtimes do not allow. */
export const canCarry = (response: Response | undefined): boolean => {
  if (response === undefined) return false
  if (canBeMade(response)) return true
  try {
    response.headers.delete('Set-Cookie-Probe')
    return true
  } catch {
    return false
  }
}

const canBeMade = ({ status }: Response): boolean => status >= 200 && status <= 599

/**
 * Bun keeps the type of a text body, and of a file, beside the headers, where only `clone` takes it along; a response
 * that is made anew from its body is sent as `application/octet-stream`.
 */
const HIDES_TYPES = typeof Response === 'function' && !new Response('text').headers.has('Content-Type')

/**
 * The response with the session's headers: another one, since a program may give the same response to every visitor,
 * and the next would get this one's session. One that has them already is given back, and so is one that cannot be
 * changed.
 */
export const addHeaders = (response: Response, added: SessionHeaders): Response => {
  if (!canCarry(response)) return response
  const own = { cacheControl: headerOf(response, 'Cache-Control'), vary: headerOf(response, 'Vary') }
  const { cacheControl, vary } = cacheHeaders(added, own)
  if (added.cookies.length === 0 && cacheControl === own.cacheControl && vary === own.vary) return response
  const changed = canBeMade(response) ? another(response) : response
  const { headers } = changed
  for (const cookie of added.cookies) headers.append('Set-Cookie', cookie)
  if (cacheControl !== undefined) headers.set('Cache-Control', cacheControl)
  if (vary !== undefined) headers.set('Vary', vary)
  return changed
}

const headerOf = ({ headers }: Response, name: string): string | undefined => headers.get(name) ?? undefined

const another = (response: Response): Response => {
  if (HIDES_TYPES && !response.headers.has('Content-Type') && !response.bodyUsed) {
    const twin = response.clone()
    // Else what the twin's reader reads would be kept for this one too.
    response.body?.cancel().catch(() => undefined)
    return twin
  }
  const { body, status, statusText, headers } = response
  return new Response(body, { status, statusText, headers: new Headers(headers) })
}
