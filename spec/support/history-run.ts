// Runs processes that make a history, and checks the history.

import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { postgresDatabase } from '../../lib/db/postgres/index.js'
import {
  buildSession,
  loadSession,
  type Session,
  saveSession,
  sessionSet,
  sessionToken,
} from '../../lib/promise/index.js'
import { sessionStore } from '../../lib/sql/store.js'
import { quietPool, type ServerDriver } from './databases.js'
import { type Operation, violations } from './history.js'
import { inTime } from './in-time.js'
import { freshSchema, right } from './stores.js'

const run = promisify(execFile)
const script = fileURLToPath(new URL('./history-child.mjs', import.meta.url))

export interface HistoryOptions {
  /** The driver of the processes. Default: `postgres.js`. */
  readonly driver?: ServerDriver['name']
  /** The address for the processes, and the address for the check at the end. */
  readonly url: string
  readonly directUrl?: string
  /** Whether the processes want a primary. With postgres.js the address says so. Default: false. */
  readonly primary?: boolean
  readonly processes: number
  readonly operations: number
  /** The deadline of the processes' statements. Default: 4,000. */
  readonly timeoutMs?: number
  /** Creates distributed tables in this schema. By default the store creates its tables. */
  readonly distribute?: (schema: string) => Promise<void>
  /** Whether the processes' store is batched and cached. Default: false. */
  readonly fast?: boolean
  /** Whether saves wait for the disk. Default: `full`. */
  readonly durability?: 'full' | 'relaxed'
  /** The shared cache of the processes' store. By default there is none. */
  readonly cache?: {
    readonly server: string
    readonly port: number
    readonly mode: 'through' | 'behind'
    /** The deadline of a command of the cache. Default: 500. */
    readonly timeoutMs?: number
    /** The option `flushMs` of each process, in turn. */
    readonly flushMs?: readonly number[]
  }
  readonly broken?: 'none' | 'whole' | 'unreplayed' | 'upsert'
  /** Whether a read sees all saves before it. Default: true. */
  readonly seesAll?: boolean
  /** Causes faults while the processes run. Returns the number of faults. */
  readonly fault?: (isOver: () => boolean) => Promise<number>
}

export interface History {
  readonly violations: readonly string[]
  readonly operations: number
  readonly unknown: number
  readonly faults: number
}

export const makeHistory = async (options: HistoryOptions): Promise<History> => {
  const database = postgresDatabase(() => quietPool(options.directUrl ?? options.url))
  const schema = freshSchema()
  await options.distribute?.(schema)
  const sessions = sessionStore(database, {
    schema,
    citus: options.distribute !== undefined,
    retry: { attempts: 20, totalTimeoutMs: 20_000, baseDelayMs: 50 },
  })
  const built = (count: number) =>
    Promise.all(
      Array.from({ length: count }, () => saveSession(sessionSet('first', 1)(buildSession(sessions)))),
    )
  const [lasting, mortal] = [await built(20), await built(Math.ceil(options.operations / 200))]
  let over = false
  const fault = options.fault?.(() => over)
  const operations = await Promise.all(
    Array.from({ length: options.processes }, (_, index) =>
      child(options, schema, String(index), lasting, mortal),
    ),
  ).finally(() => (over = true))
  const faults = await inTime('the last fault', 120_000, fault ?? Promise.resolve(0))
  const final = new Map<string, Readonly<Record<string, unknown>> | undefined>()
  for (const session of [...lasting, ...mortal])
    final.set(session.id, (await loadSession(sessions, sessionToken(session)))?.store.toObject())
  await right(database.query({ name: 'drop', text: `drop schema ${schema} cascade` }, []))
  await right(database.close)
  const all = operations.flat()
  return {
    violations: violations(all, final, { seesAll: options.seesAll ?? true }),
    operations: all.length,
    unknown: all.filter(({ result }) => result === 'unknown').length,
    faults,
  }
}

const child = async (
  {
    driver = 'postgres.js',
    url,
    primary = false,
    processes,
    operations,
    timeoutMs = 4_000,
    broken = 'none',
    fast = false,
    durability = 'full',
    cache,
    distribute,
  }: HistoryOptions,
  schema: string,
  name: string,
  lasting: readonly Session[],
  mortal: readonly Session[],
): Promise<readonly Operation[]> => {
  const task = {
    driver,
    url,
    primary,
    schema,
    name,
    timeoutMs,
    broken,
    fast,
    durability,
    cache: cache && { ...cache, flushMs: cache.flushMs?.[Number(name) % cache.flushMs.length] },
    distributed: distribute !== undefined,
    operations: Math.ceil(operations / processes),
    workers: fast ? 12 : 4,
    lasting: lasting.map(sessionToken),
    mortal: mortal.map(sessionToken),
  }
  const { stdout } = await run(process.execPath, [script, JSON.stringify(task)], {
    maxBuffer: 2 ** 30,
    timeout: 600_000, // a process that hangs is a failure
    killSignal: 'SIGKILL',
  })
  return stdout
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Operation)
}
