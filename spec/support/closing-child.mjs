// Uses a database, prints a line, and closes the database on request. Then nothing keeps the process alive.
// closing-child.mjs URL
import { once } from 'node:events'
import { poolOptions, postgresDatabase } from 'keyrow/postgres'
import postgres from 'postgres'

const url = process.argv[2]
const database = postgresDatabase(() => postgres(url, { ...poolOptions, max: 3 }), { timeoutMs: 500 })
const results = await Promise.all(
  [1, 2, 3].map((n) => database.query({ name: 'one', text: `select ${n}` }, [])()),
)
process.stdout.write(`${results.map(({ _tag }) => _tag).join(' ')}\n`)
await once(process.stdin, 'data')
process.stdin.destroy()
await database.close()
