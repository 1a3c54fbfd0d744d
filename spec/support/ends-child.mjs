// A process that loads sessions after their end. It gets messages from ../slow/ends.spec.ts, with a store's task as its
// argument: {"url", "schema", "durability", "mode", "cache"}.

import { setTimeout as delay } from 'node:timers/promises'
import { loadSession, saveSession, sessionUpdate } from 'keyrow/promise'
import { sessionStore } from 'keyrow/store'
import { openedCache, withLayers } from './server-cache.mjs'
import { opened } from './server-database.mjs'

const task = JSON.parse(process.argv[2])
const database = opened('node-postgres', task.url, { max: 4, timeoutMs: 10_000 })
const plain = sessionStore(database, { schema: task.schema, durability: task.durability })
const cache = task.cache && openedCache(task.cache)
const store = withLayers(plain, { mode: task.mode, cache, flushMs: 50 })
const add = sessionUpdate('count', (count) => count + 1, 0)

/** Changes a session again and again, until it is gone. */
const use = async (token) => {
  for (;;) {
    const session = await loadSession(store, token)
    if (session === undefined) return
    try {
      await saveSession(add(session))
    } catch (error) {
      if (error._tag !== 'SessionGone') throw error
      return
    }
    await delay(5)
  }
}

const loadAgain = async ({ tokens, times }) => {
  let found = 0
  for (let time = 0; time < times; time += 1) {
    const loaded = await Promise.all(tokens.map((token) => loadSession(store, token)))
    found += loaded.filter((session) => session !== undefined).length
    if (time % 10 === 0) await delay(5)
  }
  return { found, loads: tokens.length * times }
}

process.on('message', async ({ id, kind, ...message }) => {
  if (kind === 'use') {
    for (const token of message.tokens) void use(token)
    process.send({ id })
  } else process.send({ id, ...(await loadAgain(message)) })
})
