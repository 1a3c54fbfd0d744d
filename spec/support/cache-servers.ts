// Runs the servers of shared caches, which are Debian packages: Redis and memcached.

import { once } from 'node:events'
import { connect } from 'node:net'
import { MemcacheClient } from 'memcache-client'
import { createClient } from 'redis'
import type { CacheOptions } from '../../lib/cache/connection.js'
import type { Cache } from '../../lib/cache/contract.js'
import { memcachedCache } from '../../lib/cache/memcached.js'
import { redisCache } from '../../lib/cache/redis.js'
import { freePort, type RunningProgram, startProgram } from './program.js'

export interface CacheServer {
  readonly name: string
  readonly port: number
  readonly pid: () => number
  /** Makes a cache of keyrow in the server, or behind the `port` of a proxy. */
  readonly open: (options?: CacheOptions & { readonly port?: number }) => Cache
  /** Stops the process of the server as if it hung. */
  readonly hang: () => void
  readonly goOn: () => void
  /** Deletes all values. */
  readonly flush: () => Promise<void>
  /** Kills the server, which loses its values. */
  readonly kill: () => Promise<void>
  readonly start: () => Promise<void>
  readonly stop: () => Promise<void>
}

interface Kind {
  readonly name: string
  readonly command: (port: number) => readonly string[]
  readonly open: (port: number, options: CacheOptions) => Cache
  readonly flush: string
}

const startServer = async ({ name, command, open, flush }: Kind): Promise<CacheServer> => {
  const port = await freePort()
  const launch = () => startProgram(() => ({ command: command(port), files: {}, port, signal: 'TERM' }))
  let program: RunningProgram | undefined = await launch()
  const pid = (): number => {
    if (program === undefined) throw new Error(`${name} does not run`)
    return program.pid
  }
  const goOn = (): void => {
    if (program !== undefined) process.kill(program.pid, 'SIGCONT')
  }
  const stop = async (): Promise<void> => {
    goOn()
    await program?.stop()
    program = undefined
  }
  return {
    ...{ name, port, pid, goOn, stop },
    open: ({ port: other = port, ...options } = {}) => open(other, options),
    hang: () => process.kill(pid(), 'SIGSTOP'),
    flush: async () => {
      const socket = connect(port, '127.0.0.1')
      socket.write(`${flush}\r\n`)
      await once(socket, 'data')
      socket.destroy()
    },
    kill: async () => {
      process.kill(pid(), 'SIGKILL')
      await stop()
    },
    start: async () => {
      program ??= await launch()
    },
  }
}

/** Starts Redis, which flushes its log to disk every second. */
export const startRedis = (...settings: readonly string[]): Promise<CacheServer> =>
  startServer({
    name: 'Redis',
    command: (port) => [
      ...['redis-server', '--port', String(port), '--bind', '127.0.0.1', '--save', ''],
      ...['--appendonly', 'yes', '--appendfsync', 'everysec', '--logfile', 'redis.log', ...settings],
    ],
    open: (port, options) =>
      redisCache(() => createClient({ url: `redis://127.0.0.1:${String(port)}` }), options),
    flush: 'flushall',
  })

export const startMemcached = (...settings: readonly string[]): Promise<CacheServer> =>
  startServer({
    name: 'memcached',
    command: (port) => ['memcached', '-l', '127.0.0.1', '-p', String(port), '-U', '0', ...settings],
    open: (port, options) =>
      memcachedCache(() => new MemcacheClient({ server: `127.0.0.1:${String(port)}` }), options),
    flush: 'flush_all',
  })
