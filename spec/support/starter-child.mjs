// A new process of this release, which prepares its store and serves one visitor. starter-child.mjs URL SCHEMA

import { poolOptions, postgresDatabase } from 'keyrow/postgres'
import {
  buildSession,
  closeDatabase,
  loadSession,
  saveSession,
  sessionSet,
  sessionToken,
} from 'keyrow/promise'
import { sessionStore } from 'keyrow/store'
import postgres from 'postgres'

const [url, schema] = process.argv.slice(2)
const prepare = process.env.PREPARE !== 'false'
const sql = postgres(url, { ...poolOptions, max: 2, prepare, onnotice: () => undefined })
const database = postgresDatabase(sql)
const store = sessionStore(database, { schema })
const saved = await saveSession(sessionSet('a', 1)(buildSession(store)))
if ((await loadSession(store, sessionToken(saved)))?.store.get('a') !== 1) throw new Error('it is not there')
await closeDatabase(database)
