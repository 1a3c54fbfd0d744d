// The session's cookie on a `Response`.

/**
 * The response with the cookie: another one, since a program may give the same response to every visitor, and
 * the next would get this one's session. One that cannot be made anew (of an upgrade: 101) is changed itself.
 */
export const addCookie = (response: Response, cookie: string): Response => {
  const { body, status, statusText, headers } = response
  const canBeMade = status >= 200 && status <= 599
  const own = canBeMade ? new Response(body, { status, statusText, headers: new Headers(headers) }) : response
  own.headers.append('Set-Cookie', cookie)
  // Whoever stored this answer would give one visitor's session to the next.
  own.headers.set('Cache-Control', 'no-store')
  return own
}
