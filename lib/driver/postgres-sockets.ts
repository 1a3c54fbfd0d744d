// The sockets of postgres.js pools, made here so that they can be closed: postgres.js itself only says good-bye
// to a server that may not hear it any more, which keeps the process alive; and where no host can be reached it
// tries again without a pause.
import { Socket, type SocketConstructorOpts } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'

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
