// Measures the loads of a process that knows nothing of its sessions: from PostgreSQL alone, and with the layer
// `writeThrough` from a copy in Redis or memcached. `npm run bench:copies` runs the benchmark. The contenders take turns in
// short rounds, and the benchmark compares figures of the same round. The environment variables ROUNDS, LOADS and AT_ONCE
// configure the benchmark.

import { randomBytes } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { pgDatabase } from 'keyrow/pg'
import { buildSession, loadSession, saveSession, sessionSet, sessionToken } from 'keyrow/promise'
import { batched, type Cache, type SessionStore, sessionStore, writeThrough } from 'keyrow/store'
import pg from 'pg'
import { startMemcached, startRedis } from '../spec/support/cache-servers.js'
import { startPostgres } from '../spec/support/postgres-server.js'
import { processorTime } from './sessions/processor-time.js'

const figure = (name: string, otherwise: number): number => Number(process.env[name] ?? otherwise)
const rounds = figure('ROUNDS', 7)
const loads = figure('LOADS', 400)
const atOnce = figure('AT_ONCE', 16)
const SESSIONS = 20

const postgres = await startPostgres({ settings: { shared_buffers: '256MB' } })
const servers = [await startRedis(), await startMemcached()]
const pool = new pg.Pool({ connectionString: postgres.url, max: 10 })
const database = pgDatabase(pool)
const plain = sessionStore(database)
const caches: readonly Cache[] = servers.map((server) => server.open({ timeoutMs: 5_000 }))
const shared = batched(plain)
/** Returns the store of a process that knows nothing. */
const through = (cache: Cache): SessionStore =>
  writeThrough(shared, cache, { secrets: [Buffer.alloc(32, 1)], minBytes: 0 })

interface Contender {
  readonly name: string
  readonly open: () => SessionStore
  /** The process ids of the servers that work for it. */
  readonly pids: readonly number[]
}

const contenders: readonly Contender[] = [
  { name: 'PostgreSQL', open: () => shared, pids: [postgres.pid] },
  ...servers.map((server, index) => ({
    name: server.name,
    open: () => through(caches[index] as Cache),
    pids: [postgres.pid, server.pid()],
  })),
]

interface Measured {
  readonly rate: number
  /** The processor time of this process, of PostgreSQL and of all servers for one load, in microseconds. */
  readonly own: number
  readonly postgres: number
  readonly all: number
}

const measured = async ({ open, pids }: Contender, tokens: readonly string[]): Promise<Measured> => {
  // Each store loads each session once. The stores are made before the measurement.
  const stores = Array.from({ length: Math.ceil(loads / SESSIONS) }, open)
  const before = [processorTime([postgres.pid]), processorTime(pids)] as const
  const [own, start] = [process.cpuUsage(), performance.now()]
  let next = 0
  const worker = async () => {
    while (next < loads) {
      const store = stores[Math.floor(next / SESSIONS)] as SessionStore
      next += 1
      if ((await loadSession(store, tokens[next % SESSIONS] ?? '')) === undefined)
        throw new Error('no session')
    }
  }
  await Promise.all(Array.from({ length: atOnce }, worker))
  const seconds = (performance.now() - start) / 1_000
  const { user, system } = process.cpuUsage(own)
  const [database, all] = [processorTime([postgres.pid]) - before[0], processorTime(pids) - before[1]]
  return {
    rate: loads / seconds,
    own: (user + system) / loads,
    postgres: (database * 1_000) / loads,
    all: (user + system + all * 1_000) / loads,
  }
}

const median = (values: readonly number[]): number =>
  values.toSorted((a, b) => a - b)[values.length >> 1] ?? Number.NaN

const say = (line: string): void => void process.stdout.write(`${line}\n`)
say(
  `${String(rounds)} rounds of ${String(loads)} cold loads, ${String(atOnce)} at once, Node.js ${process.version}`,
)
say('ratios to PostgreSQL alone: rate, and processor time in all')
for (const [keys, bytes] of [
  [5, 50],
  [20, 200],
  [40, 200],
  [80, 200],
  [160, 200],
  [320, 200],
  [500, 1_000],
] as const) {
  const tokens: string[] = []
  for (let index = 0; index < SESSIONS; index += 1) {
    let session = buildSession(through(caches[index % 2] as Cache))
    for (let key = 0; key < keys; key += 1)
      session = sessionSet(`key ${String(key)}`, randomBytes(bytes).toString('hex').slice(0, bytes))(session)
    tokens.push(sessionToken(await saveSession(session)))
  }
  // The first load of each session writes its copy.
  for (const { open } of contenders) for (const token of tokens) await loadSession(open(), token)
  await delay(300)
  const found: Measured[][] = contenders.map(() => [])
  for (let round = 0; round <= rounds; round += 1)
    for (const [index, contender] of contenders.entries()) {
      const result = await measured(contender, tokens)
      if (round > 0) found[index]?.push(result)
    }
  const of = (index: number, get: (one: Measured) => number): number => median((found[index] ?? []).map(get))
  const ratio = (index: number, get: (one: Measured) => number): string =>
    median((found[index] ?? []).map((one, place) => get(one) / get(found[0]?.[place] as Measured))).toFixed(2)
  say(`${String(keys)} × ${String(bytes)} B:`)
  for (const [index, { name }] of contenders.entries())
    say(
      `  ${name}: rate ${ratio(index, ({ rate }) => rate)}, processor time ${ratio(index, ({ all }) => all)}; ` +
        `${of(index, ({ rate }) => rate).toFixed(0)}/s, µs: process ${of(index, ({ own }) => own).toFixed(0)}, ` +
        `PostgreSQL ${of(index, ({ postgres }) => postgres).toFixed(0)}, in all ${of(index, ({ all }) => all).toFixed(0)}`,
    )
}
for (const cache of caches) await cache.close()
await database.close()
for (const server of servers) await server.stop()
await postgres.stop()
