// keyrow: as README shows it, without its layers, and reading no more of a session than the key that is changed.

import type { Session, SessionStore } from 'keyrow'
import {
  buildSession,
  closeDatabase,
  loadSession,
  prepareStore,
  saveSession,
  sessionSet,
  sessionStore,
  sessionToken,
} from 'keyrow/promise'
import { fast, keyrowDatabase } from './backends.js'
import { inGroups, type OpenPeer } from './peer.js'

const open =
  (layered: (store: SessionStore) => SessionStore, lazy = false): OpenPeer =>
  async (servers) => {
    const database = keyrowDatabase(servers)
    const store = layered(sessionStore(database))
    await prepareStore(store)
    const loaded = async (token: string, keys?: readonly string[]): Promise<Session> => {
      const session = await loadSession(store, token, lazy && keys !== undefined ? { keys } : {})
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
      close: () => closeDatabase(database),
    }
  }

export const keyrow = open(fast)
export const plainKeyrow = open((store) => store)
export const lazyKeyrow = open(fast, true)
