// Takes clients from a pool of node-postgres and gives them back. A client whose connection no longer answers is closed,
// and so is a client with an open transaction or a client of a server with the wrong role.

import { connect } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { DriverError, type Effect, withEffect } from '../core/errors.js'
import { E } from '../core/prelude.cjs'
import { clearTimeout, setTimeout } from '../core/process.js'
import { ON_PRIMARY, type Outcome, type Query } from './database.js'
import { withDeadline } from './deadline.js'
import {
  type ClientState,
  closeSocket,
  isDeadline,
  isFatal,
  isInTransaction,
  type PgClient,
  sendOn,
  stateOf,
  unconnected,
} from './pg-statement.js'
import type { Plans, SettingsCheck } from './sending.js'

/** The members of a pool of node-postgres that keyrow uses. */
export interface PgPool {
  connect(
    callback: (
      error: Error | undefined,
      client: PgClient | undefined,
      release: (destroy?: boolean) => void,
    ) => void,
  ): void
  end(): Promise<void>
  on(event: 'error', listener: () => void): unknown
  /** The number of clients. A pool has this member, and a single client has not. */
  readonly totalCount: number
  readonly ending?: boolean
  readonly options?: { readonly pipeline?: unknown; readonly stream?: unknown }
}

export interface Link {
  readonly pool: PgPool
  readonly timeoutMs: number
  readonly prepare: boolean
  readonly primary: boolean
  readonly plans: Plans
  readonly settings: SettingsCheck
  /** The clients that are in use. */
  readonly leases: Set<Lease>
  /** All clients that keyrow has used and that have not ended. */
  readonly clients: Set<PgClient>
  /** The latest time at which a statement was sent that missed its deadline. */
  silentSince: number
  /** The number of statements and transactions that have not ended. */
  running: number
}

/** A client that is taken from the pool. */
export interface Lease {
  readonly client: PgClient
  readonly state: ClientState
  readonly leasedAt: number
  /** Gives the client back, unless a transaction is open on it. The second call has no effect. */
  readonly release: () => void
  /** Closes the client's connection. */
  readonly destroy: () => void
  /** Cancels the client's statement on the server, and then closes the connection. */
  readonly cancel: () => void
}

const observed = new WeakSet<PgPool>()

/** Throws an error for a pool that keyrow cannot use. */
export const suitable = (pool: PgPool): PgPool => {
  if (typeof pool.totalCount !== 'number')
    throw new TypeError('keyrow needs a pool of node-postgres, not a client: pass a new pg.Pool(…)')
  if (pool.options?.pipeline === true)
    throw new RangeError('a pool with the option pipeline runs no statements of keyrow; leave the option out')
  // Without a listener, the loss of an idle client would end the process. The pool replaces such a client.
  if (!observed.has(pool)) pool.on('error', () => undefined)
  observed.add(pool)
  return pool
}

const waitUntil = async (isSo: () => boolean, timeoutMs: number): Promise<void> => {
  const until = performance.now() + timeoutMs
  while (!isSo() && performance.now() < until) await delay(5)
}

/** The maximum time of an orderly end, which a connection that no longer answers never reaches. */
const graceMs = ({ timeoutMs }: Link): number => Math.min(500, timeoutMs / 4)

// A pool that ends gives no client to the statements that wait for one. So the pool ends after these statements.
export const close = (link: Link): Outcome<void> => {
  const { pool, timeoutMs, leases, clients } = link
  const closeSockets = (): Effect => {
    for (const client of clients) closeSocket(client)
    return 'unknown'
  }
  const end = async (): Promise<void> => {
    await waitUntil(() => link.running === 0, timeoutMs)
    for (const lease of leases) lease.cancel()
    if (pool.ending !== true) await pool.end()
    await waitUntil(() => clients.size === 0, graceMs(link))
    closeSockets()
  }
  return withDeadline('close', 2 * timeoutMs, end, closeSockets)
}

const connected = (link: Link): Promise<Lease> =>
  new Promise((resolve, reject) => {
    link.pool.connect((error, client, release) => {
      if (client === undefined) reject(unconnected(error, link.pool.ending === true))
      else resolve(leaseOf(link, client, release))
    })
  })

const leaseOf = (link: Link, client: PgClient, releaseClient: (destroy?: boolean) => void): Lease => {
  const { leases, clients } = link
  let isCancelled = false
  const end = (destroy: boolean): void => {
    if (!leases.delete(lease)) return
    releaseClient(destroy)
    if (destroy) closeSocket(client)
  }
  const lease: Lease = {
    client,
    state: stateOf(client),
    leasedAt: performance.now(),
    release: () => end(isCancelled || isInTransaction(client)),
    destroy: () => {
      if (!isCancelled) end(true)
    },
    cancel: () => {
      if (isCancelled || !leases.has(lease)) return
      isCancelled = true
      void cancelled(link, client).then(() => end(true))
    },
  }
  leases.add(lease)
  if (!clients.has(client)) client.on('end', () => void clients.delete(client))
  clients.add(client)
  return lease
}

