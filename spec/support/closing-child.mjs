// Uses a database, prints a line, and closes the database on request. Then nothing keeps the process alive.
// closing-child.mjs URL DRIVER
import { once } from 'node:events'
import { opened } from './server-database.mjs'

const [url, driver] = process.argv.slice(2)
const database = opened(driver, url, { max: 3, timeoutMs: 500 })
const results = await Promise.all(
  [1, 2, 3].map((n) => database.query({ name: 'one', text: `select ${n}` }, [])()),
)
process.stdout.write(`${results.map(({ _tag }) => _tag).join(' ')}\n`)
await once(process.stdin, 'data')
process.stdin.destroy()
await database.close()
