// Which answers of a pool can be believed. postgres.js 3.4.9 looks at a server's role when it connects, but forgets to
// on a connection that was lost in the middle of a statement, if it read an error since (such as that the server shuts
// down): it then takes whatever it finds there, be it a standby, which tells what was so a while ago. And with several
// hosts it overlooks that the first statement of a connection was lost, and answers that with nothing. So from the
// first loss on a pool is in doubt: of what it answers only that is believed which comes from a process of the server
// that had answered before; and another pool takes its place.
import { isConnectionLoss } from './deadline.js'

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

/** How one statement's answer is told from another's. */
export interface Witness {
  /** Whether its answer is one, and can be believed. */
  readonly believes: () => boolean
  readonly failed: (error: unknown) => void
}

export const newTrust = (): Trust => ({ inDoubt: false, known: new WeakMap() })

/** A statement failed that was sent, as far as is known. */
export const noteFailure = (trust: Trust | undefined, error: unknown): void => {
  if (trust !== undefined && isConnectionLoss(error)) trust.inDoubt = true
}

/** To be asked before the statement is sent. */
export const witness = (pending: object, trust: Trust): Witness => {
  let state: Backend | null = null
  let asked: Backend | null = null
  Object.defineProperty(pending, 'state', {
    get: () => state,
    set: (sent: Backend) => {
      state = sent
      asked = { ...sent }
    },
  })
  const isThere = (): boolean => isSame(state, asked)
  return {
    believes: () => {
      if (state === null || asked === null || !isThere()) {
        trust.inDoubt = true
        return false
      }
      if (!trust.inDoubt) trust.known.set(state, asked)
      return isSame(trust.known.get(state), asked)
    },
    failed: (error) => {
      if (asked !== null && (isConnectionLoss(error) || !isThere())) trust.inDoubt = true
    },
  }
}

const isSame = (one: Backend | null | undefined, other: Backend | null): boolean =>
  one?.pid === other?.pid && one?.secret === other?.secret
