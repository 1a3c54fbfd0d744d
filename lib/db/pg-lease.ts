// Takes clients from a pool of node-postgres for statements and transactions, within their deadlines.

import { DriverError, given, withEffect } from '../core/errors.js'
import { E } from '../core/prelude.cjs'
import { addTo, cancelAlarm, delay, type Listed, removeFrom, setAlarm } from '../core/process.js'
import { ON_PRIMARY, type Outcome, type Query } from './database.js'
import { driverError, missedDeadline, withDeadline } from './deadline.js'
import {
  type ClientState,
  cancelled,
  closeSocket,
  hasCode,
  isDeadline,
  isFatal,
  isInTransaction,
  type PgClient,
  type PgPool,
  sentOn,
  stateOf,
  UNPREPARED,
} from './pg-statement.js'

/** A client that is taken from the pool. */
export interface Lease extends Listed {
  readonly client: PgClient
  readonly state: ClientState
  readonly leasedAt: number
  /** Gives the client back, or closes it if a transaction is open on it. A second call has no effect. */
  readonly release: () => void
  /** Closes the client's connection. */
  readonly destroy: () => void
  /** Cancels the client's statement on the server, and then closes the connection. */
  readonly cancel: () => void
}

export interface Leasing {
  readonly pool: PgPool
  readonly timeoutMs: number
  readonly primary: boolean
  /** The clients that are in use. */
  readonly leases: Lease[]
  /** All clients that keyrow has used and that have not ended. */
  readonly clients: Set<PgClient>
  /** The time at which the latest statement with a missed deadline was sent. */
  silentSince: number
}

/** The maximum wait for an orderly close or a cancel request. A server that no longer answers completes neither. */
export const graceMs = ({ timeoutMs }: Leasing): number => Math.min(500, timeoutMs / 4)

const leaseOf = (link: Leasing, client: PgClient, releaseClient: (destroy?: boolean) => void): Lease => {
  const { leases, clients } = link
  let isCancelled = false
  const end = (destroy: boolean): void => {
    if (!removeFrom(leases, lease)) return
    releaseClient(destroy)
    if (destroy) closeSocket(client)
  }
  // After `cancel`, the client is closed as soon as the cancel request has ended.
  const endUnlessCancelled = (destroy: boolean): void => {
    if (!isCancelled) end(destroy)
  }
  const lease: Lease = {
    client,
    place: -1,
    state: stateOf(client),
    leasedAt: performance.now(),
    release: () => endUnlessCancelled(isInTransaction(client)),
    destroy: () => endUnlessCancelled(true),
    cancel: () => {
      if (isCancelled || lease.place < 0) return
      isCancelled = true
      void cancelled(client, link.pool, graceMs(link)).then(() => end(true))
    },
  }
  addTo(leases, lease)
  if (!clients.has(client)) client.on('end', () => void clients.delete(client))
  clients.add(client)
  return lease
}

const LONGEST_PAUSE_MS = 250

/** The time limit of a statement. `until` is the statement's deadline. */
interface Clock {
  readonly until: number
  isOver: boolean
}

/** Returns the error of a statement for which the pool provided no client. The statement was not sent. */
const unconnected = (cause: unknown, isEnding: boolean): DriverError => {
  const error = driverError('connect', cause)
  return !isEnding && hasCode(cause)
    ? withEffect(error, 'none')
    : new DriverError(error.message, {
        kind: 'unavailable',
        retryable: !isEnding,
        effect: 'none',
        cause,
      })
}

type Leased<L> = (outcome: E.Either<L, Lease>) => void

const connect = (link: Leasing, leased: Leased<DriverError>): void => {
  const isEnding = (): boolean => link.pool.ending === true
  try {
    link.pool.connect((error, client, release) =>
      leased(
        client === undefined
          ? E.left(unconnected(error, isEnding()))
          : E.right(leaseOf(link, client, release)),
      ),
    )
  } catch (thrown) {
    leased(E.left(unconnected(thrown, isEnding())))
  }
}

/** Whether the last answer of a client is older than `silentSince`, or a transaction is open on the client. */
const isUnusable = ({ silentSince }: Leasing, { client, state }: Lease): boolean =>
  state.answeredAt < silentSince || isInTransaction(client)

const isChecked = ({ primary }: Leasing, { state }: Lease): boolean => !primary || state.isChecked

const mayTryAgain = ({ primary }: Leasing, error: unknown): boolean =>
  primary && error instanceof DriverError && error.retryable