interface Address {
  readonly host?: unknown
  readonly port?: unknown
  readonly processID?: unknown
  readonly secretKey?: unknown
}

const CANCEL_REQUEST = 80_877_102

// Asks the server to cancel the client's statement. Without this request the statement would continue on the server, for
// example to wait for a lock, and the server would have more and more of such connections. The promise resolves when the
// server has closed the request's connection, or after a short time. The connection of a pool with the option `stream`
// may lead elsewhere, so nothing is cancelled there.
const cancelled = (link: Link, client: PgClient): Promise<void> =>
  new Promise((resolve) => {
    const { host, port, processID, secretKey } = client as Address
    const isKnown = [port, processID, secretKey].every((value) => typeof value === 'number')
    if (!isKnown || typeof host !== 'string' || link.pool.options?.stream !== undefined) {
      resolve()
      return
    }
    const socket = host.startsWith('/')
      ? connect(`${host}/.s.PGSQL.${String(port)}`)
      : connect(Number(port), host)
    const timer = setTimeout(() => socket.destroy(), graceMs(link))
    const message = Buffer.alloc(16)
    for (const [index, value] of [16, CANCEL_REQUEST, processID, secretKey].entries())
      message.writeInt32BE(Number(value), 4 * index)
    socket.on('error', () => undefined)
    socket.on('close', () => {
      clearTimeout(timer)
      resolve()
    })
    socket.write(message)
  })

const LONGEST_PAUSE_MS = 250

// Takes a suitable client from the pool. A client is closed instead if it has not answered since a statement missed its
// deadline, if a transaction is open on it, or if it is connected to a standby and the program wants a primary.
const leased = async (link: Link, clock: Clock): Promise<Lease> => {
  for (let delayMs = 5; ; delayMs = Math.min(2 * delayMs, LONGEST_PAUSE_MS)) {
    try {
      const lease = await connected(link)
      const { client, state } = lease
      if (clock.isOver) return lease
      if (state.answeredAt < link.silentSince || isInTransaction(client)) {
        lease.destroy()
        continue
      }
      if (!link.primary || state.isChecked) return lease
      await checkRole(lease, clock.until - performance.now())
      return lease
    } catch (error) {
      const mayTryAgain = link.primary && error instanceof DriverError && error.retryable
      if (!mayTryAgain || performance.now() + delayMs > clock.until) throw error
      await delay(delayMs)
    }
  }
}

const ROLE: Query = {
  name: 'role',
  text: `select pg_is_in_recovery()::text as standby where ${ON_PRIMARY}`,
}

const checkRole = async ({ client, state, destroy }: Lease, timeoutMs: number): Promise<void> => {
  const answer = await withDeadline(ROLE.name, timeoutMs, () => sendOn(client, state, ROLE, [], UNPREPARED))
  if (E.isRight(answer) && answer.right.rows[0]?.[0] === 'false') {
    state.isChecked = true
    return
  }
  destroy()
  throw E.isLeft(answer)
    ? withEffect(answer.left, 'none')
    : new DriverError('the server that was reached is not a primary', {
        kind: 'unavailable',
        retryable: true,
        effect: 'none',
      })
}

export const UNPREPARED = { prepare: false, generation: 0 }

/** The time of one statement. `until` is its deadline. */
interface Clock {
  readonly until: number
  isOver: boolean
}

// Takes a client and sends the first statement on it. If the deadline passes first, the client is closed, or is given
// back as soon as the pool provides it.
export const withLease = async <A>(
  link: Link,
  name: string,
  timeoutMs: number,
  act: (lease: Lease) => Promise<A>,
): Outcome<A> => {
  const clock: Clock = { until: performance.now() + timeoutMs, isOver: false }
  let lease: Lease | undefined
  const start = async (): Promise<A> => {
    const taken = await leased(link, clock)
    if (clock.isOver) {
      taken.release()
      throw new Error('its deadline has passed')
    }
    lease = taken
    return act(taken)
  }
  const giveUp = (): Effect => {
    clock.isOver = true
    return lease === undefined ? 'none' : 'unknown'
  }
  const result = await withDeadline(name, timeoutMs, start, giveUp)
  if (lease !== undefined && E.isLeft(result)) noteDeadline(link, lease, lease.leasedAt, result.left)
  return result
}

/** Closes the client, and later the other silent clients, if the error of a statement is a deadline. */
export const noteDeadline = (link: Link, lease: Lease, sentAt: number, error: DriverError): void => {
  if (!isDeadline(error)) return
  link.silentSince = Math.max(link.silentSince, sentAt)
  lease.cancel()
}

/** Gives a client back after an error of its statement. `withLease` closes a client that missed a deadline. */
export const endAfter = (lease: Lease, error: unknown): void => {
  if (isDeadline(error)) return
  if (isFatal(error)) lease.destroy()
  else lease.release()
}
