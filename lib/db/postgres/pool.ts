// The postgres.js pool in use, and how it is replaced. A connection that is neither answered nor closed (a black
// hole: a firewall that forgot it, a machine that went without a word) keeps its place in a pool until the
// operating system gives it up, after a quarter of an hour, and postgres.js can close no single connection. So
// when a statement missed its deadline, the server is asked on a new pool's connection: if it answers, and is not
// still busy with what the old one waits for, then it is the connections that failed, and the new pool takes over.
// Another one also takes over, without any question, from one that is in doubt (postgres-backend.ts).
import * as E from 'fp-ts/lib/Either.js'
import type { DriverError } from '../../core/errors.js'
import { setTimeout } from '../../core/process.js'
import { ON_PRIMARY } from '../database.js'
import { withDeadline } from '../deadline.js'
import { closeSockets, newHealth, type PoolHealth } from './workarounds.js'

export interface Sender {
  unsafe(
    text: string,
    params?: never[],
    options?: { readonly prepare?: boolean; readonly simple?: boolean },
  ): Pending
}

/** A statement that is sent once it is waited for; `raw` asks for its rows as they come over the network. */
interface Pending extends PromiseLike<unknown> {
  raw(): PromiseLike<unknown>
}

/** What a transaction of postgres.js can do. */
export interface Scoped extends Sender {
  savepoint(body: (tx: Scoped) => Promise<unknown>): Promise<unknown>
}

interface PoolOptions {
  readonly prepare?: boolean
  readonly max?: number
  readonly max_pipeline?: number
  readonly host?: readonly string[]
  readonly target_session_attrs?: unknown
}

/** What keyrow uses of a postgres.js pool: what `postgres(url)` gives. */
export interface PostgresJs extends Sender {
  typed(value: string | null, type: number): unknown
  begin(options: string, body: (tx: Scoped) => Promise<unknown>): Promise<unknown>
  end(options?: { readonly timeout?: number }): Promise<void>
  readonly options: PoolOptions
}

/** A pool while it is in use, what was sent through it and not answered yet, and when something was last. */
export interface Pool {
  readonly sql: PostgresJs
  readonly pending: Set<PromiseLike<unknown>>
  answeredAt: number
  /** Where there may be several servers behind its address. */
  readonly health: PoolHealth | undefined
  /** When it ends, once it is an old one. */
  endsAt: number
  /** When a server that it reached was not what it looks for, and the search for another one. */
  rejectedAt: number
  search: Search | undefined
}

/** While it goes on, nothing else is sent through the pool. */
export interface Search {
  /** Why it began. */
  readonly cause: DriverError
  readonly end: Promise<void>
  /** When those who wait for it will have given up. */
  until: number
  found: boolean
}

export interface PoolInUse {
  /** Whether there may be several servers behind its address. */
  readonly hasChoice: boolean
  readonly pool: () => Pool
  /** A statement of this pool, sent at this time, was not answered in time. */
  readonly late: (pool: Pool, sentAt: number) => void
  readonly close: () => Promise<E.Either<DriverError, void>>
}

const opened = (sql: PostgresJs): Pool => ({
  sql: suitable(sql),
  pending: new Set(),
  answeredAt: 0,
  health: hasChoice(sql) ? newHealth() : undefined,
  endsAt: Number.POSITIVE_INFINITY,
  rejectedAt: Number.NEGATIVE_INFINITY,
  search: undefined,
})

const hasChoice = ({ options }: PostgresJs): boolean =>
  (options.host?.length ?? 0) > 1 || Boolean(options.target_session_attrs)

// postgres.js 3.4.9 sends BEGIN on a connection that is full, too, and leaves it in a transaction of nobody's, in
// which others' statements are answered before they are committed.
const suitable = (sql: PostgresJs): PostgresJs => {
  const { max, max_pipeline: depth = Number.POSITIVE_INFINITY } = sql.options
  if (max === 1 || depth >= 100_000) return sql
  throw new RangeError(
    `max_pipeline is ${String(depth)}: transactions could be lost under load; make the pool with keyrow's poolOptions`,
  )
}

export const poolInUse = (given: PostgresJs | (() => PostgresJs), timeoutMs: number): PoolInUse => {
  const lasts = 'begin' in given
  const uses: Uses = {
    make: lasts ? () => undefined : () => made(given),
    timeoutMs,
    pool: lasts ? lasting(given) : opened(given()),
    renewedAt: Number.NEGATIVE_INFINITY,
    closed: false,
    probing: false,
    old: new Set(),
    ending: new Set(),
  }
  return {
    hasChoice: uses.pool.health !== undefined,
    pool: () => {
      if (uses.pool.health?.suspect === true && !uses.closed) renew(uses)
      return uses.pool
    },
    late: (of, sentAt) => {
      // Where servers answer that they are not what is looked for, no connection has fallen silent.
      const isSilent = of.rejectedAt < sentAt
      if (isSilent && of === uses.pool && !uses.closed && !uses.probing) probe(uses, sentAt)
    },
    close: async () => {
      uses.closed = true
      for (const old of uses.old) endWithin(old, timeoutMs)
      const [result] = await Promise.all([ended(uses.pool, timeoutMs), ...uses.ending])
      return result
    },
  }
}

