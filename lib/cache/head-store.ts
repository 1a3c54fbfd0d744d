// Brings heads into the store. The store accepts a head only on the state from which the head was made. If another request
// has changed the session beside the head, the head is made again on the present state.

import { applyEdits } from '../core/edits.js'
import { DriverError, type SaveConflict, type SessionGone, type StoreError } from '../core/errors.js'
import { E, O } from '../core/prelude.cjs'
import { cancelAlarm, setAlarm } from '../core/process.js'
import { emptySnapshot, type Snapshot } from '../core/session.js'
import type { IdempotencyKey, SessionId } from '../core/token.js'
import type {
  Change,
  HeaderState,
  LateSaves,
  LateState,
  LockedSession,
  SavedSnapshot,
  SessionStore,
} from '../store/contract.js'
import { publish } from '../store/events.js'
import {
  type Head,
  hasSave,
  isFull,
  rebased,
  requestOf,
  savesIn,
  tipOf,
  UNKNOWN_STATE,
  withoutStored,
  withSave,
} from './head.js'
import type { HeadCache, HeadRead } from './head-cache.js'
import type { LateJournals } from './late-journals.js'

/** After this time the store may have forgotten a save. */
const OLD_MS = 50 * 60_000

export type LateStore = SessionStore & { readonly late: LateSaves }

/** The result of a flush. `unknown` means that the cache did not answer, so saves of other processes may be missing. */
export type Stored = 'stored' | 'gone' | 'unknown'

export type SaveError = StoreError | SessionGone | SaveConflict
type Result<A> = Promise<E.Either<StoreError, A>>

/** A head on the present state of the store, and the number of saves that were left out. */
interface Settled {
  readonly head: Head
  /** The number of saves of other processes that were left out. */
  readonly dropped: number
  /** Saves of this process whose functions throw on the present values. */
  readonly failed: readonly IdempotencyKey[]
}

/** If other requests replace a head this many times, the next flush finds that its saves are stored. */
const MAX_SWAPS = 3

/** A head with saves, and its version in the cache. */
export interface CachedHead {
  readonly id: SessionId
  readonly head: Head
  readonly version: string
}

/** The number of sessions that a process locks at a time. A lock takes a connection of the pool. */
const MAX_LOCKS = 2

/** Saves in no head wait for their turn for this time. */
const MAX_WAIT_MS = 3_000

export class HeadStore {
  readonly #store: LateStore
  readonly #heads: HeadCache
  readonly #journals: LateJournals
  #locks = 0
  /** The saves that wait for their turn. */
  readonly #waiting: (() => void)[] = []

  constructor(store: LateStore, heads: HeadCache, journals: LateJournals) {
    this.#store = store
    this.#heads = heads
    this.#journals = journals
  }

  /** Stores the saves of heads with one statement. The results say which heads this call has stored. */
  async store(heads: readonly { readonly id: SessionId; readonly head: Head }[]): Result<readonly boolean[]> {
    const start = performance.now()
    const stored = await this.#store.late.store(heads.map(({ id, head }) => requestOf(id, head)))()
    if (E.isLeft(stored)) return stored
    const done = heads.filter((_, index) => stored.right[index] === true)
    this.#noteStored(done, start)
    return stored
  }

