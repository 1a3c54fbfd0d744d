// Decides when the saves of heads are stored. Any process may store the head of a session, at any time and repeatedly. A
// process keeps its own saves in a journal until they are stored. If a head is lost, the process saves them again, each with
// its own idempotency key.

import { DriverError, type StoreError } from '../core/errors.js'
import { E, O } from '../core/prelude.cjs'
import { delay, neutral, setTimeout } from '../core/process.js'
import { newIdempotencyKey, type SessionId } from '../core/token.js'
import type { Change } from '../store/contract.js'
import { closedBy, type Head, openedBy, UNKNOWN_STATE } from './head.js'
import { type HeadCache, type HeadRead, NO_HEAD } from './head-cache.js'
import { busy, HeadStore, type LateStore, type Stored } from './head-store.js'
import { LateJournals } from './late-journals.js'

export interface LateOptions {
  readonly flushMs: number
  readonly maxBehindMs: number
  readonly maxJournal: number
}

const MAX_ATTEMPTS = 50
/** From this attempt on, a flush waits for the lock of the session. Before, its statement skips a locked session. */
const MAX_UNLOCKED = 6
/** A flush that waits for locks ends after this time, and the next flush tries again. */
const MAX_FLUSH_MS = 3_000
const MAX_DELAY_MS = 50
const HEADS_PER_STATEMENT = 64
const MAX_ROUNDS = 10

const chunksOf = (ids: readonly SessionId[]): readonly (readonly SessionId[])[] =>
  Array.from({ length: Math.ceil(ids.length / HEADS_PER_STATEMENT) }, (_, index) =>
    ids.slice(index * HEADS_PER_STATEMENT, (index + 1) * HEADS_PER_STATEMENT),
  )

const isRetryable = (error: StoreError): boolean => error instanceof DriverError && error.retryable

/** The store is told to forget old saves once in this time. */
const FORGET_MS = 60_000

/** A session whose head is stored, and to which no process adds a save until `open` is called. */
export interface Closed {
  readonly stored: Stored
  readonly open: () => Promise<void>
}

/** The late saves of a process that are not known to be stored. */
export interface LateBacklog {
  readonly saves: number
  /** The time since the oldest of these saves, in milliseconds, or 0. */
  readonly ageMs: number
}

export class LateQueue {
  readonly store: HeadStore
  readonly #heads: HeadCache
  readonly #options: LateOptions
  readonly #journals = new LateJournals()
  readonly #forget: LateStore['late']['forget']
  /** Sessions whose head seems to be left behind by a process that has ended. */
  readonly #adopted = new Set<SessionId>()
  #isScheduled = false
  #isDraining = false
  #forgotAt = performance.now()