interface Uses {
  readonly make: () => Pool | undefined
  readonly timeoutMs: number
  pool: Pool
  renewedAt: number
  closed: boolean
  probing: boolean
  /** Those of which no more is asked, the oldest first. */
  readonly old: Set<Pool>
  /** What is waited for before all is closed. */
  readonly ending: Set<Promise<unknown>>
}

const until = ({ ending }: Uses, done: Promise<unknown>): void => {
  ending.add(done)
  void done.then(() => ending.delete(done))
}

/** Where no server can be had, each attempt is a loss: in milliseconds from one pool to the next. */
export const RENEWAL_MS = 100
/** An old pool keeps its connections for as long as something is asked through it, such as a long transaction. */
const OLD_MS = 60_000
const MOST_OLD = 3

const renew = (uses: Uses): void => {
  const now = performance.now()
  if (now - uses.renewedAt < RENEWAL_MS) return
  const next = uses.make()
  if (next === undefined || next.sql === uses.pool.sql) return
  until(uses, retired(uses, uses.pool))
  uses.pool = next
  uses.renewedAt = now
}

const retired = async ({ old, timeoutMs }: Uses, pool: Pool): Promise<void> => {
  old.add(pool)
  const [oldest] = old
  if (old.size > MOST_OLD && oldest !== undefined) endWithin(oldest, 0)
  endWithin(pool, OLD_MS)
  while (pool.pending.size > 0 && performance.now() < pool.endsAt)
    await new Promise((resolve) => setTimeout(resolve, 20))
  old.delete(pool)
  await ended(pool, timeoutMs, 0)
}

const endWithin = (pool: Pool, ms: number): void => {
  pool.endsAt = Math.min(pool.endsAt, performance.now() + ms)
}

const probe = (uses: Uses, sentAt: number): void => {
  const { pool: of, timeoutMs } = uses
  const next = uses.make()
  if (next === undefined) return
  uses.probing = true
  const replace = async (): Promise<void> => {
    const slow = await isSlow(next, of, sentAt, timeoutMs)
    uses.probing = false
    const [old, kept] = slow || uses.closed || uses.pool !== of ? [next, uses.pool] : [of, next]
    uses.pool = kept
    await ended(old, timeoutMs)
  }
  until(uses, replace())
}

/** One that cannot be made again. */
const lasting = (sql: PostgresJs): Pool => {
  if (hasChoice(sql))
    throw new RangeError(
      'a pool of several hosts has to be made anew at times: give a function that makes one each time',
    )
  return opened(sql)
}

/** A new pool; none when the program's own function throws: then the old one has to do. */
const made = (make: () => PostgresJs): Pool | undefined => {
  try {
    return opened(make())
  } catch {
    return undefined
  }
}

/**
 * Whether the server is at fault, not the old pool's connections: it does not answer, or is still at work. Behind
 * a proxy such as pgbouncer it knows none of the connections: then it is slow if the old pool is answered at all.
 */
const isSlow = async (next: Pool, old: Pool, sentAt: number, timeoutMs: number): Promise<boolean> => {
  const pids = [...old.pending].flatMap((pending) => {
    const { state } = pending as { readonly state?: { readonly pid?: number | null } | null }
    return typeof state?.pid === 'number' ? [state.pid] : []
  })
  const probed = await withDeadline('probe', timeoutMs, () =>
    next.sql.unsafe(BUSY, [pids.join(',')] as never[], { prepare: false }),
  )
  if (E.isLeft(probed)) return true
  const [row] = probed.right as readonly { readonly known: boolean; readonly busy: boolean }[]
  return row?.known === true ? row.busy : old.answeredAt > sentAt
}

// One that waits for its client has done what it was sent; it is the answer that did not arrive.
const BUSY = `
select count(*) > 0 as known,
       count(*) filter (where state = 'active' and wait_event_type is distinct from 'Client') > 0 as busy
from pg_stat_activity
where pid::text = any(string_to_array($1::text, ',')) and ${ON_PRIMARY}`

// Without a timeout `end` can wait for ever on a connection whose server is gone.
const ended = async (
  { sql }: Pool,
  timeoutMs: number,
  patienceMs = timeoutMs,
): Promise<E.Either<DriverError, void>> => {
  const result = await withDeadline('close', 2 * timeoutMs, () => sql.end({ timeout: patienceMs / 1000 }))
  closeSockets(sql.options)
  return result
}
