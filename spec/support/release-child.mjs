// A process of an old release that creates, loads, changes and destroys sessions until its stdin ends. Then it prints
// JSON with its failures, its longest request in milliseconds, and the values that must be stored. release-child.mjs
// MODULES URL SCHEMA
import postgres from 'postgres'

const [modules, url, schema] = process.argv.slice(2)
// The modules have other paths since the third release.
const load = (path, before) => import(new URL(path, modules)).catch(() => import(new URL(before, modules)))
const { postgresDatabase } = await load('db/postgres/index.js', 'driver/postgres.js')
const promises = await load('promise/index.js', 'promise.js')
const { buildSession, destroySession, loadSession, saveSession, sessionSet, sessionToken, sessionUpdate } =
  promises
const { sessionStore } = await load('sql/store.js', 'index.js')

const sql = postgres(url, { max: 4, fetch_types: false, max_pipeline: 1_000_000, onnotice: () => undefined })
const store = sessionStore(postgresDatabase(sql), { schema })
const expected = new Map()
const failures = []
let [requests, longest, over] = [0, 0, false]
process.stdin.on('end', () => (over = true)).resume()

const request = async () => {
  const tokens = [...expected.keys()]
  const token = tokens[Math.floor(Math.random() * tokens.length)]
  if (tokens.length < 20 || Math.random() < 0.2) {
    const session = await saveSession(sessionSet('n', 1)(buildSession(store)))
    expected.set(sessionToken(session), 1)
  } else if (Math.random() < 0.1) {
    expected.delete(token)
    await destroySession(await loadSession(store, token))
  } else {
    const count = expected.get(token)
    expected.delete(token) // so that no concurrent request uses it
    await saveSession(sessionUpdate('n', (n) => n + 1, 0)(await loadSession(store, token)))
    expected.set(token, count + 1)
  }
}

const serve = async () => {
  while (!over) {
    const start = performance.now()
    await request().catch((error) => failures.push(String(error)))
    longest = Math.max(longest, performance.now() - start)
    requests += 1
  }
}

await store.prepare()
process.stdout.write('serving\n')
await Promise.all([serve(), serve(), serve()])
await sql.end({ timeout: 2 })
process.stdout.write(`${JSON.stringify({ requests, longest, failures, expected: [...expected] })}\n`)