  #noteStored(heads: readonly { readonly id: SessionId; readonly head: Head }[], start: number): void {
    for (const { id, head } of heads) this.#journals.remove(id, ({ save }) => hasSave(head, save))
    const saves = heads.reduce((sum, { head }) => sum + head.saves.length, 0)
    if (saves > 0)
      publish('lateStored', { sessions: heads.length, saves, durationMs: performance.now() - start })
  }

  /** Finds which of the saves are stored, and removes these from the journal. The result is `undefined` after the end. */
  async find(
    id: SessionId,
    base: HeaderState,
    saves: readonly IdempotencyKey[],
    late: Pick<LateSaves, 'find'> = this.#store.late,
  ): Result<LateState | undefined> {
    const found = await late.find(id, base, saves)()
    if (E.isLeft(found)) return found
    const state = O.toUndefined(found.right)
    if (state === undefined) this.#journals.drop(id)
    else this.#journals.remove(id, ({ save }) => state.stored.includes(save))
    return E.right(state)
  }

  /** Brings a head in the cache into agreement with the store, which has refused it. */
  async settle(id: SessionId, head: Head, version: string): Result<'gone' | 'again'> {
    const { late, refresh } = this.#store
    const settled = await this.#settled(id, head, { ...late, refresh })
    if (E.isLeft(settled)) return settled
    if (typeof settled.right === 'string') return E.right(settled.right)
    const { head: next, dropped } = settled.right
    noteDropped(id, dropped)
    if (next !== head) await this.#heads.swap([{ id, head: next, version: O.some(version) }])
    return E.right('again')
  }

  /** Makes a head again on the present state. `again` means that another save came between two reads. */
  async #settled(
    id: SessionId,
    head: Head,
    { find, refresh }: Pick<LockedSession, 'find' | 'refresh'>,
  ): Result<Settled | 'gone' | 'again'> {
    const changes = this.#journals.changesOf(id)
    const saves = [...head.saves.map((save) => save.id), ...changes.map(({ save }) => save)]
    const state = await this.find(id, head.base, saves, { find })
    if (E.isLeft(state)) return state
    if (state.right === undefined) return E.right('gone')
    const { stored: done, versionTag } = state.right
    const count = savesIn(head, state.right)
    if (count !== undefined)
      return E.right({ head: count === 0 ? head : withoutStored(head, count), dropped: 0, failed: [] })
    const found = await refresh(id, emptySnapshot)()
    if (E.isLeft(found)) return found
    const stored = O.toUndefined(found.right)
    if (stored?.versionTag !== versionTag) return E.right('again')
    const own = new Map(changes.map((change) => [change.save, change]))
    const next = rebased(head, stored, state.right, own, Date.now() - head.at > OLD_MS)
    const kept = new Set(next.saves.map((save) => save.id))
    // A save of this process that was left out is in the journal, and is tried again.
    const dropped = head.saves.filter(({ id }) => !kept.has(id) && !done.includes(id) && !own.has(id)).length
    return E.right({ head: next, dropped, failed: [] })
  }

  /**
   * Stores a head, and saves of this process that are in no head, while the session is locked. So other requests cannot
   * change the session in between, however many there are. `own` was read before the head, so its saves are in the head,
   * are stored, or were lost. `version` is the version of the head, or `undefined` if the cache does not have it.
   */
  async storeLocked(
    id: SessionId,
    head: Head,
    version: string | undefined,
    own: readonly Change[],
  ): Result<'stored' | 'gone' | 'again'> {
    // Saves in no head wait for their turn, since there may be many of them after the cache has lost its values.
    if (!(await this.#takeTurn(version === undefined ? MAX_WAIT_MS : 0))) return E.right('again')
    try {
      const start = performance.now()
      const done = await this.#store.late.locked(
        id,
        (inside) => () => this.#storeInside(id, head, own, inside),
      )()
      if (E.isLeft(done)) return done
      if (done.right === 'busy') return E.right('again')
      const result = O.toUndefined(done.right) ?? 'gone'
      if (typeof result !== 'string') return await this.#noteLocked(id, version, result, start)
      if (result === 'gone') this.#journals.drop(id)
      return E.right(result)
    } finally {
      this.#locks -= 1
      this.#waiting.shift()?.()
    }
  }

  /** Waits until fewer sessions are locked. Returns false if it takes too long. */
  async #takeTurn(timeoutMs: number): Promise<boolean> {
    const until = performance.now() + timeoutMs
    while (this.#locks >= MAX_LOCKS) {
      const left = until - performance.now()
      if (left <= 0) return false
      await new Promise<void>((resolve) => {
        const alarm = setAlarm(left, () => {
          this.#waiting.splice(this.#waiting.indexOf(goOn), 1)
          resolve()
        })
        const goOn = (): void => {
          cancelAlarm(alarm)
          resolve()
        }
        this.#waiting.push(goOn)
      })
    }
    this.#locks += 1
    return true
  }

  /** Changes nothing but the store, since the transaction may fail. */
  async #storeInside(
    id: SessionId,
    head: Head,
    own: readonly Change[],
    inside: LockedSession,
  ): Result<Settled | 'gone' | 'again'> {
    const settled = await this.#settled(id, head, inside)
    if (E.isLeft(settled) || typeof settled.right === 'string') return settled
    const all = await this.#withOwn(id, settled.right, own, inside)
    if (E.isLeft(all) || all.right.head.saves.length === 0) return all
    const stored = await inside.store([requestOf(id, all.right.head)])()
    return E.map(([isStored]: readonly boolean[]) => (isStored === true ? all.right : ('again' as const)))(
      stored,
    )
  }

  async #noteLocked(
    id: SessionId,
    version: string | undefined,
    { head, dropped, failed }: Settled,
    start: number,
  ): Result<'stored'> {
    this.#noteStored([{ id, head }], start)
    this.#journals.remove(id, ({ save }) => failed.includes(save))
    // A process stores its own saves itself, so what is left out of a head that the cache has lost may still be stored.
    noteDropped(id, (version === undefined ? 0 : dropped) + failed.length)
    if (version !== undefined) await this.shorten([{ id, head, version }])
    return E.right('stored')
  }

  /** Removes all saves of these heads, which are stored, from the cache. Saves that have come meanwhile stay. */
  async shorten(heads: readonly CachedHead[]): Promise<void> {
    let left = heads.map((one) => ({ ...one, state: withoutStored(one.head, one.head.saves.length).base }))
    for (let attempt = 1; left.length > 0 && attempt <= MAX_SWAPS; attempt += 1) {
      const shorter = left.map(({ id, head, version, state }) => ({
        id,
        head: withoutStored(head, savesIn(head, state) ?? 0),
        version: O.some(version),
      }))
      const swapped = await this.#heads.swap(shorter)
      left = left.filter((_, index) => swapped[index]?.isStored === false)
      const reads = left.length === 0 ? [] : await this.#heads.read(left.map(({ id }) => id))
      left = left.flatMap((one, index) => {
        const read = reads[index]
        const isLonger = read?.kind === 'head' && (savesIn(read.head, one.state) ?? 0) > 0
        return isLonger ? [{ ...one, head: read.head, version: read.version }] : []
      })
    }
  }

  /** Adds saves of this process that are neither stored nor in the head, as far as there is room. */
  async #withOwn(
    id: SessionId,
    settled: Settled,
    own: readonly Change[],
    { refresh }: Pick<LockedSession, 'refresh'>,
  ): Result<Settled> {
    const present = new Set(this.#journals.changesOf(id))
    const missing = own.filter((change) => present.has(change) && !hasSave(settled.head, change.save))
    if (missing.length === 0) return E.right(settled)
    const found = await refresh(id, emptySnapshot)()
    if (E.isLeft(found)) return found
    if (O.isNone(found.right)) return E.right(settled)
    let { head } = settled
    const failed: IdempotencyKey[] = []
    for (const change of missing) {
      if (isFull(head, 1)) break
      const { entries } = tipOf(head, found.right.value)
      const applied = E.tryCatch(
        () => applyEdits(change.edits, entries),
        () => undefined,
      )
      if (E.isRight(applied)) head = withSave(head, change, applied.right, Date.now())
      else failed.push(change.save)
    }
    return E.right({ head, dropped: settled.dropped, failed })
  }

  /** Whether the store has all saves of a head, and has not changed since `stored` was read. */
  async covers(id: SessionId, head: Head, stored: Snapshot): Promise<boolean> {
    const saves = head.saves.map((save) => save.id)
    const state = await this.find(id, UNKNOWN_STATE, saves)
    if (E.isLeft(state) || state.right === undefined || state.right.versionTag !== stored.versionTag)
      return false
    const { stored: done } = state.right
    return saves.every((save) => done.includes(save))
  }

  /** Saves a change that may be stored already. */
  saveOnce(id: SessionId, change: Change): Promise<E.Either<SaveError, SavedSnapshot>> {
    return this.#store.late.save(id, change)()
  }

  /** Saves changes of this process that are in no head. Either they are stored already, or the head was lost. */
  async saveOwn(id: SessionId, { kind }: HeadRead, own: readonly Change[]): Result<Stored> {
    const stored = kind === 'unknown' ? 'unknown' : 'stored'
    if (own.length === 0) return E.right(stored)
    const saves = own.map(({ save }) => save)
    const state = await this.find(id, UNKNOWN_STATE, saves)
    if (E.isLeft(state)) return state
    if (state.right === undefined) return E.right('gone')
    const { stored: done } = state.right
    for (const change of own.filter(({ save }) => !done.includes(save))) {
      const saved = await this.#saveAgain(id, change)
      if (E.isLeft(saved)) {
        if (saved.left._tag !== 'SessionGone' && saved.left._tag !== 'SaveConflict') return E.left(saved.left)
        this.#journals.drop(id)
        return E.right('gone')
      }
      this.#journals.remove(id, ({ save }) => save === change.save)
    }
    return E.right(stored)
  }

  /** Saves an answered change again. If its function throws on the newer values, the change is dropped. */
  async #saveAgain(id: SessionId, change: Change): Promise<E.Either<SaveError, unknown>> {
    try {
      return await this.saveOnce(id, change)
    } catch {
      noteDropped(id, 1)
      return E.right(undefined)
    }
  }
}

const noteDropped = (id: SessionId, saves: number): void => {
  if (saves > 0) publish('lateDropped', { id, saves })
}

/** Returns the error of an operation that gives up, because other requests change or lock the session all the time. */
export const busy = (id: SessionId): DriverError =>
  new DriverError(`the session ${id} is locked, or changes too fast`, {
    kind: 'unavailable',
    retryable: true,
    effect: 'none',
  })
