// Starts the servers that peers need, with the usual durability of each server. PostgreSQL flushes its log at each
// commit, and Redis flushes its log every second.

import { type CacheServer, startRedis } from '../../spec/support/cache-servers.js'
import { startPostgres } from '../../spec/support/postgres-server.js'
import type { Servers } from './peer.js'

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
  // A peer that needs Redis is left out if Redis is not installed.
  const redis = await startRedis().catch((): CacheServer | undefined => undefined)
  return {
    servers: { postgres: postgres.url, redis: redis?.port },
    pids: [postgres.pid, ...(redis === undefined ? [] : [redis.pid()])],
    stop: async () => {
      await redis?.stop()
      await postgres.stop()
    },
  }
}
