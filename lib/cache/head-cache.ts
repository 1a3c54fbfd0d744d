// Reads and writes the heads of sessions in a shared cache.

import { E, O } from '../core/prelude.cjs'
import type { SessionId } from '../core/token.js'
import { publish } from '../store/events.js'
import type { Cache, Swapped } from './contract.js'
import { ENDED, emptyHead, type Head, openHead, sealHead, UNKNOWN_STATE } from './head.js'
import type { Sealing } from './sealed.js'

/** The value of a session in the cache. `unknown` means that the cache did not answer. */
export type HeadRead =
  | { readonly kind: 'unknown' | 'none' }
  | { readonly kind: 'ended'; readonly version: string }
  | { readonly kind: 'head'; readonly head: Head; readonly version: string }

/** A head must stay until its saves are stored. */
const HEAD_TTL_MS = 30 * 24 * 60 * 60_000
/** A head without saves stays for loads that are under way. */
const EMPTY_TTL_MS = 60_000
const ENDED_TTL_MS = 60 * 60_000

export const NO_HEAD = emptyHead(UNKNOWN_STATE)

const keyOf = (id: SessionId): string => `head:${id}`

export class HeadCache {
  readonly #cache: Cache
  readonly #sealing: Sealing

  constructor(cache: Cache, sealing: Sealing) {
    this.#cache = cache
    this.#sealing = sealing
  }

  async read(ids: readonly SessionId[]): Promise<readonly HeadRead[]> {
    const found = await this.#cache.get(ids.map(keyOf))()
    if (E.isLeft(found)) {
      publish('cacheFailed', { operation: 'get', kind: found.left.kind })
      return ids.map(() => ({ kind: 'unknown' }))
    }
    return ids.map((id, index): HeadRead => {
      const value = O.toUndefined(found.right[index] ?? O.none)
      if (value === undefined) return { kind: 'none' }
      const head = O.toUndefined(openHead(this.#sealing, id, value.value))
      // A value that keyrow did not write is replaced.
      if (head === undefined) return { kind: 'head', head: NO_HEAD, version: value.version }
      return head === ENDED
        ? { kind: 'ended', version: value.version }
        : { kind: 'head', head, version: value.version }
    })
  }

  /** Replaces heads. The results are `undefined` if it is not known whether they were replaced. */
  async swap(
    heads: readonly { readonly id: SessionId; readonly head: Head; readonly version: O.Option<string> }[],
  ): Promise<readonly (Swapped | undefined)[]> {
    if (heads.length === 0) return []
    const swapped = await this.#cache.swap(
      heads.map(({ id, head, version }) => ({
        key: keyOf(id),
        value: sealHead(this.#sealing, id, head),
        version,
        ttlMs: head.saves.length === 0 ? EMPTY_TTL_MS : HEAD_TTL_MS,
      })),
    )()
    if (E.isRight(swapped)) return swapped.right
    publish('cacheFailed', { operation: 'swap', kind: swapped.left.kind })
    return heads.map(() => undefined)
  }

  /** Replaces the heads of sessions that have ended by a mark, so that later saves are refused. */
  async markEnded(ids: readonly SessionId[]): Promise<void> {
    if (ids.length === 0) return
    const value = (id: SessionId) => sealHead(this.#sealing, id, ENDED)
    const items = ids.map((id) => ({ key: keyOf(id), value: value(id), ttlMs: ENDED_TTL_MS }))
    const set = await this.#cache.set(items)()
    if (E.isLeft(set)) publish('cacheFailed', { operation: 'set', kind: set.left.kind })
  }
}
