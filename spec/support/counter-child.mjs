// One of several processes that count in one session. Every request loads the session, adds one to a key, and saves.
// The process prints its errors as JSON. counter-child.mjs URL SCHEMA COUNT AT_ONCE KEYS TOKEN…

import { poolOptions, postgresDatabase } from 'keyrow/postgres'
import { closeDatabase, loadSession, saveSession, sessionUpdate } from 'keyrow/promise'
import { sessionStore } from 'keyrow/store'
import postgres from 'postgres'

const [url, schema, count, concurrency, keys, ...tokens] = process.argv.slice(2)
const database = postgresDatabase(() => postgres(url, { ...poolOptions, max: 4, onnotice: () => undefined }))
const store = sessionStore(database, { schema })

const errors = []
let left = Number(count)

const worker = async () => {
  while (left > 0) {
    left -= 1
    const session = await loadSession(store, tokens[left % tokens.length])
    const key = `n${String(Math.floor(left / tokens.length) % Number(keys))}`
    await saveSession(sessionUpdate(key, (n) => Number(n) + 1, 0)(session))
  }
}

const workers = Array.from({ length: Number(concurrency) }, () =>
  worker().catch((error) => errors.push(String(error))),
)
await Promise.all(workers)
await closeDatabase(database)
console.log(JSON.stringify(errors))
