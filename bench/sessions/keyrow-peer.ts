// keyrow: as README shows it, without its layers, and reading no more of a session than the key that is changed.

import { pipe } from 'fp-ts/lib/function.js'
import * as O from 'fp-ts/lib/Option.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import {
  buildSession,
  loadSession,
  type Session,
  type SessionStore,
  saveSession,
  sessionSet,
  sessionStore,
  sessionToken,
} from 'keyrow'
import { fast, keyrowDatabase } from './backends.js'
import { inGroups, type OpenPeer } from './peer.js'

const right = async <L, A>(task: TE.TaskEither<L, A>): Promise<A> => {
  const result = await task()
  if (result._tag === 'Left') throw result.left as Error
  return result.right
}

const open =
  (layered: (store: SessionStore) => SessionStore, lazy = false): OpenPeer =>
  async (servers) => {
    const database = keyrowDatabase(servers)
    const store = layered(sessionStore(database))
    await right(store.prepare)
    const loaded = (token: string, keys?: readonly string[]): TE.TaskEither<unknown, Session> =>
      pipe(
        loadSession(store, token, lazy && keys !== undefined ? { keys } : {}),
        TE.chainW(TE.fromOption(() => new Error('there is no such session'))),
      )
    return {
      fill: (count, values) =>
        inGroups(count, async () => {
          const session = Object.entries(values).reduce(
            (session, [key, value]) => sessionSet(key, value)(session),
            buildSession(store),
          )
          return sessionToken(await right(saveSession(session)))
        }),
      cycle: async (token, key, value) => {
        await right(pipe(loaded(token, [key]), TE.map(sessionSet(key, value)), TE.chainW(saveSession)))
      },
      read: async (token) => {
        if (O.isNone((await right(loaded(token))).snapshot)) throw new Error('it was not read')
      },
      close: async () => {
        await right(database.close)
      },
    }
  }

export const keyrow = open(fast)
export const plainKeyrow = open((store) => store)
export const lazyKeyrow = open(fast, true)
