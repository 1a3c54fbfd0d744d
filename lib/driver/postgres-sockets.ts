// Connections that are neither answered nor closed (a black hole: a firewall that forgot them, a machine that
// went without a word) would keep their places in a postgres.js pool until the operating system gives them
// up, after a quarter of an hour. postgres.js can close no single connection, so the sockets are made here,
// and those that stay silent after a deadline was missed are destroyed. The pool then connects anew.
import { Socket } from 'node:net'

/** Where a pool connects to: what postgres.js makes of its address. */
export interface PoolAddress {
  readonly host: readonly string[]
  readonly port: readonly number[]
  readonly path?: string | false | undefined
}

const sockets = new WeakMap<object, Set<Socket>>()

/** A socket on its way to one of the pool's hosts; postgres.js calls this with the pool's options. */
export const openSocket = (pool: PoolAddress): Socket => {
  const socket = new Socket()
  const all = (sockets.get(pool) ?? new Set<Socket>()).add(socket)
  sockets.set(pool, all)
  // A listener for its end would not do: postgres.js removes all listeners when it begins with TLS.
  for (const other of all) if (other.destroyed) all.delete(other)
  if (typeof pool.path === 'string') return socket.connect(pool.path)
  // At random, so that each try has a chance at another host: one host may be down, or no primary.
  const index = Math.floor(Math.random() * pool.host.length)
  const [host, port] = [pool.host[index] ?? 'localhost', pool.port[index] ?? 5432]
  // postgres.js reads the server's name for TLS, and names the address in its errors, from here.
  return Object.assign(socket.connect(port, host), { host, port })
}

const suspected = new WeakSet<Socket>()

/** Destroys those of the pool's sockets on which nothing arrives within `graceMs`. Idle ones are no loss. */
export const dropSilent = (pool: object, graceMs: number): void => {
  for (const socket of sockets.get(pool) ?? []) {
    if (socket.destroyed || suspected.has(socket)) continue
    const before = socket.bytesRead
    suspected.add(socket)
    setTimeout(() => {
      suspected.delete(socket)
      if (!socket.destroyed && socket.bytesRead === before) close(socket)
    }, graceMs).unref()
  }
}

// Told first: postgres.js at once, so that it cannot write into the gap before the event comes by itself; or
// the TLS above, which would fail where nobody listens if its ground were taken away beneath it.
const close = (socket: Socket): void => {
  socket.emit('close', false)
  socket.destroy()
}
