// Starts the servers that peers need, with the usual durability of each server. PostgreSQL flushes its log at each
// commit, and Redis flushes its log every second.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { createClient } from 'redis'
import { startPostgres } from '../../spec/support/postgres-server.js'
import type { Servers } from './peer.js'

const freePort = (): Promise<number> =>
  new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const address = server.address()
      server.close(() => resolve(typeof address === 'object' && address !== null ? address.port : 0))
    })
  })

interface Redis {
  readonly port: number
  readonly pid: number | undefined
  readonly stop: () => Promise<void>
}

const startRedis = async (): Promise<Redis | undefined> => {
  const [port, directory] = [await freePort(), await mkdtemp(join(tmpdir(), 'keyrow-redis-'))]
  const options = {
    port,
    bind: '127.0.0.1',
    dir: directory,
    appendonly: 'yes',
    appendfsync: 'everysec',
    save: '',
  }
  const args = Object.entries(options).flatMap(([name, value]) => [`--${name}`, String(value)])
  const child = spawn('redis-server', args, { stdio: 'ignore' })
  const ended = Promise.race([once(child, 'exit'), once(child, 'error')]).catch(() => undefined)
  const client = createClient({ url: `redis://127.0.0.1:${port}`, socket: { reconnectStrategy: 50 } })
  client.on('error', () => undefined)
  const there = await Promise.race([
    client.connect().then(() => true),
    ended.then(() => false),
    delay(5_000, false),
  ])
  client.destroy()
  const stop = async (): Promise<void> => {
    child.kill()
    await ended
    await rm(directory, { recursive: true, force: true })
  }
  if (there) return { port, pid: child.pid, stop }
  await stop()
  return undefined
}

interface Started {
  readonly servers: Servers
  /** The process ids of the servers. */
  readonly pids: readonly number[]
  readonly stop: () => Promise<void>
}

export const startServers = async (): Promise<Started> => {
  const postgres = await startPostgres({
    settings: { shared_buffers: '256MB', max_wal_size: '2GB', max_connections: '300' },
  })
  const redis = await startRedis()
  return {
    servers: { postgres: postgres.url, redis: redis?.port },
    pids: [postgres.pid, ...(redis?.pid === undefined ? [] : [redis.pid])],
    stop: async () => {
      await redis?.stop()
      await postgres.stop()
    },
  }
}
