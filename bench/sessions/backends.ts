// What sessions are kept in: the same with HTTP and without.

import type { SessionStore } from 'keyrow'
import { poolOptions, postgresDatabase } from 'keyrow/postgres'
import { prepareStore } from 'keyrow/promise'
import { batched, cached, type Database, sessionStore } from 'keyrow/store'
import pg from 'pg'
import postgres from 'postgres'
import { createClient } from 'redis'
import type { Servers } from './peer.js'

export const HALF_AN_HOUR = 30 * 60_000
export const SECRET = 'a secret of thirty-two characters or more'

export const keyrowDatabase = ({ postgres: url }: Servers): Database =>
  postgresDatabase(() => postgres(url, { ...poolOptions, max: 10, onnotice: () => undefined }))

/** As README shows it. */
export const fast = (store: SessionStore): SessionStore => batched(cached(store))

export const keyrowStore = async (servers: Servers): Promise<SessionStore> => {
  const store = fast(sessionStore(keyrowDatabase(servers)))
  await prepareStore(store)
  return store
}

export const pgPool = ({ postgres }: Servers): pg.Pool => new pg.Pool({ connectionString: postgres, max: 10 })

export const redisClient = async ({ redis }: Servers) => {
  if (redis === undefined)
    throw new Error('redis-server is not installed (Debian: apt-get install redis-server)')
  return createClient({ url: `redis://127.0.0.1:${String(redis)}` }).connect()
}
