// Mixed traffic for SOAK_MINUTES (10): `npm run spec:soak`. Two processes with `batched(cached(…))` on one PostgreSQL
// load, save, update, delete keys, sign in and out, rotate, let sessions expire, and collect. Nothing may grow from the
// middle third of the run to the last: memory, rows, tables, indexes, pages that a request touches. Times are told, and
// decide nothing.

import type { Sql } from 'postgres'
import t, { type Test } from 'tap'
import { postgresDatabase } from '../../lib/db/postgres/index.js'
import { type Database, deleteExpiredSessions, type SessionStore } from '../../lib/promise/index.js'
import { sessionStore } from '../../lib/sql/store.js'
import { quietPool, rowsOf } from '../support/databases.js'
import { startPostgres } from '../support/postgres-server.js'
import { lastingSessions, type Sample, soak } from '../support/soak.js'
import { type Bound, grows, thirdsOf } from '../support/soak-judge.js'
import { age, freshSchema, right } from '../support/stores.js'

const minutes = Number(process.env['SOAK_MINUTES'] ?? 10)
const MIB = 1024 * 1024
const maxBytes = 8 * MIB

t.test('the judge', async (t) => {
  const series = (figure: (time: number) => number): readonly number[] =>
    Array.from({ length: 30 }, (_, index) => figure(index / 30))
  const bound = { factor: 1.1, slack: 1 }
  const wave = (time: number) => 10 * Math.sin(time * 40)
  t.equal(
    grows(
      series(() => 100),
      bound,
    ),
    undefined,
    'what is flat passes',
  )
  t.equal(
    grows(
      series((time) => 100 + wave(time)),
      bound,
    ),
    undefined,
    'what goes up and down passes',
  )
  t.equal(
    grows(
      series((time) => 100 - 90 * Math.exp(-20 * time)),
      bound,
    ),
    undefined,
    'what fills up passes',
  )
  t.equal(
    grows(
      series((time) => 100 - 50 * time),
      bound,
    ),
    undefined,
    'what shrinks passes',
  )
  t.ok(
    grows(
      series((time) => 100 * time),
      bound,
    ),
    'what grows from nothing fails',
  )
  t.ok(
    grows(
      series((time) => 100 + 50 * time + wave(time)),
      bound,
    ),
    'what grows by half fails',
  )
  t.ok(
    grows(
      series((time) => (time < 0.7 ? 100 : 150)),
      bound,
    ),
    'what leaps at the end fails',
  )
  t.ok(
    grows(
      series((time) => 100 * time),
      bound,
      1.1,
    ),
    'it fails when the traffic grew by less',
  )
  t.equal(
    grows(
      series((time) => 100 + 50 * time),
      bound,
      1.5,
    ),
    undefined,
    'it passes when the traffic grew by more',
  )
  t.ok(
    grows(
      series(() => Number.NaN),
      bound,
    ),
    'what is no number fails',
  )
  t.ok(grows([1, 1, 1], bound), 'too few figures fail')
})

/** The bound of each figure. */
const boundOf = (name: string): Bound => {
  if (name.startsWith('bytes, memory')) return { factor: 1.05, slack: MIB }
  // A table comes to its size by chance, a few pages at a time; a page has 8 KiB.
  if (name.startsWith('bytes')) return { factor: 1.1, slack: 16 * 8192 }
  if (name.startsWith('rows')) return { factor: 1.1, slack: 50 }
  return { factor: 1.1, slack: 0.5 }
}

type Child = Sample['children'][number]

const sumOf = (samples: readonly Sample[], of: (child: Child) => number): number =>
  samples.flatMap(({ children }) => children.map(of)).reduce((sum, figure) => sum + figure, 0)

const shown = (name: string, figures: readonly number[]): string => {
  const { first, middle, last } = thirdsOf(figures)
  return `${name}: ${[first, middle, last].map((figure) => figure.toFixed(2)).join(', ')}`
}

const tell = (t: Test, samples: readonly Sample[]): void => {
  const most = (of: (child: Child) => number) => samples.map(({ children }) => Math.max(...children.map(of)))
  const sum = (of: (child: Child) => number): string => String(sumOf(samples, of))
  t.comment('medians of the three thirds of the run')
  const told = 'told, and decides nothing: '
  t.comment(
    shown(
      `${told}median of a request, in milliseconds`,
      most(({ p50 }) => p50),
    ),
  )
  t.comment(
    shown(
      `${told}resident memory, in MiB`,
      most(({ rss }) => rss / MIB),
    ),
  )
  t.comment(
    shown(
      `${told}requests between two samples`,
      samples.map(({ requests }) => requests),
    ),
  )
  t.comment(
    `${sum(({ requests }) => requests)} requests, ${sum(({ made }) => made)} sessions made, ${sum(({ ended }) => ended)} signed out, ` +
      `${sum(({ expired }) => expired)} visitors came too late, ${sum(({ gone }) => gone)} found theirs gone`,
  )
}

