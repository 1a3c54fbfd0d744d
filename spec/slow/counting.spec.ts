// Law 5 between real processes, on a PostgreSQL that is durable: no increment is lost, and no error reaches
// a caller. COUNT says how many increments each of the eight processes makes (`npm run spec:faults`: 2,000).

import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import t from 'tap'
import { postgresDatabase } from '../../lib/db/postgres/index.js'
import {
  buildSession,
  closeDatabase,
  loadSession,
  queryDatabase,
  type Session,
  saveSession,
  sessionSet,
  sessionToken,
} from '../../lib/promise/index.js'
import { sessionStore } from '../../lib/sql/store.js'
import { quietPool } from '../support/databases.js'
import { durableDatabaseUrl } from '../support/postgres-server.js'
import { freshSchema } from '../support/stores.js'

const run = promisify(execFile)
const script = (name: string): string => fileURLToPath(new URL(`../support/${name}`, import.meta.url))
const count = Number(process.env['COUNT'] ?? 100)
const processes = Array.from({ length: 8 }, (_, index) => index)

const { url, stop } = await durableDatabaseUrl()
const database = postgresDatabase(quietPool(url))
const schema = freshSchema()
const store = sessionStore(database, { schema })
t.teardown(async () => {
  await queryDatabase(database, { name: 'drop', text: `drop schema ${schema} cascade` }, [])
  await closeDatabase(database)
  await stop()
})

const counters = (keys: number, tokens: readonly string[]) =>
  processes.map(async () => {
    const args = [script('counter-child.mjs'), url, schema, String(count), '4', String(keys), ...tokens]
    return JSON.parse((await run(process.execPath, args)).stdout) as unknown
  })

const stored = async (session: Session): Promise<Session> =>
  (await loadSession(store, sessionToken(session))) ?? session

t.test('law 5, no lost updates: eight processes count in one key, and fsync is on', async (t) => {
  const [row] = await queryDatabase(database, { name: 'fsync', text: 'show fsync' }, [])
  t.equal(row?.['fsync'], 'on')
  const session = await saveSession(sessionSet('first', 1)(buildSession(store)))
  t.strictSame(
    await Promise.all(counters(1, [sessionToken(session)])),
    processes.map(() => []),
  )
  t.strictSame((await stored(session)).store.toObject(), { first: 1, n0: processes.length * count })
})

t.test(
  'law 5, no lost updates: eight processes count in ten keys of five sessions, while others set and delete',
  async (t) => {
    const sessions = await Promise.all(
      Array.from({ length: 5 }, () => saveSession(sessionSet('first', 1)(buildSession(store)))),
    )
    const tokens = sessions.map(sessionToken)
    const writing = tokens.map((token, index) =>
      run(process.execPath, [
        script('writer-child.mjs'),
        url,
        schema,
        token,
        `w${String(index)}`,
        String(count / 10),
      ]),
    )
    t.strictSame(
      await Promise.all(counters(10, tokens)),
      processes.map(() => []),
    )
    await Promise.all(writing)
    const entries = (await Promise.all(sessions.map(stored))).map((session) => session.store.toObject())
    const counts = entries.flatMap((entry) =>
      Object.entries(entry)
        .filter(([key]) => /^n\d$/.test(key))
        .map(([, n]) => Number(n)),
    )
    t.equal(counts.length, 50)
    t.equal(
      counts.reduce((sum, n) => sum + n, 0),
      processes.length * count,
    )
    for (const entry of entries)
      t.equal(Object.keys(entry).filter((key) => key.startsWith('w')).length, count / 20)
  },
)
