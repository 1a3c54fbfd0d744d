// Implements a guard against guessed tokens. The guard counts the different foreign tokens of each client address. The
// token of an ended session does not count, because browsers continue to send it.

import { createHash } from 'node:crypto'
import { LRUCache } from 'lru-cache'
import { numberOption } from '../core/options.js'
import { publish } from '../store/events.js'
import { addressOf, networkOf } from './forwarded.js'

export interface TokenGuardOptions {
  /** An address is suspicious once it has sent more different foreign tokens than this number. Default: 50. */
  readonly limit?: number
  /** The count of an address starts again this many milliseconds after its first foreign token. Default: 10 minutes. */
  readonly windowMs?: number
  /** The maximum number of addresses in memory. The least recently used address is dropped first. Default: 5,000. */
  readonly maxAddresses?: number
  /** Whether foreign tokens of a suspicious address are rejected, and not only reported. Default: true. */
  readonly block?: boolean
}

export interface TokenGuard {
  /** An address is suspicious once it has sent more different foreign tokens than this number. */
  readonly limit: number
  /** @internal Whether this address is blocked. The foreign tokens of a blocked address are not looked up. */
  readonly refuses: (address: string | undefined) => boolean
  /** @internal Counts a foreign token. */
  readonly count: (address: string | undefined, token: string) => void
}

/**
 * Makes a guard for the option `guard` of one or several adapters. The guard counts foreign tokens: forged, malformed,
 * or made by another installation. An address with more than `limit` foreign tokens is reported with the event
 * `tokenAbuse`. The guard then blocks the address until the end of `windowMs`, unless `block` is false. No foreign
 * token of a blocked address is looked up in the database. Valid tokens from this address still open their sessions,
 * and a client without a token can sign in. All addresses of an IPv6 network (/64) count as one address.
 *
 * @example
 * ```ts
 * import { onSessionEvent } from 'keyrow'
 * import { tokenGuard } from 'keyrow/adapter'
 * import { fetchHandler } from 'keyrow/fetch'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const options = { store: memoryStore(), guard: tokenGuard({ limit: 2 }), addressOf: () => '203.0.113.7' }
 * const handle = fetchHandler(options)(() => new Response('hello'))
 * const stop = onSessionEvent('tokenAbuse', ({ tokens }) => console.log(`${tokens} guesses`)) // 3 guesses
 * for (const token of ['a', 'b', 'c'])
 *   await handle(new Request('http://shop.example/', { headers: { cookie: `session=${token}` } }))
 * stop()
 * ```
 */
export const tokenGuard = (options: TokenGuardOptions = {}): TokenGuard => {
  const { limit = 50, windowMs = 600_000, maxAddresses = 5_000, block = true } = options
  numberOption('limit', limit, 0, Number.MAX_SAFE_INTEGER, 'integer')
  // For each address the guard keeps the hashes of tokens, not the tokens.
  const guesses = new LRUCache<string, Set<number>>({
    max: numberOption('maxAddresses', maxAddresses, 1, 1e7, 'integer'),
    ttl: numberOption('windowMs', windowMs, 1, Number.MAX_SAFE_INTEGER, 'integer'),
    noUpdateTTL: true,
  })
  return {
    limit,
    refuses: (address) =>
      block && address !== undefined && (guesses.get(networkOf(address))?.size ?? 0) > limit,
    count: (address, token) => {
      if (address === undefined) return
      const client = networkOf(address)
      const tokens = guesses.get(client) ?? new Set()
      guesses.set(client, tokens)
      if (tokens.size > limit) return
      tokens.add(createHash('sha256').update(token).digest().readUInt32LE() >>> 2)
      if (tokens.size > limit)
        publish('tokenAbuse', { address: addressOf(address) ?? address, tokens: tokens.size, blocked: block })
    },
  }
}
