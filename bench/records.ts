// Compares keyrow's records with plain postgres.js, drizzle-orm and kysely on one PostgreSQL.
// `npm run bench:records` runs the benchmark. The first task finds a row by its id. The second task saves one column of
// a row. keyrow is measured with and without batches. The libraries take turns in short rounds, and the benchmark
// compares rates of the same round. The environment variables ROUNDS, MS and AT_ONCE configure the benchmark.
//
// Each library has its own pool, with one connection for each concurrent request. With fewer connections kysely's
// driver would wait forever in postgres.js 3.4.9.

import { eq } from 'drizzle-orm'
import { bigint, integer, pgTable, text as pgText, timestamp } from 'drizzle-orm/pg-core'
import { drizzle } from 'drizzle-orm/postgres-js'
import { isRight } from 'fp-ts/lib/Either.js'
import { isSome } from 'fp-ts/lib/Option.js'
import { poolOptions, postgresDatabase } from 'keyrow/postgres'
import { generated, int4, int8, nullable, record, text, timestamptz } from 'keyrow/records'
import { batchedDatabase, type Database } from 'keyrow/store'
import { type Generated, Kysely } from 'kysely'
import { PostgresJSDialect } from 'kysely-postgres-js'
import postgres from 'postgres'
import { startPostgres } from '../spec/support/postgres-server.js'

const figure = (name: string, otherwise: number): number => Number(process.env[name] ?? otherwise)
const rounds = figure('ROUNDS', 15)
const milliseconds = figure('MS', 1_000)
const concurrency = figure('AT_ONCE', 64)
const ROWS = 1_000

const server = await startPostgres({ settings: { max_connections: String(20 + 6 * concurrency) } })
const pool = () => postgres(server.url, { ...poolOptions, max: concurrency, onnotice: () => undefined })
const say = (line: string): void => void process.stdout.write(`${line}\n`)

const admin = pool()
await admin.unsafe(`create table notes (id bigserial primary key, title text not null, body text, word_count int not null,
  created_at timestamptz not null default now())`)
await admin.unsafe(
  `insert into notes (title, body, word_count, created_at)
   select 'note ' || n, repeat('x', 200), n, now() - random() * interval '1 year' from generate_series(1, ${String(ROWS)}) n`,
)
await admin.unsafe('vacuum analyze notes')

const randomId = (): number => 1 + Math.floor(Math.random() * ROWS)
let saves = 0
const title = (): string => {
  saves += 1
  return `title ${String(saves)}`
}

interface Contender {
  readonly name: string
  readonly find: () => Promise<unknown>
  readonly save: () => Promise<unknown>
  readonly end: () => Promise<unknown>
}

const must = <A>(found: A | undefined): A => {
  if (found === undefined) throw new Error('no row')
  return found
}

const plain = (): Contender => {
  const sql = pool()
  return {
    name: 'postgres.js',
    find: async () =>
      must(
        (await sql`select id, title, body, word_count, created_at from notes where id = ${randomId()}`)[0],
      ),
    save: async () =>
      must(
        (
          await sql`update notes set title = ${title()} where id = ${randomId()}
            returning id, title, body, word_count, created_at`
        )[0],
      ),
    end: () => sql.end(),
  }
}

const keyrow = async (name: string, database: Database): Promise<Contender> => {
  const notes = record({
    table: 'notes',
    key: 'id',
    columns: {
      id: generated(int8),
      title: text,
      body: nullable(text),
      wordCount: int4,
      createdAt: generated(timestamptz),
    },
  })
  const find = async (id: number) => {
    const key = notes.id(String(id))
    if (!isRight(key)) throw key.left
    const found = await notes.find(database, key.right)()
    if (!isRight(found) || !isSome(found.right)) throw new Error('no row')
    return found.right.value
  }
  const all = await Promise.all(Array.from({ length: ROWS }, (_, index) => find(index + 1)))
  return {
    name,
    find: () => find(randomId()),
    save: async () => {
      const saved = await notes.save(notes.set('title', title())(must(all[randomId() - 1])))()
      if (!isRight(saved)) throw saved.left
      return saved.right
    },
    end: database.close,
  }
}

