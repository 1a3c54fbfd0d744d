// The postgres.js pool in use, and how it is replaced. A connection that is neither answered nor closed (a black
// hole: a firewall that forgot it, a machine that went without a word) keeps its place in a pool until the
// operating system gives it up, after a quarter of an hour, and postgres.js can close no single connection. So
// when a statement missed its deadline, the server is asked on a new pool's connection: if it answers, and is not
// still busy with what the old one waits for, then it is the connections that failed, and the new pool takes over.
import * as E from 'fp-ts/lib/Either.js'
import type { DriverError } from '../base/errors.js'
import { withDeadline } from './deadline.js'
import { closeSockets } from './postgres-sockets.js'

export interface Sender {
  unsafe(text: string, params?: never[], options?: { readonly prepare?: boolean }): PromiseLike<unknown>
}

/** What keyrow uses of a postgres.js pool: what `postgres(url)` gives. */
export interface PostgresJs extends Sender {
  begin(body: (tx: Sender) => Promise<unknown>): Promise<unknown>
  end(options?: { readonly timeout?: number }): Promise<void>
  readonly options: { readonly prepare?: boolean }
}

/** A pool while it is in use, and the statements that were sent through it and not answered yet. */
export interface Pool {
  readonly sql: PostgresJs
  readonly pending: Set<PromiseLike<unknown>>
}

export interface PoolInUse {
  readonly pool: () => Pool
  /** A statement of this pool was not answered in time. */
  readonly late: (pool: Pool) => void
  readonly close: () => Promise<E.Either<DriverError, void>>
}

const opened = (sql: PostgresJs): Pool => ({ sql, pending: new Set() })

export const poolInUse = (given: PostgresJs | (() => PostgresJs), timeoutMs: number): PoolInUse => {
  const make = 'begin' in given ? undefined : given
  let pool = opened('begin' in given ? given : given())
  let replacing: Promise<unknown> | undefined
  let closed = false
  const replace = async (next: Pool): Promise<void> => {
    const slow = await isSlow(next, pool, timeoutMs)
    const [old, kept] = slow || closed ? [next, pool] : [pool, next]
    pool = kept
    await ended(old, timeoutMs)
  }
  return {
    pool: () => pool,
    late: (of) => {
      if (make === undefined || of !== pool || closed) return
      replacing ??= replace(opened(make())).finally(() => (replacing = undefined))
    },
    close: async () => {
      closed = true
      await replacing
      return ended(pool, timeoutMs)
    },
  }
}

/** Whether the server is at fault, not the old pool's connections: it does not answer, or is still at work. */
const isSlow = async (next: Pool, old: Pool, timeoutMs: number): Promise<boolean> => {
  const pids = [...old.pending].flatMap((pending) => {
    const { state } = pending as { readonly state?: { readonly pid?: number | null } | null }
    return typeof state?.pid === 'number' ? [state.pid] : []
  })
  const busy = await withDeadline('probe', timeoutMs, () =>
    next.sql.unsafe(BUSY, [pids.join(',')] as never[], { prepare: false }),
  )
  return E.isLeft(busy) || (busy.right as readonly unknown[]).length > 0
}

// One that waits for its client has done what it was sent; it is the answer that did not arrive.
const BUSY = `
select 1 from pg_stat_activity
where pid::text = any(string_to_array($1::text, ',')) and state = 'active' and wait_event_type is distinct from 'Client'`

// Without a timeout `end` can wait for ever on a connection whose server is gone.
const ended = async ({ sql }: Pool, timeoutMs: number): Promise<E.Either<DriverError, void>> => {
  const result = await withDeadline('close', timeoutMs, () => sql.end({ timeout: timeoutMs / 2000 }))
  closeSockets(sql.options)
  return result
}
