// Measures saves that wait for the disk, saves that do not (`relaxed`), and saves that Redis answers (`writeBehind`). First
// one save at a time, then sessions that are each saved four times in a second. `npm run bench:saves` runs the benchmark.
// The contenders take turns in short rounds, and the benchmark compares figures of the same round. The environment
// variables ROUNDS, SAVES, SESSIONS and SECONDS configure the benchmark.

import { setTimeout as delay } from 'node:timers/promises'
import { pgDatabase } from 'keyrow/pg'
import {
  buildSession,
  loadSession,
  type Session,
  saveSession,
  sessionSet,
  sessionToken,
} from 'keyrow/promise'
import { batched, cached, type SessionStore, sessionStore, writeBehind } from 'keyrow/store'
import pg from 'pg'
import { startRedis } from '../spec/support/cache-servers.js'
import { startPostgres } from '../spec/support/postgres-server.js'
import { processorTime } from './sessions/processor-time.js'

const figure = (name: string, otherwise: number): number => Number(process.env[name] ?? otherwise)
const rounds = figure('ROUNDS', 7)
const saves = figure('SAVES', 400)
const sessions = figure('SESSIONS', 200)
const seconds = figure('SECONDS', 5)
const PER_SECOND = 4

const postgres = await startPostgres({ settings: { shared_buffers: '256MB' } })
const redis = await startRedis()
const database = pgDatabase(new pg.Pool({ connectionString: postgres.url, max: 10 }))
const cache = redis.open({ timeoutMs: 5_000 })
const late = writeBehind(cached(sessionStore(database)), cache, { secrets: [Buffer.alloc(32, 1)] })

interface Contender {
  readonly name: string
  readonly store: SessionStore
  /** Stores what is late. */
  readonly flush: () => Promise<unknown>
}

const nothing = (): Promise<void> => Promise.resolve()
const contenders: readonly Contender[] = [
  { name: 'full', store: batched(cached(sessionStore(database))), flush: nothing },
  {
    name: 'relaxed',
    store: batched(cached(sessionStore(database, { durability: 'relaxed' }))),
    flush: nothing,
  },
  { name: 'write-behind', store: batched(late), flush: late.flush },
]

const median = (values: readonly number[]): number =>
  values.toSorted((a, b) => a - b)[values.length >> 1] ?? Number.NaN

const filled = async (store: SessionStore, count: number): Promise<readonly Session[]> => {
  const all: Session[] = []
  for (let index = 0; index < count; index += 1) {
    let session = buildSession(store)
    for (let key = 0; key < 5; key += 1) session = sessionSet(`key ${String(key)}`, 'x'.repeat(50))(session)
    all.push(await saveSession(session))
  }
  return all
}

const changed = (session: Session, count: number): Promise<Session> =>
  saveSession(sessionSet(`key ${String(count % 5)}`, String(count).padEnd(50, 'x'))(session))

/** Returns the median time of a save that is sent alone, in milliseconds. The loads are not measured. */
const alone = async ({ store, flush }: Contender, tokens: readonly string[]): Promise<readonly number[]> => {
  const times: number[] = []
  for (let count = 0; count < saves; count += 1) {
    const session = await loadSession(store, tokens[count % tokens.length] ?? '')
    if (session === undefined) throw new Error('no session')
    const start = performance.now()
    await changed(session, count)
    times.push(performance.now() - start)
  }
  await flush()
  return [median(times)]
}

/** Returns the processor times of one save in microseconds: of PostgreSQL, of Redis, and of this process. */
const paced = async ({ store, flush }: Contender): Promise<readonly number[]> => {
  const all = await filled(store, sessions)
  const before = [processorTime([postgres.pid]), processorTime([redis.pid()])] as const
  const own = process.cpuUsage()
  const visitor = async (first: Session): Promise<void> => {
    await delay(Math.random() * (1_000 / PER_SECOND))
    let session = first
    for (let count = 0; count < seconds * PER_SECOND; count += 1) {
      const start = performance.now()
      session = await changed(session, count)
      await delay(Math.max(0, 1_000 / PER_SECOND - (performance.now() - start)))
    }
  }
  await Promise.all(all.map(visitor))
  await flush()
  const count = sessions * seconds * PER_SECOND
  const { user, system } = process.cpuUsage(own)
  const servers = [processorTime([postgres.pid]) - before[0], processorTime([redis.pid()]) - before[1]]
  return [...servers.map((time) => (time * 1_000) / count), (user + system) / count]
}

const say = (line: string): void => void process.stdout.write(`${line}\n`)

/** Measures all contenders in turn. Returns the figures of each contender, by rounds. The first round is left out. */
const inTurn = async (
  measure: (contender: Contender, index: number) => Promise<readonly number[]>,
): Promise<readonly (readonly (readonly number[])[])[]> => {
  const found: (readonly number[])[][] = contenders.map(() => [])
  for (let round = 0; round <= rounds; round += 1)
    for (const [index, contender] of contenders.entries()) {
      const result = await measure(contender, index)
      if (round > 0) found[index]?.push(result)
    }
  return found
}

const tell = (names: readonly string[], found: Awaited<ReturnType<typeof inTurn>>, digits: number): void => {
  for (const [index, { name }] of contenders.entries()) {
    const figures = names.map((figure, place) => {
      const values = (found[index] ?? []).map((one) => one[place] ?? Number.NaN)
      const ratios = values.map((value, round) => value / (found[0]?.[round]?.[place] ?? Number.NaN))
      const ratio = median(ratios)
      return `${figure} ${median(values).toFixed(digits)}${Number.isFinite(ratio) ? ` (${ratio.toFixed(2)} of full)` : ''}`
    })
    say(`  ${name}: ${figures.join(', ')}`)
  }
}

say(`${String(rounds)} rounds, Node.js ${process.version}`)
const tokens = await Promise.all(
  contenders.map(async ({ store }) => (await filled(store, 20)).map(sessionToken)),
)
say('one save at a time, median time:')
tell(['ms'], await inTurn((contender, index) => alone(contender, tokens[index] ?? [])), 3)
say(
  `${String(sessions)} sessions, each saved ${String(PER_SECOND)} times in a second, processor time of one save:`,
)
tell(['µs: PostgreSQL', 'Redis', 'process'], await inTurn(paced), 0)

await late.drain()
await cache.close()
await database.close()
await redis.stop()
await postgres.stop()
