// Law 6 between processes: a load that begins after the end of a session was answered finds nothing, in each mode, whatever
// the cache returns. With LONG=1 each mode has a million loads. `npm run spec:caches` runs this file.

import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import * as O from 'fp-ts/lib/Option.js'
import t from 'tap'
import type { Cache, CacheItem } from '../../lib/cache/contract.js'
import { pgDatabase } from '../../lib/db/pg.js'
import {
  buildSession,
  destroySession,
  destroySessionsOf,
  type Session,
  saveSession,
  sessionFor,
  sessionSet,
  sessionToken,
} from '../../lib/promise/index.js'
import { sessionStore } from '../../lib/sql/store.js'
import { times } from '../support/at-length.js'
import { type CacheServer, startMemcached, startRedis } from '../support/cache-servers.js'
import { pgPool } from '../support/databases.js'
import { startPostgres } from '../support/postgres-server.js'
import { freshSchema, right } from '../support/stores.js'

const postgres = await startPostgres()
const servers = [await startRedis(), await startMemcached()]
const database = pgDatabase(pgPool(postgres.url, { max: 4 }))
t.teardown(async () => {
  await database.close()
  for (const server of servers) await server.stop()
  await postgres.stop()
})

const script = fileURLToPath(new URL('../support/ends-child.mjs', import.meta.url))
const SESSIONS = 50
const LOADS = 100
const rounds = times(2, 100)

interface Loads {
  readonly found: number
  readonly loads: number
}

const start = (task: object) => {
  const child: ChildProcess = fork(script, [JSON.stringify(task)])
  let last = 0
  const waiting = new Map<number, (reply: Loads) => void>()
  child.on('message', (reply: Loads & { readonly id: number }) => waiting.get(reply.id)?.(reply))
  const ask = (kind: 'use' | 'load', tokens: readonly string[]): Promise<Loads> => {
    const id = last++
    child.send({ id, kind, tokens, times: LOADS })
    return new Promise((resolve) => waiting.set(id, resolve))
  }
  const stop = async (): Promise<void> => {
    child.kill('SIGKILL')
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
  }
  return { ask, stop }
}

/** Returns the values that the cache has of the sessions. */
const valuesOf = async (cache: Cache, sessions: readonly Session[]): Promise<readonly CacheItem[]> => {
  const keys = sessions.flatMap(({ id }) => [`head:${id}`, id])
  const found = await right(cache.get(keys))
  return found.flatMap((one, index) =>
    O.isNone(one) ? [] : [{ key: keys[index] ?? '', value: one.value.value, ttlMs: 60_000 }],
  )
}

const law = (name: string, task: object, server?: CacheServer): void => {
  t.test(`law 6, ${name}: no load after an end finds the session`, async (t) => {
    const schema = freshSchema()
    const store = sessionStore(database, { schema })
    await right(store.prepare)
    const cacheTask = server && { server: server.name, port: server.port, timeoutMs: 2_000 }
    const children = [0, 1].map(() => start({ url: postgres.url, schema, cache: cacheTask, ...task }))
    const cache = server?.open({ timeoutMs: 2_000 })
    let [found, loads, restored] = [0, 0, 0]
    for (let round = 0; round < rounds; round += 1) {
      const principal = `user ${String(round)}`
      const sessions = await Promise.all(
        Array.from({ length: SESSIONS }, () =>
          saveSession(sessionSet('count', 0)(sessionFor(principal)(buildSession(store)))),
        ),
      )
      const tokens = sessions.map(sessionToken)
      await Promise.all(children.map(({ ask }) => ask('use', tokens)))
      await delay(150)
      const old = cache && (await valuesOf(cache, sessions))
      if (round % 2 === 0) await destroySessionsOf(store, principal)
      else await Promise.all(sessions.map((session) => destroySession(session)))
      const loading = children.map(({ ask }) => ask('load', tokens))
      // The cache brings back what it had before the ends.
      if (old !== undefined && old.length > 0) {
        await right((cache as Cache).set(old))
        restored += old.length
      }
      for (const result of await Promise.all(loading)) {
        found += result.found
        loads += result.loads
      }
    }
    for (const { stop } of children) await stop()
    await cache?.close()
    t.equal(found, 0)
    t.equal(loads, rounds * SESSIONS * LOADS * children.length)
    if (cache !== undefined) t.not(restored, 0, 'the cache had values of these sessions')
    t.comment(`${String(loads)} loads, ${String(restored)} values brought back by the cache`)
  })
}

law('plain', { mode: 'plain', durability: 'full' })
law('relaxed', { mode: 'plain', durability: 'relaxed' })
for (const server of servers)
  for (const mode of ['through', 'behind'] as const)
    law(`${mode}, ${server.name}`, { mode, durability: 'full' }, server)
