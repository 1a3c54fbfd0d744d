// Opens variants of keyrow: the store of the README, a store without layers, loads of only the changed key, saves that do
// not wait for the disk, saves that Redis has first, and another version of keyrow.

import type { Session } from 'keyrow'
import { redisCache } from 'keyrow/redis'
import type { SessionStore } from 'keyrow/store'
import { createClient } from 'redis'
import { type Driver, databaseOf, layered } from './backends.js'
import { baseline, current, type Library } from './library.js'
import { inGroups, type OpenPeer, type Servers } from './peer.js'

interface Form {
  readonly library?: () => Promise<Library>
  readonly layers?: boolean
  readonly someKeys?: boolean
  readonly driver?: Driver
  readonly durability?: 'relaxed'
  /** Whether Redis gets the saves first. */
  readonly late?: boolean
}

const open =
  ({
    library = current,
    layers = true,
    someKeys = false,
    driver,
    durability,
    late = false,
  }: Form): OpenPeer =>
  async (servers) => {
    const keyrow = await library()
    const { buildSession, loadSession, saveSession, sessionSet, sessionToken } = keyrow.main
    const database = databaseOf(keyrow, servers, driver)
    const plain = keyrow.store.sessionStore(database, {
      schema: keyrow.schema,
      ...(durability && { durability }),
    })
    const behind = late ? lateStore(keyrow, plain, servers) : undefined
    const store = behind?.store ?? (layers ? layered(keyrow, plain) : plain)
    await keyrow.main.prepareStore(store)
    const loaded = async (token: string, keys?: readonly string[]): Promise<Session> => {
      const session = await loadSession(store, token, someKeys && keys !== undefined ? { keys } : {})
      if (session === undefined) throw new Error('there is no such session')
      return session
    }
    return {
      fill: (count, values) =>
        inGroups(count, async () => {
          const session = Object.entries(values).reduce(
            (session, [key, value]) => sessionSet(key, value)(session),
            buildSession(store),
          )
          return sessionToken(await saveSession(session))
        }),
      cycle: async (token, key, value) => {
        await saveSession(sessionSet(key, value)(await loaded(token, [key])))
      },
      read: async (token) => {
        await loaded(token)
      },
      close: async () => {
        await behind?.close()
        await keyrow.main.closeDatabase(database)
      },
    }
  }

const lateStore = (keyrow: Library, plain: SessionStore, { redis }: Servers) => {
  if (redis === undefined) throw new Error('Redis is not installed')
  const { batched, cached, writeBehind } = keyrow.store
  const cache = redisCache(() => createClient({ url: `redis://127.0.0.1:${String(redis)}` }), {
    timeoutMs: 5_000,
    prefix: 'keyrow-bench:',
  })
  const late = writeBehind(cached(plain), cache, { secrets: [Buffer.alloc(32, 1)] })
  const close = async () => {
    await late.drain()
    await cache.close()
  }
  return { store: batched(late), close }
}

export const keyrow = open({})
export const pgKeyrow = open({ driver: 'node-postgres' })
export const plainKeyrow = open({ layers: false })
export const relaxedKeyrow = open({ driver: 'node-postgres', durability: 'relaxed' })
export const lateKeyrow = open({ driver: 'node-postgres', late: true })
export const someKeysKeyrow = open({ someKeys: true })
export const baselineKeyrow = open({ library: baseline })
