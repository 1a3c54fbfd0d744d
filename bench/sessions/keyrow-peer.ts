// Opens variants of keyrow: the store of the README, a store without layers, loads of only the changed key, saves that do
// not wait for the disk, and another version of keyrow.

import type { Session } from 'keyrow'
import { type Driver, databaseOf, layered } from './backends.js'
import { baseline, current, type Library } from './library.js'
import { inGroups, type OpenPeer } from './peer.js'

interface Form {
  readonly library?: () => Promise<Library>
  readonly layers?: boolean
  readonly someKeys?: boolean
  readonly driver?: Driver
  readonly durability?: 'relaxed'
}

const open =
  ({ library = current, layers = true, someKeys = false, driver, durability }: Form): OpenPeer =>
  async (servers) => {
    const keyrow = await library()
    const { buildSession, loadSession, saveSession, sessionSet, sessionToken } = keyrow.main
    const database = databaseOf(keyrow, servers, driver)
    const plain = keyrow.store.sessionStore(database, {
      schema: keyrow.schema,
      ...(durability && { durability }),
    })
    const store = layers ? layered(keyrow, plain) : plain
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
      close: () => keyrow.main.closeDatabase(database),
    }
  }

export const keyrow = open({})
export const pgKeyrow = open({ driver: 'node-postgres' })
export const plainKeyrow = open({ layers: false })
export const relaxedKeyrow = open({ driver: 'node-postgres', durability: 'relaxed' })
export const someKeysKeyrow = open({ someKeys: true })
export const baselineKeyrow = open({ library: baseline })
