// Measures how a cleanup of expired sessions affects requests, and whether the tables grow. Run it with
// `npm run bench:cleanup`. The environment variables EXPIRED, LIVE, KEYS, ROUNDS, COLLECTORS and RATE configure it.

import { execFile } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { poolOptions, postgresDatabase } from 'keyrow/postgres'
import { loadSession, saveSession, sessionSet } from 'keyrow/promise'
import { sessionStore } from 'keyrow/store'
import postgres from 'postgres'
import { startPostgres } from '../spec/support/postgres-server.js'

const figure = (name: string, otherwise: number): number => Number(process.env[name] ?? otherwise)
const expired = figure('EXPIRED', 1_000_000)
const live = figure('LIVE', 100_000)
const keys = figure('KEYS', 10)
const rounds = figure('ROUNDS', 10)
const collectors = figure('COLLECTORS', 4)
const perSecond = figure('RATE', 200)

const schema = 'keyrow'
const server = await startPostgres({
  settings: { shared_buffers: '512MB', max_wal_size: '4GB', autovacuum_naptime: '5s' },
})
const admin = postgres(server.url, { ...poolOptions, max: 2, onnotice: () => undefined })
const sql = postgres(server.url, { ...poolOptions, max: 8, onnotice: () => undefined })
const store = sessionStore(postgresDatabase(sql), { schema })
await store.prepare()

const say = (text: string): void => void process.stdout.write(`${text}\n`)

// All sessions have the same secret, so that one SQL statement can create many sessions.
const secret = Buffer.concat([randomBytes(31), Buffer.from([0])]).toString('base64url')
const hash = createHash('sha256').update(secret).digest('hex')

/**
 * Creates sessions that began in the last two hours. `ends` is the SQL expression of their expiration. Each session has
 * `keys` keys of 50 bytes. `collect_at` is never in the future, so the cleanup examines all these sessions.
 */
const fill = async (count: number, ends: string): Promise<void> => {
  for (let left = count; left > 0; left -= 20_000)
    await admin.unsafe(`
      with head as (
        insert into ${schema}.session
        select gen_random_uuid(), decode('${hash}', 'hex'), null, null, now() - interval '2 hours' * random(), ${ends},
               now() + interval '11 hours', 1, ''
        from generate_series(1, ${Math.min(left, 20_000)})
        returning id, expires_at
      ), listed as (
        insert into ${schema}.listing select id, null, least(expires_at, now()) from head
      )
      insert into ${schema}.entry
      select id, 'key ' || n, to_jsonb(repeat('x', 50)), 1 from head, generate_series(1, ${keys}) as n`)
}

const alive = "now() + interval '6 hours'"
const past = "now() - interval '1 minute' * random()"

const sizes = async (): Promise<string> => {
  const rows = await admin.unsafe(`
    select c.relname as name, pg_table_size(c.oid)::float8 / 1048576 as data, pg_indexes_size(c.oid)::float8 / 1048576 as indexes
    from pg_class c where c.relnamespace = '${schema}'::regnamespace and c.relkind = 'r' and c.relname <> 'metadata'
    order by 1`)
  return rows
    .map(
      ({ name, data, indexes }) =>
        `${String(name)} ${Number(data).toFixed(0)} + ${Number(indexes).toFixed(0)} MB`,
    )
    .join(', ')
}

/**
 * Sends requests at a steady rate until `until` resolves. A request loads a session, sets one key, and saves the
 * session. Returns the response times in milliseconds.
 */
const traffic = async (ids: readonly string[], until: Promise<unknown>): Promise<readonly number[]> => {
  const times: number[] = []
  const failures: unknown[] = []
  const request = async (): Promise<void> => {
    const id = ids[Math.floor(Math.random() * ids.length)] ?? ''
    const start = performance.now()
    const session = await loadSession(store, `${id}.${secret}`)
    if (session === undefined) throw new Error(`${id} is not there`)
    await saveSession(sessionSet('key 1', Math.random())(session))
    times.push(performance.now() - start)
  }
  const over = { yet: false }
  void until.then(() => (over.yet = true))
  const requests: Promise<void>[] = []
  for (let next = performance.now(); !over.yet; next += 1000 / perSecond) {
    await new Promise((resolve) => setTimeout(resolve, Math.max(0, next - performance.now())))
    requests.push(request().catch((error: unknown) => void failures.push(error)))
  }
  await Promise.all(requests)
  if (failures.length > 0)
    throw new Error(`${String(failures.length)} requests failed: ${String(failures[0])}`)
  return times
}

const percentile = (times: readonly number[], share: number): number =>
  [...times].sort((a, b) => a - b)[Math.floor(times.length * share)] ?? 0

const described = (times: readonly number[]): string =>
  `${String(times.length)} requests, p50 ${percentile(times, 0.5).toFixed(1)} ms, p99 ${percentile(times, 0.99).toFixed(1)} ms`

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

/** Runs cleanups in several processes. Throws an error if a cleanup fails, or if a deadlock has occurred. */
const collectIn = async (processes: number): Promise<readonly unknown[]> => {
  const child = fileURLToPath(new URL('./cleanup-child.mjs', import.meta.url))
  const run = promisify(execFile)
  const all = await Promise.all(
    Array.from({ length: processes }, () => run(process.execPath, [child, server.url, schema])),
  )
  const results = all.map(({ stdout }) => JSON.parse(stdout) as { readonly _tag: string })
  const [row] = await admin.unsafe(
    'select deadlocks::int as n from pg_stat_database where datname = current_database()',
  )
  if (results.some(({ _tag }) => _tag !== 'Right') || row?.['n'] !== 0)
    throw new Error(`it failed: ${JSON.stringify(results)}, ${String(row?.['n'])} deadlocks`)
  return results
}

try {
  say(
    `${String(expired)} expired and ${String(live)} live sessions of ${String(keys)} keys, ${String(perSecond)} requests a second`,
  )
  await fill(live, alive)
  const ids = (await admin.unsafe(`select id from ${schema}.session`)).map(({ id }) => String(id))
  await fill(expired, past)
  await admin.unsafe(`vacuum analyze`)
  say(`sizes: ${await sizes()}`)

  await traffic(ids, pause(5_000))
  const before = await traffic(ids, pause(30_000))
  say(`before: ${described(before)}`)
  const began = performance.now()
  const collecting = collectIn(1)
  const during = await traffic(ids, collecting)
  say(`while collecting: ${described(during)}; it took ${((performance.now() - began) / 1000).toFixed(0)} s`)
  say(`the collector: ${JSON.stringify(await collecting)}`)
  say(
    `p99 while collecting: ${(percentile(during, 0.99) / percentile(before, 0.99)).toFixed(2)} times p99 before`,
  )
  const after = await traffic(ids, pause(10_000))
  say(`after: ${described(after)}`)
  const [counted] = await admin.unsafe(`select count(*)::int as left from ${schema}.session`)
  say(`sessions left: ${String(counted?.['left'])} of ${String(live)} that live`)

  for (let round = 1; round <= rounds; round += 1) {
    await fill(live / 2, past)
    const [results, times] = await (async () => {
      const running = collectIn(collectors)
      const seen = await traffic(ids, running)
      return [await running, seen] as const
    })()
    await pause(6_000) // autovacuum starts every 5 seconds
    say(`round ${String(round)}, ${String(results.length)} collectors: ${described(times)}; ${await sizes()}`)
  }
} finally {
  await sql.end({ timeout: 2 })
  await admin.end({ timeout: 2 })
  await server.stop()
}
