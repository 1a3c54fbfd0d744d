// The session's cookie on a `Response`.

/** The response with the cookie; another one where its headers cannot be changed. */
export const addCookie = (response: Response, cookie: string): Response => {
  try {
    response.headers.append('Set-Cookie', cookie)
    // Whoever stored this answer would give one visitor's session to the next.
    response.headers.set('Cache-Control', 'no-store')
    return response
  } catch {
    const { body, status, statusText, headers } = response
    return addCookie(new Response(body, { status, statusText, headers: new Headers(headers) }), cookie)
  }
}
