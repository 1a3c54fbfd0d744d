// Deletes all expired sessions in a separate process, and prints the result as JSON.
// Usage: cleanup-child.mjs URL SCHEMA

import { poolOptions, postgresDatabase } from 'keyrow/postgres'
import { deleteExpiredSessions, sessionStore } from 'keyrow/store'
import postgres from 'postgres'

const [url, schema] = process.argv.slice(2)
const sql = postgres(url, { ...poolOptions, max: 1, onnotice: () => undefined })
const store = sessionStore(postgresDatabase(sql), { schema })
const result = await deleteExpiredSessions(store, { totalTimeoutMs: 3_600_000 })()
await sql.end({ timeout: 2 })
process.stdout.write(JSON.stringify(result))