  constructor(store: LateStore, heads: HeadCache, options: LateOptions) {
    this.store = new HeadStore(store, heads, this.#journals)
    this.#forget = store.late.forget
    this.#heads = heads
    this.#options = options
  }

  /** Whether saves have to wait for the store, since too many saves are behind, or some are behind for too long. */
  isOverloaded(): boolean {
    const { count, behindMs } = this.#journals
    return this.#isDraining || count >= this.#options.maxJournal || behindMs > this.#options.maxBehindMs
  }

  readonly backlog = (): LateBacklog => ({ saves: this.#journals.count, ageMs: this.#journals.behindMs })

  /** Whether the process of the head's saves seems to have ended. The clocks of the processes may differ. */
  isLeftBehind({ saves, at }: Head): boolean {
    return saves.length > 0 && Date.now() - at > 3 * this.#options.flushMs + 1_000
  }

  /** Whether a change may be stored already. */
  mayBeStored({ save, mayBeDone = false }: Change): boolean {
    return mayBeDone || this.#journals.wasStored(save)
  }

  ownHead(id: SessionId): Head | undefined {
    return this.#journals.headOf(id)
  }

  /**
   * Whether a head lacks saves of this process, so that they have to be stored before the head is used. Otherwise a later
   * save of the process could survive them.
   */
  isMissingIn(id: SessionId, head: Head): boolean {
    return this.#journals.isMissingIn(id, head)
  }

  /** Stores the saves of this process that a head lacks. Another process may have stored them already. */
  async storeMissing(id: SessionId, head: Head): Promise<E.Either<StoreError, unknown>> {
    const saves = this.#journals.changesOf(id).map(({ save }) => save)
    const state = await this.store.find(id, UNKNOWN_STATE, saves)
    return E.isLeft(state) || !this.isMissingIn(id, head) ? state : this.flush(id)
  }

  /** Adds saves that the cache has in this head. */
  add(id: SessionId, changes: readonly Change[], head: Head): void {
    this.#journals.add(id, changes, head)
    this.#schedule()
  }

  /** Stores the head of a session soon, although this process has no save in it. */
  adopt(id: SessionId): void {
    this.#adopted.add(id)
    this.#schedule()
  }

  async ended(ids: readonly SessionId[]): Promise<void> {
    for (const id of ids) this.#journals.drop(id)
    await this.#heads.markEnded(ids)
  }

  /** Stores all saves. After an error of one session the others are stored, too. */
  readonly flushNow = async (): Promise<E.Either<StoreError, void>> => {
    let result: E.Either<StoreError, void> = E.right(undefined)
    for (const ids of chunksOf(this.#journals.ids)) {
      await this.#flushAll(ids)
      for (const id of ids.filter((one) => this.#journals.has(one))) {
        const stored = await this.flush(id)
        if (E.isLeft(stored)) result = stored
      }
    }
    return result
  }

  /** Stores all saves. From then on all saves wait for the store. */
  readonly drain = async (): Promise<E.Either<StoreError, void>> => {
    this.#isDraining = true
    let result = await this.flushNow()
    // Saves that were under way may have come meanwhile.
    for (let round = 1; round < MAX_ROUNDS && E.isRight(result) && this.#journals.size > 0; round += 1)
      result = await this.flushNow()
    return result
  }

  #schedule(): void {
    if (this.#isScheduled) return
    this.#isScheduled = true
    // A program that ends without `drain` must not wait for this timer.
    neutral(setTimeout, () => void this.#tick(), this.#options.flushMs).unref()
  }

  async #tick(): Promise<void> {
    try {
      const ids = [...new Set([...this.#journals.ids, ...this.#adopted])]
      this.#adopted.clear()
      for (const some of chunksOf(ids)) await this.#flushAll(some)
      if (performance.now() - this.#forgotAt > FORGET_MS) {
        this.#forgotAt = performance.now()
        await this.#forget()
      }
    } catch {
      // A function of the program has thrown, such as an observer of the database. The next tick tries again.
    } finally {
      this.#isScheduled = false
      if (this.#journals.size > 0 || this.#adopted.size > 0) this.#schedule()
    }
  }

  /** Stores the heads of several sessions with one statement, and then the saves that are in no head. */
  async #flushAll(ids: readonly SessionId[]): Promise<void> {
    // The heads that are read next have these saves, unless they are stored or the cache has lost them.
    const own = ids.map((id) => this.#journals.changesOf(id))
    const reads = await this.#heads.read(ids)
    const full = ids.flatMap((id, index) => {
      const read = reads[index] as HeadRead
      return read.kind === 'head' && read.head.saves.length > 0 ? [{ id, ...read }] : []
    })
    const stored = full.length === 0 ? E.right([]) : await this.store.store(full)
    // An error that is not retryable may concern one session only.
    if (E.isLeft(stored) && isRetryable(stored.left)) return
    const done = E.isLeft(stored) ? [] : full.filter((_, index) => stored.right[index] === true)
    await this.store.shorten(done)
    const isDone = new Set(done.map(({ id }) => id))
    // A save that has come meanwhile waits for the next flush.
    const rest = ids.filter((id, index) => !isDone.has(id) || this.#isLeft(id, own[index] ?? []))
    await Promise.all(rest.map((id) => this.flush(id)))
  }

  /**
   * Stores the head of a session, and the saves of this process that are in no head. `unknown` means that the cache does
   * not answer, so the saves of other processes may not be stored.
   */
  async flush(id: SessionId, isHurried = false): Promise<E.Either<StoreError, Stored>> {
    const until = performance.now() + MAX_FLUSH_MS
    for (
      let attempt = isHurried ? MAX_UNLOCKED : 1;
      attempt <= MAX_ATTEMPTS && performance.now() < until;
      attempt += 1
    ) {
      // The head that is read next has these saves, unless they are stored or the cache has lost them.
      const own = this.#journals.changesOf(id)
      const read = await this.#read(id)
      if (E.isLeft(read)) return read
      const step = await this.#flushOnce(id, read.right, own, attempt >= MAX_UNLOCKED)
      if (E.isLeft(step)) return step
      if (step.right !== 'again') return E.right(step.right)
      if (attempt > 2) await delay(Math.min(2 * attempt, MAX_DELAY_MS))
    }
    return E.left(busy(id))
  }

  async #flushOnce(
    id: SessionId,
    read: HeadRead,
    own: readonly Change[],
    isLocked: boolean,
  ): Promise<E.Either<StoreError, Stored | 'again'>> {
    if (read.kind === 'ended') {
      this.#journals.drop(id)
      return E.right('gone')
    }
    if (read.kind !== 'head' || read.head.saves.length === 0) return this.#storeOwn(id, read, own)
    const { head, version } = read
    const stored = await (isLocked
      ? this.store.storeLocked(id, head, version, own)
      : this.#storeOrSettle(id, head, version))
    if (E.isLeft(stored) || stored.right !== 'stored') return stored
    return E.right(this.#isLeft(id, own) ? 'again' : 'stored')
  }

  /**
   * Stores saves of this process that are in no head. If they were made on saves of other processes, these saves come first,
   * since those processes may have ended.
   */
  async #storeOwn(
    id: SessionId,
    read: HeadRead,
    own: readonly Change[],
  ): Promise<E.Either<StoreError, Stored | 'again'>> {
    const head = own.length === 0 ? undefined : this.#journals.headOf(id)
    if (head === undefined || head.saves.every((save) => own.some((change) => change.save === save.id)))
      return this.store.saveOwn(id, read, own)
    const saves = own.map(({ save }) => save)
    const state = await this.store.find(id, UNKNOWN_STATE, saves)
    if (E.isLeft(state)) return state
    if (state.right === undefined) return E.right('gone')
    const missing = saves.some((save) => state.right?.stored.includes(save) !== true)
    const stored = missing
      ? await this.store.storeLocked(id, head, undefined, own)
      : E.right('stored' as const)
    if (E.isLeft(stored) || stored.right !== 'stored') return stored
    if (this.#isLeft(id, own)) return E.right('again')
    return E.right(read.kind === 'unknown' ? 'unknown' : 'stored')
  }

  /** Whether some of these saves are not known to be stored. */
  #isLeft(id: SessionId, own: readonly Change[]): boolean {
    const present = this.#journals.changesOf(id)
    return own.some((change) => present.includes(change))
  }

  /** Reads the head. The mark of an end counts only if the store agrees, since the store may have been restored. */
  async #read(id: SessionId): Promise<E.Either<StoreError, HeadRead>> {
    const [read] = (await this.#heads.read([id])) as readonly [HeadRead]
    if (read.kind !== 'ended') return E.right(read)
    const state = await this.store.find(id, UNKNOWN_STATE, [])
    if (E.isLeft(state)) return state
    return E.right(state.right === undefined ? read : { kind: 'head', head: NO_HEAD, version: read.version })
  }

  async #storeOrSettle(
    id: SessionId,
    head: Head,
    version: string,
  ): Promise<E.Either<StoreError, 'stored' | 'gone' | 'again'>> {
    const stored = await this.store.store([{ id, head }])
    if (E.isLeft(stored)) return stored
    if (stored.right[0] !== true) return this.store.settle(id, head, version)
    await this.store.shorten([{ id, head, version }])
    return E.right('stored')
  }

  /**
   * Stores the head of a session, and keeps all processes from adding saves until `open` is called. So a save in the store
   * comes after the saves in the head.
   */
  async close(id: SessionId): Promise<E.Either<StoreError, Closed>> {
    const closer = newIdempotencyKey()
    for (let attempt = 1; attempt <= MAX_ATTEMPTS; attempt += 1) {
      const found = await this.#read(id)
      if (E.isLeft(found)) return found
      const read = found.right
      if (read.kind === 'ended') {
        this.#journals.drop(id)
        return E.right({ stored: 'gone', open: nothing })
      }
      const [head, version] = read.kind === 'head' ? [read.head, O.some(read.version)] : [NO_HEAD, O.none]
      const [closed] =
        read.kind === 'unknown'
          ? [undefined]
          : await this.#heads.swap([{ id, head: closedBy(head, closer, Date.now()), version }])
      if (closed?.isStored === false) continue
      const stored = await this.flush(id)
      const open = (): Promise<void> => this.#open(id, closer)
      if (E.isRight(stored)) return E.right({ stored: stored.right, open })
      await open()
      return stored
    }
    return E.left(busy(id))
  }

  async #open(id: SessionId, closer: string): Promise<void> {
    for (let attempt = 1; attempt <= MAX_ATTEMPTS; attempt += 1) {
      const [read] = (await this.#heads.read([id])) as readonly [HeadRead]
      if (read.kind !== 'head') return
      // The head names the present state, so that nobody takes an older one for it. If the store fails, it opens by itself.
      const state = await this.store.find(id, UNKNOWN_STATE, [])
      if (E.isLeft(state) || state.right === undefined) return
      const head = openedBy(read.head, closer, state.right)
      const [opened] = await this.#heads.swap([{ id, head, version: O.some(read.version) }])
      if (opened?.isStored !== false) return
    }
  }
}

const nothing = (): Promise<void> => Promise.resolve()
