// A guard against guessing: how many different bad tokens a client has shown lately. A browser goes on showing
// the cookie of a session that has ended, so one token counts once, however often it is shown.
import { createHash } from 'node:crypto'
import * as E from 'fp-ts/lib/Either.js'
import * as O from 'fp-ts/lib/Option.js'
import { LRUCache } from 'lru-cache'
import { publish } from '../port/events.js'
import { networkOf } from './forwarded.js'
import { RequestRefused } from './refused.js'

export interface TokenGuardOptions {
  /** So many different bad tokens of one address are suspicious. Default: 50. */
  readonly limit?: number
  /** They are counted for so many milliseconds, from the first one on. Default: 10 minutes. */
  readonly windowMs?: number
  /** At most so many addresses are remembered, the latest ones. Default: 5,000. */
  readonly addresses?: number
  /** Whether a suspicious address that shows a bad token is answered 429; or is only told of. Default: true. */
  readonly refuse?: boolean
}

export interface TokenGuard {
  /** @internal */
  readonly count: (address: string | undefined, token: string) => E.Either<RequestRefused, O.Option<never>>
}

/**
 * A guard for the option `guard` of a door, or of several. Whoever shows a token that opens a session is always
 * served; one whose address has shown too many that open nothing is refused, and told of by the event
 * `guessing`. All addresses of an IPv6 network (/64) count as one.
 *
 * @example
 * ```ts
 * import { createServer } from 'node:http'
 * import { tokenGuard } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 * import { sessionListener } from 'keyrow/node'
 *
 * const guard = tokenGuard({ limit: 2 })
 * const server = createServer(sessionListener({ store: memoryStore(), guard })((_, res) => res.end()))
 * server.listen(0, async () => {
 *   const { port } = server.address() as { port: number }
 *   const guess = (token: string) => fetch(`http://127.0.0.1:${port}/`, { headers: { cookie: `session=${token}` } })
 *   const statuses = []
 *   for (const token of ['a', 'b', 'c']) statuses.push((await guess(token)).status)
 *   console.log(statuses) // [ 200, 200, 429 ]
 *   server.close()
 * })
 * ```
 */
export const tokenGuard = (options: TokenGuardOptions = {}): TokenGuard => {
  const { limit = 50, windowMs = 600_000, addresses = 5_000, refuse = true } = options
  // A set of small numbers for each address: no token is kept.
  const shown = new LRUCache<string, Set<number>>({ max: addresses, ttl: windowMs, noUpdateTTL: true })
  return {
    count: (address, token) => {
      if (address === undefined) return E.right(O.none)
      const client = networkOf(address)
      const tokens = shown.get(client) ?? new Set()
      const before = tokens.size
      if (before <= limit) tokens.add(createHash('sha256').update(token).digest().readUInt32LE() >>> 2)
      shown.set(client, tokens)
      if (tokens.size <= limit) return E.right(O.none)
      if (before <= limit) publish('guessing', { address, tokens: tokens.size, refused: refuse })
      return refuse ? E.left(refusal(windowMs)) : E.right(O.none)
    },
  }
}

const refusal = (windowMs: number): RequestRefused =>
  new RequestRefused(429, 'Too many sessions that do not exist were asked for.', {
    'Retry-After': String(Math.ceil(windowMs / 1000)),
  })
