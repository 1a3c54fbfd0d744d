// What the session adds to a `Response`.

import { type AnswerHeaders, cacheHeaders } from './answer-headers.js'

/**
 * The response with the session's headers: another one, since a program may give the same response to every visitor,
 * and the next would get this one's session. One that cannot be made anew (of an upgrade: 101) is changed itself. One
 * that has them already is given back.
 */
export const addHeaders = (response: Response, added: AnswerHeaders): Response => {
  const own = { cacheControl: headerOf(response, 'Cache-Control'), vary: headerOf(response, 'Vary') }
  const { cacheControl, vary } = cacheHeaders(added, own)
  if (added.cookies.length === 0 && cacheControl === own.cacheControl && vary === own.vary) return response
  const changed = changeable(response)
  const { headers } = changed
  for (const cookie of added.cookies) headers.append('Set-Cookie', cookie)
  if (cacheControl !== undefined) headers.set('Cache-Control', cacheControl)
  if (vary !== undefined) headers.set('Vary', vary)
  return changed
}

const headerOf = ({ headers }: Response, name: string): string | undefined => headers.get(name) ?? undefined

const changeable = (response: Response): Response => {
  const { body, status, statusText, headers } = response
  const canBeMade = status >= 200 && status <= 599
  return canBeMade ? new Response(body, { status, statusText, headers: new Headers(headers) }) : response
}
