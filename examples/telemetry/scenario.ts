// The scenario has a sign-in, requests of two tabs at the same time, a token with a wrong secret, a sign-out and a
// cleanup.

import { SpanStatusCode, type Tracer } from '@opentelemetry/api'
import {
  buildSession,
  deleteExpiredSessions,
  destroySession,
  loadSession,
  rotateSession,
  type Session,
  type SessionStore,
  saveSession,
  sessionFor,
  sessionToken,
  sessionUpdate,
} from 'keyrow/promise'

export const visit = async (store: SessionStore, tracer: Tracer): Promise<void> => {
  const request = inSpan(tracer)
  const session = await request('POST /sign-in', async () =>
    rotateSession(await saveSession(sessionFor('ada')(buildSession(store)))),
  )
  const token = sessionToken(session)
  await request('two tabs at once', async () => {
    const [one, other] = await Promise.all([find(store, token), find(store, token)])
    await saveSession(visited(one))
    await saveSession(visited(other))
  })
  await request('GET /guess', () => loadSession(store, `${token.slice(0, -4)}AAAA`))
  await request('POST /sign-out', () => destroySession(session))
  await request('cleanup', () => deleteExpiredSessions(store))
}

const visited = sessionUpdate('visits', (visits) => Number(visits) + 1, 0)

const find = async (store: SessionStore, token: string): Promise<Session> =>
  (await loadSession(store, token)) ?? buildSession(store)

/**
 * Runs a request with an active span, which ends with the request. In a real server an HTTP instrumentation starts and
 * ends this span.
 */
const inSpan =
  (tracer: Tracer) =>
  <A>(name: string, request: () => Promise<A>): Promise<A> =>
    tracer.startActiveSpan(name, async (span) => {
      try {
        return await request()
      } catch (error) {
        span.setStatus({ code: SpanStatusCode.ERROR })
        throw error
      } finally {
        span.end()
      }
    })
