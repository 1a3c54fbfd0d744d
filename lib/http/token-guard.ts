// A guard against guessing: how many different tokens that were never ours a client has shown lately. A browser goes on
// showing the cookie of a session that has ended, and that one was ours: it does not count. Nor is anybody refused: who
// has shown too many is served, only that what he shows next is not looked up.
import { createHash } from 'node:crypto'
import { LRUCache } from 'lru-cache'
import { numberOption } from '../core/options.js'
import { publish } from '../store/events.js'
import { addressOf, networkOf } from './forwarded.js'

export interface TokenGuardOptions {
  /** More different tokens of one address than this that were never ours are suspicious. Default: 50. */
  readonly limit?: number
  /** They are counted for so many milliseconds, from the first one on. Default: 10 minutes. */
  readonly windowMs?: number
  /** At most so many addresses are remembered, the latest ones. Default: 5,000. */
  readonly maxAddresses?: number
  /**
   * Whether tokens of a suspicious address that were never ours are no longer looked up, and open nothing; or the address
   * is only reported. Default: true.
   */
  readonly block?: boolean
}

export interface TokenGuard {
  /** @internal Whether what this address shows, and was never ours, is to be looked up no more. */
  readonly refuses: (address: string | undefined) => boolean
  /** @internal Counts a token that was never ours. */
  readonly count: (address: string | undefined, token: string) => void
}

/**
 * A guard for the option `guard` of one or several adapters. A client whose address has shown too many different tokens
 * that were never ours (forged, malformed, of another installation) is reported by the event `tokenAbuse`; from then on
 * such tokens of that address open nothing and cost no statement. Its requests are served all the same, as those of a
 * visitor without a session, who can sign in; and a session of ours is opened for every client that shows its token. Tokens of
 * sessions that have ended do not count. All addresses of an IPv6 network (/64) count as one.
 *
 * @example
 * ```ts
 * import { createServer } from 'node:http'
 * import { onSessionEvent } from 'keyrow'
 * import { tokenGuard } from 'keyrow/adapter'
 * import { memoryStore } from 'keyrow/memory'
 * import { sessionListener } from 'keyrow/node'
 *
 * const guard = tokenGuard({ limit: 2 })
 * const stop = onSessionEvent('tokenAbuse', ({ tokens }) => console.log(`${tokens} guesses`)) // 3 guesses
 * const server = createServer(sessionListener({ store: memoryStore(), guard })((_, res) => res.end()))
 * server.listen(0, async () => {
 *   const { port } = server.address() as { port: number }
 *   const guess = (token: string) => fetch(`http://127.0.0.1:${port}/`, { headers: { cookie: `session=${token}` } })
 *   for (const token of ['a', 'b', 'c']) await guess(token)
 *   stop()
 *   server.close()
 * })
 * ```
 */
export const tokenGuard = (options: TokenGuardOptions = {}): TokenGuard => {
  const { limit = 50, windowMs = 600_000, maxAddresses = 5_000, block = true } = options
  // A set of small numbers for each address: no token is kept.
  numberOption('limit', limit, 0, Number.MAX_SAFE_INTEGER, 'integer')
  const shown = new LRUCache<string, Set<number>>({
    max: numberOption('maxAddresses', maxAddresses, 1, 1e7, 'integer'),
    ttl: numberOption('windowMs', windowMs, 1, Number.MAX_SAFE_INTEGER, 'integer'),
    noUpdateTTL: true,
  })
  return {
    refuses: (address) =>
      block && address !== undefined && (shown.get(networkOf(address))?.size ?? 0) > limit,
    count: (address, token) => {
      if (address === undefined) return
      const client = networkOf(address)
      const tokens = shown.get(client) ?? new Set()
      const before = tokens.size
      if (before <= limit) tokens.add(createHash('sha256').update(token).digest().readUInt32LE() >>> 2)
      shown.set(client, tokens)
      if (before <= limit && tokens.size > limit)
        publish('tokenAbuse', { address: addressOf(address) ?? address, tokens: tokens.size, blocked: block })
    },
  }
}
