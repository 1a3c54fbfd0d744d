// Replaces the postgres.js pool when its connections no longer answer. A silent connection is open but never answers,
// for example because a firewall drops its packets. A silent connection stays in the pool for about 15 minutes, until
// the operating system ends it. postgres.js cannot close a single connection. So after a missed deadline, a new pool
// sends a probe to the server. The new pool replaces the old pool if the server answers and no longer runs the
// statements that missed their deadline. A suspect pool (see workarounds.ts) is replaced without a probe.
import { E } from '../../core/prelude.cjs'
import { delay } from '../../core/process.js'
import { ON_PRIMARY, type Outcome } from '../database.js'
import { withDeadline } from '../deadline.js'
import { newPlans, type Plans } from '../sending.js'
import { closeSockets, newHealth, type ObservedPool, RENEWAL_MS } from './workarounds.js'

export interface Sender {
  typed(value: string | null, type: number): unknown
  unsafe(
    text: string,
    params?: never[],
    options?: { readonly prepare?: boolean; readonly simple?: boolean },
  ): Pending
}

/** A statement that is sent when it is awaited. `raw` returns the rows without conversion. */
interface Pending extends PromiseLike<unknown> {
  raw(): PromiseLike<unknown>
}

/** A transaction of postgres.js. */
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

/** The members of a postgres.js pool (`postgres(url)`) that keyrow uses. */
export interface PostgresJs extends Sender {
  begin(options: string, body: (tx: Scoped) => Promise<unknown>): Promise<unknown>
  end(options?: { readonly timeout?: number }): Promise<void>
  readonly options: PoolOptions
}

export interface Pool extends ObservedPool {
  readonly sql: PostgresJs
  readonly pending: Set<PromiseLike<unknown>>
  readonly plans: Plans
  answeredAt: number
  /** A replaced pool ends at this time at the latest. */
  endsAt: number
}

export interface PoolInUse {
  /** Whether the pool has several hosts or `target_session_attrs`. */
  readonly hasChoice: boolean
  readonly pool: () => Pool
  /** Reports that a statement of `pool`, sent at `sentAt`, has missed its deadline. */
  readonly late: (pool: Pool, sentAt: number) => void
  readonly close: () => Outcome<void>
}

const opened = (sql: PostgresJs): Pool => ({
  sql: suitable(sql),
  pending: new Set(),
  plans: newPlans(),
  answeredAt: 0,
  health: hasChoice(sql) ? newHealth() : undefined,
  endsAt: Number.POSITIVE_INFINITY,
  rejectedAt: Number.NEGATIVE_INFINITY,
  search: undefined,
})

const hasChoice = ({ options }: PostgresJs): boolean =>
  (options.host?.length ?? 0) > 1 || Boolean(options.target_session_attrs)

// If a connection has too many statements, postgres.js does not reserve it for BEGIN (see `retryUnsafeBegin`).
const suitable = (sql: PostgresJs): PostgresJs => {
  const { max, max_pipeline: depth = Number.POSITIVE_INFINITY } = sql.options
  if (max === 1 || depth >= 100_000) return sql
  throw new RangeError(
    `max_pipeline is ${String(depth)}: transactions could be lost under load; make the pool with keyrow's poolOptions`,
  )
}

export const poolInUse = (given: PostgresJs | (() => PostgresJs), timeoutMs: number): PoolInUse => {
  const isFixed = 'begin' in given
  const uses: Uses = {
    make: isFixed ? () => undefined : () => made(given),
    timeoutMs,
    pool: isFixed ? fixed(given) : opened(given()),
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
      // If a server of the wrong role answered after `sentAt`, that server is the reason for the missed deadline.
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
  /** Replaced pools, the oldest first. */
  readonly old: Set<Pool>
  /** The tasks that `close` waits for. */
  readonly ending: Set<Promise<unknown>>
}

const until = ({ ending }: Uses, done: Promise<unknown>): void => {
  ending.add(done)
  void done.then(() => ending.delete(done))
}

/** A replaced pool ends after this time at the latest, even if a long transaction still runs. */
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
  while (pool.pending.size > 0 && performance.now() < pool.endsAt) await delay(20)
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

const fixed = (sql: PostgresJs): Pool => {
  if (hasChoice(sql))
    throw new RangeError(
      'a pool with several hosts or target_session_attrs must be replaceable: pass a function that makes it',
    )
  return opened(sql)
}

/** Makes a pool. If the program's function throws, the old pool stays in use. */
const made = (make: () => PostgresJs): Pool | undefined => {
  try {
    return opened(make())
  } catch {
    return undefined
  }
}

// Whether the server itself is slow. It is slow if it does not answer the probe, or if it still runs the statements
// that missed their deadline. Behind a proxy such as pgbouncer, the server does not know the old pool's process ids. In
// this case an answer to the old pool after `sentAt` shows that its connections work. So the server counts as slow.
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

// A server process that waits for its client is not busy. It has run the statement, but cannot deliver the answer.
const BUSY = `
select count(*) > 0 as known,
       count(*) filter (where state = 'active' and wait_event_type is distinct from 'Client') > 0 as busy
from pg_stat_activity
where pid::text = any(string_to_array($1::text, ',')) and ${ON_PRIMARY}`

// Without a timeout, `end` can wait forever for a connection to a dead server.
const ended = async ({ sql }: Pool, timeoutMs: number, patienceMs = timeoutMs): Outcome<void> => {
  const result = await withDeadline('close', 2 * timeoutMs, () => sql.end({ timeout: patienceMs / 1000 }))
  closeSockets(sql.options)
  return result
}
