// Which answers of a pool can be believed. postgres.js 3.4.9 looks at a server's role when it connects, but not where
// it still has an error to give away from before: one that it read of a statement whose connection was then lost, or
// when it connected again in vain. It gives that to whom it connects for, takes whatever it finds there, be it a
// standby, and asks it from then on. And with several hosts it overlooks that the first statement of a connection was
// lost, and answers that with nothing. So from the first loss on a pool is in doubt: believed are only those of the
// server's processes that had answered before, and another pool takes its place.
import { DriverError } from '../base/errors.js'
import { hasBrokenOff } from './deadline.js'

/** The server's process behind a connection. postgres.js has one such object for each connection, and changes it. */
interface Backend {
  readonly pid: number | null
  readonly secret: number | null
}

export interface Trust {
  inDoubt: boolean
  /** By connection, the process that was known before there was any doubt. */
  readonly known: WeakMap<object, Backend>
}

/** What is seen of one statement: whether its answer, or its error, is one, and can be believed. */
export interface Witness {
  readonly believes: () => boolean
  readonly believesError: (error: unknown) => boolean
  /** Whether another statement was sent in its place, which does nothing. */
  readonly isSilenced: () => boolean
}

export const newTrust = (): Trust => ({ inDoubt: false, known: new WeakMap() })

interface Sent {
  state: Backend | null
  strings: readonly string[]
  args: readonly unknown[]
}

/** To be asked before the statement is sent. In doubt, a process that is not known is sent one that does nothing. */
export const witness = (pending: object, trust: Trust): Witness => {
  let state: Backend | null = null
  let asked: Backend | null = null
  let isSilenced = false
  const isKnown = (): boolean => state !== null && isSame(trust.known.get(state), asked)
  Object.defineProperty(pending, 'state', {
    get: () => state,
    set: (backend: Backend) => {
      state = backend
      asked = { ...backend }
      if (!trust.inDoubt || isKnown()) return
      isSilenced = true
      silence(pending)
    },
  })
  return {
    isSilenced: () => isSilenced,
    believes: () => {
      if (!isSame(state, asked)) trust.inDoubt = true
      if (!trust.inDoubt && state !== null && asked !== null) trust.known.set(state, asked)
      return isSame(state, asked) && isKnown()
    },
    believesError: (error) => {
      const isSent = asked !== null
      noteFailure(trust, error, isSent)
      if (!isSame(state, asked)) trust.inDoubt = true
      return !isAnothers(error, isSent) && !(isStatements(error) && trust.inDoubt && !isKnown())
    },
  }
}

/** What was not sent yet becomes a statement that does nothing. */
export const silence = (pending: unknown): void => {
  Object.assign(pending as Sent, { strings: ['select'], args: [] })
}

/**
 * Something failed; `isSent`, if it is known to have been sent, and `isUnsent`, if it is known that it was not. What was
 * not sent has lost nothing with its connection, and what a server says to who connects is of no statement before.
 */
export const noteFailure = (
  trust: Trust | undefined,
  error: unknown,
  isSent: boolean,
  isUnsent = !isSent,
): void => {
  const isLoss = !isUnsent && hasBrokenOff(error)
  const isStale = isSent ? isFatal(error) : isOfServer(error) && !isOfConnecting(error)
  if (trust !== undefined && (isLoss || isStale)) trust.inDoubt = true
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