const drizzled = (): Contender => {
  const sql = pool()
  const notes = pgTable('notes', {
    id: bigint('id', { mode: 'bigint' }).primaryKey(),
    title: pgText('title').notNull(),
    body: pgText('body'),
    wordCount: integer('word_count').notNull(),
    createdAt: timestamp('created_at', { withTimezone: true }).notNull(),
  })
  const db = drizzle(sql)
  return {
    name: 'drizzle-orm',
    find: async () =>
      must(
        (
          await db
            .select()
            .from(notes)
            .where(eq(notes.id, BigInt(randomId())))
        )[0],
      ),
    save: async () =>
      must(
        (
          await db
            .update(notes)
            .set({ title: title() })
            .where(eq(notes.id, BigInt(randomId())))
            .returning()
        )[0],
      ),
    end: () => sql.end(),
  }
}

interface Tables {
  notes: {
    id: Generated<string>
    title: string
    body: string | null
    word_count: number
    created_at: Generated<Date>
  }
}

const kysely = (): Contender => {
  // kysely reserves connections. In postgres.js 3.4.9 a reservation waits forever with `fetch_types: false`.
  const own = postgres(server.url, { max: concurrency, onnotice: () => undefined })
  const db = new Kysely<Tables>({ dialect: new PostgresJSDialect({ postgres: own }) })
  const columns = ['id', 'title', 'body', 'word_count', 'created_at'] as const
  return {
    name: 'kysely',
    find: () =>
      db.selectFrom('notes').select(columns).where('id', '=', String(randomId())).executeTakeFirstOrThrow(),
    save: () =>
      db
        .updateTable('notes')
        .set({ title: title() })
        .where('id', '=', String(randomId()))
        .returning(columns)
        .executeTakeFirstOrThrow(),
    end: () => db.destroy(),
  }
}

/** Returns the number of calls of `act` in a second. Each of `concurrency` workers makes one call after the other. */
const throughput = async (act: () => Promise<unknown>, duration: number): Promise<number> => {
  const start = performance.now()
  let done = 0
  const worker = async (): Promise<void> => {
    while (performance.now() - start < duration) {
      await act()
      done += 1
    }
  }
  await Promise.all(Array.from({ length: concurrency }, worker))
  return (done * 1000) / (performance.now() - start)
}

const sorted = (figures: readonly number[]): readonly number[] => [...figures].sort((a, b) => a - b)
const quantile = (figures: readonly number[], q: number): number =>
  sorted(figures)[Math.round((figures.length - 1) * q)] ?? Number.NaN

const contenders = [
  plain(),
  await keyrow('keyrow', batchedDatabase(postgresDatabase(pool()))),
  await keyrow('keyrow, each', postgresDatabase(pool())),
  drizzled(),
  kysely(),
]
for (const task of ['find', 'save'] as const) {
  const figures = new Map(contenders.map(({ name }) => [name, [] as number[]]))
  for (const contender of contenders) await throughput(contender[task], milliseconds)
  for (let round = 0; round < rounds; round += 1)
    for (let turn = 0; turn < contenders.length; turn += 1) {
      const contender = must(contenders[(round + turn) % contenders.length])
      figures.get(contender.name)?.push(await throughput(contender[task], milliseconds))
    }
  const base = must(figures.get('postgres.js'))
  say(
    `${task}: medians of ${String(rounds)} rounds of ${String(milliseconds)} ms, ${String(concurrency)} at once`,
  )
  for (const [name, all] of figures) {
    const ratios = all.map((each, index) => each / must(base[index]))
    const [low, median, high] = [0.25, 0.5, 0.75].map((q) => quantile(all, q).toFixed(0))
    const [least, ratio, most] = [0.25, 0.5, 0.75].map((q) => quantile(ratios, q).toFixed(2))
    say(
      `  ${name.padEnd(12)} ${String(median)} /s (quartiles ${String(low)} to ${String(high)}), ${String(ratio)} of postgres.js (${String(least)} to ${String(most)})`,
    )
  }
}
for (const { end } of contenders) await end()
await admin.end()
await server.stop()
