// One of several processes that write to one session at the same time. It sets the given number of its own keys, and
// then deletes every second key. Each change is a request with a load and a save.

import { poolOptions, postgresDatabase } from 'keyrow/postgres'
import { closeDatabase, loadSession, saveSession, sessionDel, sessionSet } from 'keyrow/promise'
import { sessionStore } from 'keyrow/store'
import postgres from 'postgres'

const [url, schema, token, name, count] = process.argv.slice(2)
const database = postgresDatabase(() => postgres(url, { ...poolOptions, max: 4, onnotice: () => undefined }))
const store = sessionStore(database, { schema })

const request = async (edit) => saveSession(edit(await loadSession(store, token)))
const keys = Array.from({ length: Number(count) }, (_, index) => `${name} ${String(index)}`)

/** Four requests run at a time. */
const inFours = async (edits) => {
  for (let index = 0; index < edits.length; index += 4)
    await Promise.all(edits.slice(index, index + 4).map(request))
}

try {
  await inFours(keys.map((key) => sessionSet(key, key)))
  await inFours(keys.filter((_, index) => index % 2 === 1).map((key) => sessionDel(key)))
} finally {
  await closeDatabase(database)
}
