// A proxy in front of PostgreSQL that cuts, delays and black-holes connections at random. It can also lose one answer
// on purpose. Then it drops the server's answer to a completed statement, and cuts the connection.

import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'

export interface Proxy {
  readonly url: string
  /** Loses the answer to the next completed statement, and then runs `meanwhile` before it accepts new connections. */
  readonly loseNextAnswer: (meanwhile: () => Promise<void>, to?: keyof typeof ANSWERS) => void
  /** From now on, cuts, delays and black-holes connections at random. */
  readonly disturb: (disturbances: Partial<Disturbances>) => void
  /** Delays all data that clients send from now on. Returns the function that delivers the data. */
  readonly holdUp: () => () => void
  /**
   * Makes all open connections silent: nothing more arrives, and the end of a connection is not noticed. New connections
   * are not affected.
   */
  readonly silence: () => void
  /** Cuts all connections. New connections lead to another server. */
  readonly leadTo: (url: string) => void
  /** Returns the number of connections that were cut or black-holed. */
  readonly disturbed: () => number
  /** Returns the number of lost answers. */
  readonly lost: () => number
  readonly close: () => Promise<void>
}

interface Disturbances {
  /** The probabilities, from 0 to 1, that a piece of data is cut off or delayed, or is the last one that arrives. */
  readonly cut: number
  readonly delay: number
  readonly delayMs: number
  readonly hole: number
}

const CALM: Disturbances = { cut: 0, delay: 0, delayMs: 0, hole: 0 }

// The tag of a CommandComplete message. Each completed statement of a session store has one of these tags.
const ANSWERS = {
  'a statement': /C\0\0\0.(SELECT|INSERT|UPDATE|DELETE) \d/s,
  'a commit': /C\0\0\0.COMMIT/s,
  'a begin': /C\0\0\0.BEGIN/s,
  // The error itself is delivered.
  'what comes after an error': /(?<=E\0\0..SERROR\0.*)(?:Z\0\0\0.[ITE]|$)/s,
}

interface Loss {
  readonly to: keyof typeof ANSWERS
  readonly meanwhile: () => Promise<void>
}

/** Starts a proxy. With several targets, new connections lead to the targets in turn. */
export const startProxy = async (target: string, ...others: readonly string[]): Promise<Proxy> => {
  const targets = [target, ...others].map((url) => new URL(url))
  let connections = 0
  const sockets = new Set<Socket>()
  let armed: Loss | undefined
  let held: (() => void)[] | undefined
  let open: Promise<void> = Promise.resolve()
  let [lost, disturbed] = [0, 0]
  let disturbances = CALM

  const join = (client: Socket): void => {
    const { hostname, port } = targets[connections % targets.length] as URL
    connections += 1
    const server = connect(Number(port), hostname)
    let losing: Loss | undefined
    let mine: (() => void)[] | undefined
    for (const socket of [client, server]) {
      sockets.add(socket)
      socket.on('error', () => undefined)
      socket.on('close', () => {
        sockets.delete(socket)
        if (mine !== undefined) return // data that is already under way is still delivered
        client.destroy()
        server.destroy()
      })
    }
    client.on('data', (data) => {
      mine ??= held
      if (mine !== undefined) {
        mine.push(() => server.write(data))
        return
      }
      losing ??= armed
      armed = undefined
      disturbed += pass(disturbances, data, client, server)
    })
    server.on('data', (data) => {
      const at = losing === undefined ? -1 : data.toString('latin1').search(ANSWERS[losing.to])
      if (losing === undefined || at < 0) {
        disturbed += pass(disturbances, data, server, client)
        return
      }
      lost += 1
      open = losing.meanwhile()
      if (losing.to === 'what comes after an error') client.end(data.subarray(0, at))
      else client.destroy()
      losing = undefined
    })
  }

  const listener = createServer((client) => {
    client.pause()
    void open.then(() => {
      client.resume()
      join(client)
    })
  })
  listener.listen(0, '127.0.0.1')
  await once(listener, 'listening')
  const address = new URL(target)
  address.port = String((listener.address() as AddressInfo).port)
  return {
    url: address.href,
    loseNextAnswer: (meanwhile, to = 'a statement') => {
      armed = { meanwhile, to }
    },
    disturb: (wanted) => {
      disturbances = { ...CALM, ...wanted }
    },
    holdUp: () => {
      const all: (() => void)[] = []
      held = all
      return () => {
        if (held === all) held = undefined
        for (const deliver of all.splice(0)) deliver()
      }
    },
    silence: () => {
      for (const socket of sockets) socket.removeAllListeners('data').pause()
    },
    leadTo: (url) => {
      targets.splice(0, targets.length, new URL(url))
      for (const socket of sockets) socket.destroy()
    },
    disturbed: () => disturbed,
    lost: () => lost,
    close: async () => {
      for (const socket of sockets) socket.destroy()
      listener.close()
      await once(listener, 'close')
    },
  }
}

/**
 * Forwards data. At random it first delays the data, cuts the connection before or after the data, or forwards nothing
 * more. Returns the number of disturbed connections.
 */
const pass = (wanted: Disturbances, data: Buffer, from: Socket, to: Socket): number => {
  const { cut, delay, delayMs, hole } = wanted
  const [cuts, swallows, waits] = [cut, hole, delay].map((chance) => Math.random() < chance)
  if (!cuts || Math.random() < 0.5) to.write(data)
  if (cuts) to.destroySoon()
  else if (swallows) swallow(from, to)
  else if (waits) {
    from.pause()
    setTimeout(() => from.resume(), Math.random() * delayMs)
  }
  return cuts || swallows ? 1 : 0
}

const swallow = (...ends: readonly Socket[]): void => {
  for (const socket of ends) socket.removeAllListeners('data').resume()
}
