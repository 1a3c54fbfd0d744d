// Stores of express-session, called as it calls them: a request that changes something gets and sets its session,
// one that does not gets and touches it.

import { randomBytes } from 'node:crypto'
import pgSimple from 'connect-pg-simple'
import { RedisStore } from 'connect-redis'
import session, { type SessionData, type Store } from 'express-session'
import pg from 'pg'
import { createClient } from 'redis'
import { inGroups, type OpenPeer, type Peer } from './peer.js'

const HALF_AN_HOUR = 30 * 60_000

const cookie = () => ({
  originalMaxAge: HALF_AN_HOUR,
  expires: new Date(Date.now() + HALF_AN_HOUR),
  httpOnly: true,
  path: '/',
})

const called = <A>(call: (done: (error?: unknown, result?: A | null) => void) => void): Promise<A> =>
  new Promise((resolve, reject) => {
    call((error, result) => (error ? reject(error as Error) : resolve(result as A)))
  })

const peerOf = (store: Store, close: () => Promise<void>): Peer => {
  const get = async (sid: string): Promise<SessionData> => {
    const found = await called<SessionData | undefined>((done) => void store.get(sid, done))
    if (found === undefined) throw new Error('there is no such session')
    // express-session gives each request a cookie of its own.
    return { ...found, cookie: cookie() as SessionData['cookie'] }
  }
  const set = (sid: string, data: object) => called((done) => void store.set(sid, data as SessionData, done))
  return {
    fill: (count, values) =>
      inGroups(count, async () => {
        const sid = randomBytes(24).toString('base64url')
        await set(sid, { ...values, cookie: cookie() })
        return sid
      }),
    cycle: async (sid, key, value) => {
      await set(sid, { ...(await get(sid)), [key]: value })
    },
    read: async (sid) => {
      const data = await get(sid)
      await called((done) => void store.touch?.(sid, data, () => done()))
    },
    close,
  }
}

export const connectPgSimple: OpenPeer = async ({ postgres }) => {
  const pool = new pg.Pool({ connectionString: postgres, max: 10 })
  const store = new (pgSimple(session))({ pool, createTableIfMissing: true, pruneSessionInterval: false })
  await called((done) => void store.get('none', done))
  return peerOf(store, () => pool.end())
}

export const connectRedis: OpenPeer = async ({ redis }) => {
  if (redis === undefined)
    throw new Error('redis-server is not installed (Debian: apt-get install redis-server)')
  const client = createClient({ url: `redis://127.0.0.1:${redis}` })
  await client.connect()
  return peerOf(new RedisStore({ client, ttl: HALF_AN_HOUR / 1000 }), async () => client.close())
}
