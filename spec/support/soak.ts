// Runs mixed traffic for a long time, with two servers on one PostgreSQL, and takes samples at intervals.

import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import type { Sql } from 'postgres'
import { buildSession, saveSession, sessionSet, sessionToken } from '../../lib/promise/index.js'
import type { SessionStore } from '../../lib/store/contract.js'

const script = fileURLToPath(new URL('./soak-child.mjs', import.meta.url))

/** A process's work since its last sample, and its memory in bytes after a full garbage collection. */
interface ChildSample {
  readonly requests: number
  readonly statements: number
  readonly made: number
  readonly ended: number
  readonly expired: number
  readonly gone: number
  readonly failures: readonly string[]
  readonly p50: number
  readonly heap: number
  readonly rss: number
}

export interface Sample {
  readonly children: readonly ChildSample[]
  readonly requests: number
  /** The numbers of rows, the bytes of tables and indexes, and the pages for one request, by name. */
  readonly figures: Readonly<Record<string, number>>
}

export interface SoakTask {
  readonly url: string
  readonly schema: string
  readonly lasting: readonly string[]
  readonly visitors: number
  readonly perSecond: number
  readonly idleMs: number
  readonly maxBytes: number
}

export const lastingSessions = (store: SessionStore, count: number): Promise<readonly string[]> =>
  Promise.all(
    Array.from({ length: count }, async () =>
      sessionToken(await saveSession(sessionSet('count', 0)(buildSession(store)))),
    ),
  )

interface Process {
  readonly child: ChildProcess
  /** Rejects if the process ends too early. */
  readonly answer: () => Promise<unknown>
  readonly ended: Promise<unknown>
}

const start = async (task: SoakTask): Promise<Process> => {
  const child = fork(script, [JSON.stringify(task)], { execArgv: ['--expose-gc'] })
  const ended = once(child, 'exit')
  const early = ended.then(([code]) => {
    throw new Error(`a process of the traffic ended: ${String(code)}`)
  })
  early.catch(() => undefined)
  const answer = async (): Promise<unknown> => {
    const message = once(child, 'message').then(([message]: unknown[]) => message)
    return Promise.race([message, early])
  }
  await answer()
  return { child, answer, ended }
}

const ask = ({ child, answer }: Process): Promise<ChildSample> => {
  const answered = answer() as Promise<ChildSample>
  child.send('sample')
  return answered
}

/** Makes the hour of each fence pass within half a minute. */
const ageFences = (sql: Sql, schema: string): Promise<unknown> =>
  sql.unsafe(`
    update ${schema}.listing l set collect_at = now()
    where collect_at between now() + interval '30 minutes' and now() + interval '1 hour' - interval '30 seconds'
      and not exists (select from ${schema}.session s where s.id = l.session_id)`)

const rowsAndBytes = async (sql: Sql, schema: string): Promise<Record<string, number>> => {
  const [rows] = await sql.unsafe(`
    select (select count(*) from ${schema}.session)::int as "rows, session",
           (select count(*) from ${schema}.listing)::int as "rows, listing",
           (select count(*) from ${schema}.entry where value is not null)::int as "rows, entry",
           (select count(*) from ${schema}.entry where value is null)::int as "rows, entry, deleted keys"`)
  const sizes = await sql.unsafe(`
    select 'bytes, ' || relname as name, pg_table_size(oid)::float8 as data, pg_indexes_size(oid)::float8 as indexes
    from pg_class where relnamespace = '${schema}'::regnamespace and relkind = 'r' and relname <> 'metadata'`)
  return Object.assign(
    Object.fromEntries(Object.entries(rows ?? {})) as Record<string, number>,
    ...sizes.map(({ name, data, indexes }) => ({
      [String(name)]: Number(data),
      [`${String(name)}, indexes`]: Number(indexes),
    })),
  ) as Record<string, number>
}

/** Returns the number of pages that the statements of this role touched since the last call. */
const pagesTouched = async (sql: Sql, role: string): Promise<number> => {
  const [row] = await sql`
    select coalesce(sum(shared_blks_hit + shared_blks_read), 0)::float8 as pages
    from pg_stat_statements join pg_roles on pg_roles.oid = userid where rolname = ${role}`
  await sql`select pg_stat_statements_reset()`
  return Number(row?.['pages'])
}

const takeSample = async (
  sql: Sql,
  { schema, url }: SoakTask,
  running: readonly Process[],
): Promise<Sample> => {
  const children = await Promise.all(running.map(ask))
  const requests = children.reduce((sum, { requests }) => sum + requests, 0)
  const pages = await pagesTouched(sql, new URL(url).username)
  const memory = children.map(({ heap }, index): [string, number] => [
    `bytes, memory of process ${String(index + 1)}`,
    heap,
  ])
  const statements = children.reduce((sum, { statements }) => sum + statements, 0)
  await ageFences(sql, schema)
  const figures = {
    ...(await rowsAndBytes(sql, schema)),
    ...Object.fromEntries(memory),
    'pages touched for a request': pages / requests,
    'statements for a request': statements / requests,
  }
  return { children, requests, figures }
}

/** Returns samples at equal intervals. The processes of the traffic have ended by then. */
export const soak = async (sql: Sql, task: SoakTask, minutes: number): Promise<readonly Sample[]> => {
  const running = await Promise.all([start(task), start(task)])
  const samples: Sample[] = []
  try {
    const every = Math.max(1_000, minutes * 1_000)
    await takeSample(sql, task, running)
    for (const until = performance.now() + minutes * 60_000; performance.now() < until; ) {
      await delay(every)
      samples.push(await takeSample(sql, task, running))
    }
    for (const { child } of running) child.send('stop')
    await Promise.all(running.map(({ ended }) => ended))
  } finally {
    for (const { child } of running) child.kill('SIGKILL')
  }
  return samples
}
