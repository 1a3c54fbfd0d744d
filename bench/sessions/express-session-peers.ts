// Measures stores of express-session with the calls that express-session makes. A request that changes its session
// calls `get` and `set`. A request that changes nothing calls `get` and `touch`.

import { randomBytes } from 'node:crypto'
import pgSimple from 'connect-pg-simple'
import { RedisStore } from 'connect-redis'
import session from 'express-session'
import { HALF_AN_HOUR, pgPool, redisClient } from './backends.js'
import { inGroups, type OpenPeer, type Peer } from './peer.js'

const cookie = () => ({
  originalMaxAge: HALF_AN_HOUR,
  expires: new Date(Date.now() + HALF_AN_HOUR),
  httpOnly: true,
  path: '/',
})

const called = <A>(call: (done: (error?: unknown, result?: A | null) => void) => unknown): Promise<A> =>
  new Promise((resolve, reject) => {
    call((error, result) =>
      error ? reject(new Error('the store failed', { cause: error })) : resolve(result as A),
    )
  })

/** The methods of a store that express-session calls. */
interface Store {
  get(sid: string, done: (error: unknown, data?: object | null) => void): unknown
  set(sid: string, data: object, done: (error?: unknown) => void): unknown
  touch(sid: string, data: object, done: (error?: unknown) => void): unknown
}

const peerOf = (given: unknown, close: () => Promise<void>): Peer => {
  const store = given as Store
  const get = async (sid: string): Promise<object> => {
    const found = await called<object | undefined>((done) => store.get(sid, done))
    if (found === undefined) throw new Error('there is no such session')
    // express-session makes a new cookie object for each request.
    return { ...found, cookie: cookie() }
  }
  const set = (sid: string, data: object) => called((done) => store.set(sid, data, done))
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
      await called((done) => store.touch(sid, data, done))
    },
    close,
  }
}

export const connectPgSimple: OpenPeer = async (servers) => {
  const pool = pgPool(servers)
  const store = new (pgSimple(session))({ pool, createTableIfMissing: true, pruneSessionInterval: false })
  await called((done) => {
    store.get('none', done)
  })
  return peerOf(store, () => pool.end())
}

export const connectRedis: OpenPeer = async (servers) => {
  const client = await redisClient(servers)
  return peerOf(new RedisStore({ client, ttl: HALF_AN_HOUR / 1000 }), async () => client.close())
}