/** Takes a usable client from the pool. If `primary` is set, the client is connected to a primary. */
const takeLease = (link: Leasing, clock: Clock, leased: Leased<unknown>): void =>
  connect(link, (outcome) => {
    const isReady = E.isLeft(outcome)
      ? !mayTryAgain(link, outcome.left)
      : !isUnusable(link, outcome.right) && isChecked(link, outcome.right)
    if (isReady || clock.isOver) leased(outcome)
    else
      usableLease(link, clock, E.isRight(outcome) ? outcome.right : undefined).then(
        (usable) => leased(E.right(usable)),
        (error: unknown) => leased(E.left(error)),
      )
  })

/** Tries `first`, and then other clients of the pool, until one is usable. Closes the others. */
const usableLease = async (link: Leasing, clock: Clock, first: Lease | undefined): Promise<Lease> => {
  let delayMs = 5
  for (let taken = first; ; taken = undefined)
    try {
      const lease = taken ?? (await connected(link))
      if (!clock.isOver && isUnusable(link, lease)) {
        lease.destroy()
        continue
      }
      if (clock.isOver || isChecked(link, lease)) return lease
      await checkRole(lease, clock.until - performance.now()).catch((error: unknown) => {
        lease.destroy()
        throw error
      })
      return lease
    } catch (error) {
      if (!mayTryAgain(link, error) || performance.now() + delayMs > clock.until) throw error
      await delay(delayMs)
      delayMs = Math.min(2 * delayMs, LONGEST_PAUSE_MS)
    }
}

const connected = async (link: Leasing): Promise<Lease> =>
  given(await new Promise<E.Either<DriverError, Lease>>((resolve) => connect(link, resolve)))

const ROLE: Query = {
  name: 'role',
  text: `select pg_is_in_recovery()::text as standby where ${ON_PRIMARY}`,
}

/** Rejects with a `DriverError` if the client's server is not a primary, or does not answer within `timeoutMs`. */
const checkRole = async (lease: Lease, timeoutMs: number): Promise<void> => {
  const answer = await withDeadline(ROLE.name, timeoutMs, () =>
    sentOn(lease.client, lease.state, ROLE, [], UNPREPARED),
  )
  if (E.isRight(answer) && answer.right.rows[0]?.[0] === 'false') {
    lease.state.isChecked = true
    return
  }
  throw E.isLeft(answer)
    ? withEffect(answer.left, 'none')
    : new DriverError('the server that was reached is not a primary', {
        kind: 'unavailable',
        retryable: true,
        effect: 'none',
      })
}

// Takes a client from the pool and passes it to `act`. If the deadline passes during `act`, the client is closed. If
// the deadline passes before the pool provides a client, the client is given back unused.
export const withLease = <A>(link: Leasing, name: string, timeoutMs: number, act: Act<A>): Outcome<A> =>
  new Promise((resolve) => {
    const clock: Clock = { until: performance.now() + timeoutMs, isOver: false }
    let lease: Lease | undefined
    const alarm = setAlarm(timeoutMs, () => {
      clock.isOver = true
      const error = missedDeadline(name, timeoutMs, lease === undefined ? 'none' : 'unknown')
      if (lease !== undefined) noteDeadline(link, lease, lease.leasedAt, error)
      resolve(E.left(error))
    })
    const settle = (result: E.Either<DriverError, A>): void => {
      cancelAlarm(alarm)
      if (lease !== undefined && E.isLeft(result)) noteDeadline(link, lease, lease.leasedAt, result.left)
      resolve(result)
    }
    takeLease(link, clock, (outcome) => {
      if (E.isLeft(outcome)) settle(E.left(driverError(name, outcome.left)))
      else if (clock.isOver) outcome.right.release()
      else {
        lease = outcome.right
        attempt(name, lease, act, settle)
      }
    })
  })

type Act<A> = (lease: Lease, settle: (result: E.Either<DriverError, A>) => void) => void

/** Calls `act`. An error that it throws must not reach the pool, which calls this function. */
const attempt = <A>(
  name: string,
  lease: Lease,
  act: Act<A>,
  settle: (result: E.Either<DriverError, A>) => void,
): void => {
  try {
    act(lease, settle)
  } catch (thrown) {
    endAfter(lease, thrown)
    settle(E.left(driverError(name, thrown)))
  }
}

/** Cancels a statement after its deadline, and closes its client. `isUnusable` finds clients silent since `sentAt`. */
export const noteDeadline = (link: Leasing, lease: Lease, sentAt: number, error: DriverError): void => {
  if (!isDeadline(error)) return
  link.silentSince = Math.max(link.silentSince, sentAt)
  lease.cancel()
}

/** Gives back or closes the client of a failed statement, except after a missed deadline: then `cancel` closes it. */
export const endAfter = (lease: Lease, error: unknown): void => {
  if (isDeadline(error)) return
  if (isFatal(error)) lease.destroy()
  else lease.release()
}
