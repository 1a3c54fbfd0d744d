// Keeps the late saves of this process, with their functions, until they are known to be stored.

import { LRUCache } from 'lru-cache'
import type { IdempotencyKey, SessionId } from '../core/token.js'
import type { Change } from '../store/contract.js'
import { publish } from '../store/events.js'
import { type Head, hasSave, savesIn } from './head.js'

/** The saves of this process of one session that are not known to be stored, the oldest first. */
interface Journal {
  readonly changes: Map<IdempotencyKey, Change>
  /** The newest head with these saves that this process has written. */
  head: Head | undefined
  /** The time of the oldest save, as a value of `performance.now()`. */
  readonly since: number
}

/** The number of stored saves that a process remembers, so that it recognises a repeated save. */
const MAX_STORED = 10_000

export class LateJournals {
  readonly #stored = new LRUCache<IdempotencyKey, true>({ max: MAX_STORED })
  readonly #journals = new Map<SessionId, Journal>()
  /** The number of saves. */
  count = 0

  get size(): number {
    return this.#journals.size
  }

  get ids(): readonly SessionId[] {
    return [...this.#journals.keys()]
  }

  /** The time since the oldest save, in milliseconds. */
  get behindMs(): number {
    const [oldest] = this.#journals.values()
    return oldest === undefined ? 0 : performance.now() - oldest.since
  }

  /** Whether a save of this process may be stored. */
  wasStored(save: IdempotencyKey): boolean {
    return this.#stored.has(save)
  }

  has(id: SessionId): boolean {
    return this.#journals.has(id)
  }

  headOf(id: SessionId): Head | undefined {
    return this.#journals.get(id)?.head
  }

  /** Whether a head, and the state of the store below it, lack saves of this process, as far as the process knows. */
  isMissingIn(id: SessionId, head: Head): boolean {
    const journal = this.#journals.get(id)
    if (journal?.head === undefined || journal.head === head) return false
    const missing = [...journal.changes.keys()].filter((save) => !hasSave(head, save))
    if (missing.length === 0) return false
    const stored = journal.head.saves.slice(0, savesIn(journal.head, head.base) ?? 0)
    return !missing.every((save) => stored.some(({ id }) => id === save))
  }

  changesOf(id: SessionId): readonly Change[] {
    return [...(this.#journals.get(id)?.changes.values() ?? [])]
  }

  add(id: SessionId, changes: readonly Change[], head: Head): void {
    const journal = this.#journals.get(id) ?? { changes: new Map(), head, since: performance.now() }
    journal.head = head
    for (const change of changes) {
      if (journal.changes.has(change.save)) continue
      this.count += 1
      // The store remembers late saves itself.
      journal.changes.set(change.save, { ...change, mayBeDone: false })
    }
    this.#journals.set(id, journal)
  }

  remove(id: SessionId, isStored: (change: Change) => boolean): void {
    const journal = this.#journals.get(id)
    if (journal === undefined) return
    for (const change of journal.changes.values())
      if (isStored(change)) {
        journal.changes.delete(change.save)
        this.#stored.set(change.save, true)
        this.count -= 1
      }
    if (journal.changes.size === 0) this.#journals.delete(id)
  }

  /** Removes the saves of a session that has ended. */
  drop(id: SessionId): void {
    const size = this.#journals.get(id)?.changes.size ?? 0
    if (size > 0) publish('lateDropped', { id, saves: size })
    this.remove(id, () => true)
  }
}