/** Nothing grows, and what is to be bounded had come to its bound before the middle third. */
const judge = (t: Test, samples: readonly Sample[]): void => {
  const { middle, last } = thirdsOf(samples.map(({ requests }) => requests))
  for (const name of Object.keys(samples[0]?.figures ?? {})) {
    const figures = samples.map((sample) => sample.figures[name] ?? Number.NaN)
    const traffic = name.startsWith('rows') ? last / middle : 1
    t.equal(grows(figures, boundOf(name), traffic), undefined, shown(name, figures))
  }
  const firstThird = samples.slice(0, Math.floor(samples.length / 3))
  // Ten values of 300 bytes are taken for more than 4 KiB; half of the memory of each of two processes is for visitors.
  const remembered = sumOf(firstThird, ({ made }) => made) * 4096
  t.ok(remembered > 1.2 * maxBytes, 'what is remembered was full within the first third')
  t.strictSame(
    samples.flatMap(({ children }) => children.flatMap(({ failures }) => failures)),
    [],
    'no request failed',
  )
}

const deletedKeys = async (t: Test, sql: Sql, schema: string): Promise<void> => {
  const [row] = await sql.unsafe(`
    select count(*) filter (where e.value is null and e.revision <= s.revision - 512)::int as old,
           count(*) filter (where e.value is null)::int as deleted, max(s.revision)::int as revision
    from ${schema}.entry e join ${schema}.session s on s.id = e.session_id`)
  t.equal(row?.['old'], 0, 'no deleted key is kept for longer than 512 revisions')
  t.ok(
    Number(row?.['revision']) > 512,
    `${String(row?.['deleted'])} deleted keys; a session is at revision ${String(row?.['revision'])}`,
  )
}

const vacuums = async (t: Test, sql: Sql, schema: string): Promise<void> => {
  const [row] = await sql`
    select min(autovacuum_count)::int as least from pg_stat_user_tables
    where schemaname = ${schema} and relname in ('session', 'entry', 'listing')`
  t.ok(Number(row?.['least']) > 0, `autovacuum came to each table ${String(row?.['least'])} times or more`)
}

/** All expire; then the hour passes for which the ids of ended sessions are kept. */
const nothingIsLeft = async (t: Test, store: SessionStore, database: Database, schema: string) => {
  for (let twice = 0; twice < 2; twice += 1) {
    await age(database, schema, 13 * 3_600_000)
    await deleteExpiredSessions(store)
  }
  const text = `select (select count(*) from ${schema}.session)::int as sessions,
    (select count(*) from ${schema}.entry)::int as entries, (select count(*) from ${schema}.listing)::int as listed`
  const [left] = await rowsOf(database, text)
  t.strictSame({ ...left }, { sessions: 0, entries: 0, listed: 0 }, 'when all have expired nothing is left')
}

/** A server whose autovacuum comes often enough for a short run, and that counts what the role `traffic` does. */
const open = async (t: Test) => {
  const server = await startPostgres({
    settings: { autovacuum_naptime: '5s', shared_preload_libraries: 'pg_stat_statements' },
  })
  const sql = quietPool(server.url, { max: 1 })
  const database = postgresDatabase(quietPool(server.url))
  t.teardown(async () => {
    await sql.end({ timeout: 1 })
    await right(database.close)
    await server.stop()
  })
  await sql`create extension pg_stat_statements`
  await sql`create role traffic superuser login`
  return { sql, database, url: server.url.replace('postgres@', 'traffic@') }
}

t.test(`${String(minutes)} minutes of mixed traffic`, async (t) => {
  const { sql, database, url } = await open(t)
  const schema = freshSchema()
  const store = sessionStore(database, { schema })
  const lasting = await lastingSessions(store, 12)
  const task = { url, schema, lasting, visitors: 300, perSecond: 100, idleMs: 15_000, maxBytes }
  const samples = await soak(sql, task, minutes)
  tell(t, samples)
  judge(t, samples)
  await deletedKeys(t, sql, schema)
  await vacuums(t, sql, schema)
  await nothingIsLeft(t, store, database, schema)
})
