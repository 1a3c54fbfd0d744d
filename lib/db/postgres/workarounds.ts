// Which answers of a pool can be believed. postgres.js 3.4.9 looks at a server's role when it connects, but not where
// it still has an error to give away from before: one that it read of a statement whose connection was then lost, or
// when it connected again in vain. It gives that to whom it connects for, takes whatever it finds there, be it a
// standby, and asks it from then on. And with several hosts it overlooks that the first statement of a connection was
// lost, and answers that with nothing. So from the first loss on a pool is in doubt: believed are only those of the
// server's processes that had answered before, and another pool takes its place.

import { Socket, type SocketConstructorOpts } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { DriverError } from '../../core/errors.js'
import { hasBrokenOff } from '../deadline.js'

/** The server's process behind a connection. postgres.js has one such object for each connection, and changes it. */
interface Backend {
  readonly pid: number | null
  readonly secret: number | null
}

export interface PoolHealth {
  suspect: boolean
  /** By connection, the process that was known before there was any doubt. */
  readonly known: WeakMap<object, Backend>
}

/** What is seen of one statement: whether its answer, or its error, is one, and can be believed. */
export interface Observation {
  readonly isAnswerTrusted: () => boolean
  readonly isErrorTrusted: (error: unknown) => boolean
  /** Whether another statement was sent in its place, which does nothing. */
  readonly isNeutralised: () => boolean
}

export const newHealth = (): PoolHealth => ({ suspect: false, known: new WeakMap() })

interface Sent {
  state: Backend | null
  strings: readonly string[]
  args: readonly unknown[]
}

/** To be asked before the statement is sent. In doubt, a process that is not known is sent one that does nothing. */
export const observe = (pending: object, health: PoolHealth): Observation => {
  let state: Backend | null = null
  let sentTo: Backend | null = null
  let isNeutralised = false
  const isKnownBackend = (): boolean => state !== null && isSame(health.known.get(state), sentTo)
  Object.defineProperty(pending, 'state', {
    get: () => state,
    set: (backend: Backend) => {
      state = backend
      sentTo = { ...backend }
      if (!health.suspect || isKnownBackend()) return
      isNeutralised = true
      neutralise(pending)
    },
  })
  return {
    isNeutralised: () => isNeutralised,
    isAnswerTrusted: () => {
      if (!isSame(state, sentTo)) health.suspect = true
      if (!health.suspect && state !== null && sentTo !== null) health.known.set(state, sentTo)
      return isSame(state, sentTo) && isKnownBackend()
    },
    isErrorTrusted: (error) => {
      const isSent = sentTo !== null
      noteFailure(health, error, isSent)
      if (!isSame(state, sentTo)) health.suspect = true
      return !isAnothers(error, isSent) && !(isStatements(error) && health.suspect && !isKnownBackend())
    },
  }
}

/** What was not sent yet becomes a statement that does nothing. */
export const neutralise = (pending: unknown): void => {
  Object.assign(pending as Sent, { strings: ['select'], args: [] })
}

/**
 * Something failed; `isSent`, if it is known to have been sent, and `isUnsent`, if it is known that it was not. What was
 * not sent has lost nothing with its connection, and what a server says to who connects is of no statement before.
 */
export const noteFailure = (
  health: PoolHealth | undefined,
  error: unknown,
  isSent: boolean,
  isUnsent = !isSent,
): void => {
  const isLoss = !isUnsent && hasBrokenOff(error)
  const isStale = isSent ? isFatal(error) : isOfServer(error) && !isOfConnecting(error)
  if (health !== undefined && (isLoss || isStale)) health.suspect = true
}

/** Whether an error is what came of another statement, since this one was not sent. */
export const isAnothers = (error: unknown, isSent: boolean): boolean => !isSent && isStatements(error)

export const lost = (name: string, cause?: unknown): DriverError =>
  new DriverError(`${name}: the connection was lost`, { kind: 'unavailable', retryable: true, cause })

const isSame = (one: Backend | null | undefined, other: Backend | null): boolean =>
  one?.pid === other?.pid && one?.secret === other?.secret

const severityOf = (error: unknown): unknown =>
  (error as { readonly severity?: unknown } | undefined)?.severity

const isOfServer = (error: unknown): boolean => severityOf(error) !== undefined

// It is starting or shutting down, or has no connection left; a refused password, role or database.
const isOfConnecting = (error: unknown): boolean =>
  /^(57P03|53300|28|3D)/.test(String((error as { readonly code?: unknown } | undefined)?.code))

/** Of a connection, also of one that could not be made. */
const isFatal = (error: unknown): boolean => /^(FATAL|PANIC)$/.test(String(severityOf(error)))

const isStatements = (error: unknown): boolean => isOfServer(error) && !isFatal(error)

// The sockets of postgres.js pools, made here so that they can be closed: postgres.js itself only says good-bye
// to a server that may not hear it any more, which keeps the process alive; and where no host can be reached it
// tries again without a pause.

/** Where a pool connects to: what postgres.js makes of its address. */
export interface PoolAddress {
  readonly host: readonly string[]
  readonly port: readonly number[]
  readonly path?: string | false | undefined
}

interface Family {
  readonly sockets: Set<Socket>
  /** When its last sockets were made. */
  times: readonly number[]
  closed: boolean
}

const families = new WeakMap<object, Family>()

const familyOf = (pool: object): Family => {
  const known = families.get(pool)
  if (known !== undefined) return known
  const family: Family = { sockets: new Set(), times: [], closed: false }
  families.set(pool, family)
  return family
}

/** No more than this many new sockets within a second; then one each tenth of a second. */
const BURST = 50

const MANY_BYTES = 2 ** 30

/** A socket on its way to one of the pool's hosts; postgres.js calls this with the pool's options. */
export const openSocket = async (pool: PoolAddress): Promise<Socket> => {
  const family = familyOf(pool)
  const now = performance.now()
  family.times = [...family.times.filter((time) => time > now - 1_000), now]
  if (family.times.length > BURST) await delay(100)
  // A pool that was closed tries for ever to reach hosts that are down: it gets nothing to wait for.
  if (family.closed) return new Promise<never>(() => undefined)
  // What waits to be sent is held either way. If the socket said that it is full, postgres.js would not reserve the
  // connection for the transaction that it begins on it.
  const socket = new Socket({ writableHighWaterMark: MANY_BYTES } as SocketConstructorOpts)
  // A listener for its end would not do: postgres.js removes all listeners when it begins with TLS.
  for (const other of family.sockets) if (other.destroyed) family.sockets.delete(other)
  family.sockets.add(socket)
  return connected(socket, pool)
}

const connected = (socket: Socket, { host, port, path }: PoolAddress): Socket => {
  if (typeof path === 'string') return socket.connect(path)
  // At random, so that each try has a chance at another host: one host may be down, or no primary.
  const index = Math.floor(Math.random() * host.length)
  const address = { host: host[index] ?? 'localhost', port: port[index] ?? 5432 }
  // postgres.js reads the server's name for TLS, and names the address in its errors, from here.
  return Object.assign(socket.connect(address), address)
}

/** For a pool that was ended: closes what is left, and opens nothing more. */
export const closeSockets = (pool: object): void => {
  const family = familyOf(pool)
  family.closed = true
  for (const socket of family.sockets) socket.destroy()
}
