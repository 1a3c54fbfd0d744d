// Decides when the batches of a queue are sent.

import { AsyncLocalStorage } from 'node:async_hooks'
import { numberOption } from '../core/options.js'
import { cancelAlarm, setAlarm, setImmediate } from '../core/process.js'

export interface BatchOptions {
  /** The maximum number of requests in one batch. Up to 32 saves of one session count as one request. Default: 128. */
  readonly maxBatchSize?: number
  /**
   * The maximum number of concurrent statements of one kind. Default: 2. A statement starts while another one runs only
   * if that one has run for over 2 ms, or if many requests wait.
   */
  readonly concurrency?: number
  /** The maximum number of waiting requests of a kind. Further requests fail with a `DriverError`. Default: 10,000. */
  readonly maxQueueSize?: number
  /** A request that waits in the queue for over this many milliseconds fails with a `DriverError`. Default: 12,000. */
  readonly queueTimeoutMs?: number
}

export const limitsOf = ({
  maxBatchSize = 128,
  concurrency = 2,
  maxQueueSize = 10_000,
  queueTimeoutMs = 12_000,
}: BatchOptions): Required<BatchOptions> => ({
  maxBatchSize: numberOption('maxBatchSize', maxBatchSize, 1, 1_000, 'integer'),
  concurrency: numberOption('concurrency', concurrency, 1, 100, 'integer'),
  maxQueueSize: numberOption('maxQueueSize', maxQueueSize, 1, 1e7, 'integer'),
  queueTimeoutMs: numberOption('queueTimeoutMs', queueTimeoutMs, 1, 1e9, 'integer'),
})

export interface BatchSource {
  readonly limits: Pick<Required<BatchOptions>, 'concurrency'>
  /** If this many requests wait, a batch starts while another batch runs. */
  readonly worthAnother: number
  /** Returns the number of waiting requests. */
  readonly size: () => number
  /**
   * Sends the next batch, if one is ready. `slots` is the number of batches of this source that can start now. The
   * batch takes one of these slots until the promise is settled.
   */
  readonly send: (slots: number) => Promise<void> | undefined
}

/** A write that is sent alone may wait long for a lock. It occupies a slot for at most this many milliseconds. */
const SLOT_MS = 50

/** Returns a promise that resolves when a write has ended, or when it no longer occupies its slot. */
export const releaseSlotAfter = (doing: Promise<unknown>): Promise<void> =>
  new Promise((resolve) => {
    const alarm = setAlarm(SLOT_MS, resolve)
    const done = (): void => {
      cancelAlarm(alarm)
      resolve()
    }
    void doing.then(done, done)
  })

/** A batch that runs longer than this time is late. Another batch may start while a late batch runs. */
const LATE_MS = 2

/** After this many requests in a row that arrived alone, the next request is not expected to have company. */
const ALONE_IN_A_ROW = 4

/** A source of a scheduler. */
export interface Member {
  readonly source: BatchSource
  running: number
}

/**
 * Sends the batches of one or several sources. Normally one batch runs at a time, since one large statement costs less
 * than two small ones, and the requests that one batch answers then wait together for the next batch. Up to
 * `concurrency` batches of a source run if the latest batch is late or many requests wait.
 */
export class Scheduler {
  // A batch must not run in the async context of its first request.
  readonly #neutral = AsyncLocalStorage.snapshot()
  /** The sources, in the order of their latest batches. */
  #members: readonly Member[] = []
  #running = 0
  #startedAt = 0
  #aloneInARow = 0
  #scheduled = false
  #watching = false
  readonly #lateMs: number

  constructor(lateMs = LATE_MS) {
    this.#lateMs = lateMs
  }

  add(source: BatchSource): Member {
    const member = { source, running: 0 }
    this.#members = [...this.#members, member]
    return member
  }

  /**
   * Sends a request without a queue and in this turn of the event loop, if nothing runs or waits, and if the latest
   * requests arrived alone. Returns whether it was sent. Otherwise the request must be queued.
   */
  sendAlone(member: Member, send: () => Promise<void>): boolean {
    if (this.#running > 0 || this.#scheduled || this.#aloneInARow < ALONE_IN_A_ROW) return false
    this.#startedAt = performance.now()
    this.#run(member, this.#neutral(send))
    return true
  }

  /** Sends batches after this turn of the event loop, so that they include the requests that arrive in the same turn. */
  schedule(): void {
    if (this.#scheduled) return
    this.#scheduled = true
    this.#neutral(setImmediate, () => {
      this.#scheduled = false
      this.#pump()
    })
  }

  #pump(): void {
    for (const member of this.#members)
      while (hasWork(member) && (this.#isDue() || hasMuchWork(member)) && this.#start(member));
    if (this.#members.some((member) => hasWork(member))) this.#pumpWhenLate()
  }

  #isDue(): boolean {
    return this.#running === 0 || performance.now() - this.#startedAt >= this.#lateMs
  }

  #start(member: Member): boolean {
    const { send, size, limits } = member.source
    this.#aloneInARow = size() === 1 ? this.#aloneInARow + 1 : 0
    const sent = send(limits.concurrency - member.running)
    if (sent === undefined) return false
    this.#startedAt = performance.now()
    this.#members = [...this.#members.filter((other) => other !== member), member]
    this.#run(member, sent)
    return true
  }

  #run(member: Member, sent: Promise<void>): void {
    member.running += 1
    this.#running += 1
    const done = (): void => {
      member.running -= 1
      this.#running -= 1
      for (const other of this.#members) while (hasMuchWork(other) && this.#start(other));
      // A request that arrives later schedules its batch itself.
      if (this.#members.some((other) => hasWork(other))) this.schedule()
    }
    sent.then(done, done)
  }

  #pumpWhenLate(): void {
    if (this.#watching) return
    this.#watching = true
    setAlarm(this.#lateMs, () => {
      this.#watching = false
      this.#pump()
    })
  }
}

/** Whether a source may send a batch, and has at least `count` waiting requests. */
const hasWork = ({ source, running }: Member, count = 1): boolean =>
  running < source.limits.concurrency && source.size() >= count

const hasMuchWork = (member: Member): boolean => hasWork(member, member.source.worthAnother)
