// What was never sent. Where several servers are behind one address, postgres.js 3.4.9 looks which of them it has
// reached, and gives a statement that waited for a standby's connection the error CONNECTION_DESTROYED, instead of
// looking further. Nothing was sent then, so nothing is in doubt. The pool is searched for a server, by one connection
// at a time however many statements wait; then each is tried again, until its time is up.
import { setTimeout as delay } from 'node:timers/promises'
import * as E from 'fp-ts/lib/Either.js'
import { DriverError, withEffect } from '../../core/errors.js'
import { driverError, withDeadline } from '../deadline.js'
import { type Pool, RENEWAL_MS, type Search } from './pool.js'
import { lost, observe } from './workarounds.js'

/** Why a statement was not sent, in words that say what to look for. */
export const notSent = (name: string, pool: Pool, cause: unknown): DriverError => {
  const { target_session_attrs: wanted } = pool.sql.options
  if (
    typeof wanted !== 'string' ||
    (cause as { readonly code?: unknown } | undefined)?.code !== 'CONNECTION_DESTROYED'
  )
    return withEffect(driverError(name, cause), 'none')
  pool.rejectedAt = performance.now()
  return new DriverError(`${name}: the server that was reached is not ${wanted}`, {
    kind: 'unavailable',
    retryable: true,
    effect: 'none',
    cause,
  })
}

/** A statement, or the begin of a transaction, and how it is sent to the pool that there is. */
interface Sending<L, A> {
  readonly name: string
  readonly timeoutMs: number
  readonly pool: () => Pool
  /** `spentMs` is the part of its time that has gone by; `unsent` is called with an error before which nothing was sent. */
  readonly attempt: (own: {
    readonly spentMs: number
    readonly unsent: (error: DriverError) => void
  }) => Promise<E.Either<L | DriverError, A>>
}

/** Attempts it until it was sent, or its time is up. */
export const untilSent = async <L, A>(sending: Sending<L, A>): Promise<E.Either<L | DriverError, A>> => {
  const { name, timeoutMs, attempt } = sending
  const start = performance.now()
  const spent = (): number => performance.now() - start
  let cause: DriverError | undefined
  for (;;) {
    const pool = await trusted(sending.pool, timeoutMs)
    const search = searchIn(pool, cause, start + timeoutMs)
    if (search !== undefined) {
      await waitAtMost(timeoutMs - spent(), search.end)
      cause = search.cause
      if (!search.found || spent() >= timeoutMs) return E.left(neverSent(name, timeoutMs, cause))
    }
    // Of this very attempt: what a transaction's body gives may be such an error of another statement.
    let unsent: DriverError | undefined
    const note = (error: DriverError): void => {
      unsent = error
    }
    const result = await attempt({ spentMs: spent(), unsent: note })
    if (unsent?.retryable !== true || E.isRight(result) || result.left !== unsent) return result
    if (spent() >= timeoutMs) return cause === undefined ? result : E.left(neverSent(name, timeoutMs, cause))
    cause = unsent
  }
}

/** The pool, made again if it was in doubt; which may take a moment, since one is not made right after the other. */
const trusted = async (poolInUse: () => Pool, timeoutMs: number): Promise<Pool> => {
  const deadline = performance.now() + Math.min(timeoutMs, 2 * RENEWAL_MS)
  for (;;) {
    const pool = poolInUse()
    if (pool.health?.suspect !== true || performance.now() > deadline) return pool
    await delay(10)
  }
}

const neverSent = (name: string, timeoutMs: number, why: DriverError): DriverError => {
  const reason = why.message.replace(/^[^:]*: /, '')
  const message = `${name}: not sent within ${String(timeoutMs)} ms: ${reason}`
  return new DriverError(message, {
    kind: 'timeout',
    retryable: true,
    effect: 'none',
    cause: why.cause ?? why,
  })
}

const waitAtMost = async (ms: number, end: Promise<void>): Promise<void> => {
  const timer = new AbortController()
  await Promise.race([end, delay(ms, undefined, { signal: timer.signal }).catch(() => undefined)])
  timer.abort()
}

const SHORTEST_PAUSE_MS = 5
const LONGEST_PAUSE_MS = 250

/** The search that goes on in a pool; or a new one, if there is cause. */
const searchIn = (pool: Pool, cause: DriverError | undefined, until: number): Search | undefined => {
  if (pool.search !== undefined) pool.search.until = Math.max(pool.search.until, until)
  else if (cause !== undefined) pool.search = searched(pool, cause, until)
  return pool.search
}

const searched = (pool: Pool, cause: DriverError, until: number): Search => {
  const run = async (): Promise<void> => {
    for (let delayMs = SHORTEST_PAUSE_MS; ; delayMs = Math.min(2 * delayMs, LONGEST_PAUSE_MS)) {
      await delay(delayMs)
      const left = search.until - performance.now()
      if (left <= 0) break
      const answer = await withDeadline('search', left, () => look(pool))
      // A pool in doubt finds nothing more: another one takes its place.
      search.found =
        pool.health?.suspect === true || E.isRight(answer) || !whyNot(pool, answer.left).retryable
      if (search.found) break
    }
    pool.search = undefined
  }
  const search: Search = { cause, until, found: false, end: Promise.resolve().then(run) }
  return search
}

/** One statement of a search. Its answer counts only if it is the primary's, as every other statement's does. */
const look = (pool: Pool): PromiseLike<unknown> => {
  const pending = pool.sql.unsafe('select')
  const seen = pool.health && observe(pending, pool.health)
  return pending.then(
    (result) => {
      if (seen?.isAnswerTrusted() === false) throw lost('search')
      return result
    },
    (error: unknown) => {
      throw seen?.isErrorTrusted(error) === false ? lost('search', error) : error
    },
  )
}

/** What a search met. One that had no answer in its time has no error of the driver's. */
const whyNot = (pool: Pool, error: DriverError): DriverError =>
  error.cause === undefined ? error : notSent('search', pool, error.cause)
