// A proxy in front of PostgreSQL that loses answers: once the server says that a statement is done (and not
// only parsed and described), that is thrown away with the connection.

import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'

export interface Proxy {
  readonly url: string
  /** Loses the answer to the next statement that is carried out; then runs `meanwhile`, before anybody can connect again. */
  readonly loseNextAnswer: (meanwhile: () => Promise<void>) => void
  /** How many answers were lost. */
  readonly lost: () => number
  readonly close: () => Promise<void>
}

export const startProxy = async (target: string): Promise<Proxy> => {
  const { hostname, port } = new URL(target)
  const sockets = new Set<Socket>()
  let armed: (() => Promise<void>) | undefined
  let open: Promise<void> = Promise.resolve()
  let lost = 0

  const join = (client: Socket): void => {
    const server = connect(Number(port), hostname)
    let losing: (() => Promise<void>) | undefined
    for (const socket of [client, server]) {
      sockets.add(socket)
      socket.on('error', () => undefined)
      socket.on('close', () => {
        sockets.delete(socket)
        client.destroy()
        server.destroy()
      })
    }
    client.on('data', (data) => {
      losing ??= armed
      armed = undefined
      server.write(data)
    })
    server.on('data', (data) => {
      if (losing === undefined || !saysDone(data)) {
        client.write(data)
        return
      }
      lost += 1
      open = losing()
      losing = undefined
      client.destroy()
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
    loseNextAnswer: (meanwhile) => {
      armed = meanwhile
    },
    lost: () => lost,
    close: async () => {
      for (const socket of sockets) socket.destroy()
      listener.close()
      await once(listener, 'close')
    },
  }
}

// The tag of a CommandComplete message. A statement of a session's store that is done has one of these.
const saysDone = (data: Buffer): boolean =>
  /C\0\0\0.(SELECT|INSERT|UPDATE|DELETE) \d/s.test(data.toString('latin1'))
