// Runs processes that make a history, and checks the history.

import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import * as O from 'fp-ts/lib/Option.js'
import { writeBehind } from '../../lib/cache/write-behind.js'
import type { SessionId } from '../../lib/core/token.js'
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
import type { SessionStore } from '../../lib/store/contract.js'
import type { CacheServer } from './cache-servers.js'
import { quietPool, type ServerDriver } from './databases.js'
import { lostUpdates, type Operation, violations } from './history.js'
import { inTime } from './in-time.js'
import { freshSchema, right } from './stores.js'

/** The secrets of history-child.mjs. */
const CACHE_SECRETS = [Buffer.alloc(32, 1)]

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
    readonly server: Pick<CacheServer, 'name' | 'port' | 'open'>
    /** The address of a proxy for the processes. Default: the address of the server. */
    readonly port?: number
    readonly mode: 'through' | 'behind'
    /** The deadline of a command of the cache. Default: 500. */
    readonly timeoutMs?: number
    /** The option `flushMs` of each process, in turn. A process with `undefined` uses no cache. */
    readonly flushMs?: readonly (number | undefined)[]
  }
  /** The kind of store that breaks a law, of broken-store.mjs. Default: none. */
  readonly broken?: string
  /** Whether a read sees all saves before it. Default: true. */
  readonly seesAll?: boolean
  /** The chance that a process stops or dies before or after a command. Another process takes the place of a dead one. */
  readonly points?: { readonly stop: number; readonly kill: number }
  /** Causes faults while the processes run. Returns the number of faults. */
  readonly fault?: (isOver: () => boolean, scene: Scene) => Promise<number>
  /** Runs after the end of the processes, before the sessions are read for the check. */
  readonly atEnd?: () => Promise<void>
}

/** What a fault knows of a history. */
export interface Scene {
  readonly ids: readonly SessionId[]
  /** The processes that run at the moment. */
  readonly pids: () => readonly number[]
  /** Notes that the cache loses the head of a session, or of all sessions, or keeps heads from some processes. */
  readonly noteLoss: (from: number, session?: SessionId) => void
}

/** An operation that has begun before a failure of the cache, or that begins after it, ends within this time. */
const HIDDEN_US = 5_000_000

/** Returns the time of the machine's monotonic clock in microseconds. */
export const microseconds = (): number => Number(process.hrtime.bigint() / 1000n)

export interface History {
  readonly violations: readonly string[]
  readonly operations: number
  readonly unknown: number
  /** The errors of the operations whose outcome is unknown. */
  readonly errors: readonly string[]
  readonly faults: number
  /** The number of processes that died. */
  readonly deaths: number
  /** The number of answered updates that were lost, as the deaths and faults allow. */
  readonly lost: number
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
  const losses: { from: number; to: number; session?: string }[] = []
  const children = new Children(options, schema, lasting, mortal)
  const scene: Scene = {
    ids: [...lasting, ...mortal].map(({ id }) => id),
    pids: children.pids,
    noteLoss: (from, session) =>
      losses.push({ from, to: microseconds(), ...(session === undefined ? {} : { session }) }),
  }
  const fault = options.fault?.(() => over, scene)
  const all = await children.run().finally(() => {
    over = true
  })
  const faults = await inTime('the last fault', 120_000, fault ?? Promise.resolve(0))
  await options.atEnd?.()
  if (options.cache?.mode === 'behind') await storeHeads(options.cache, sessions, [...lasting, ...mortal])
  const final = new Map<string, Readonly<Record<string, unknown>> | undefined>()
  for (const session of [...lasting, ...mortal])
    final.set(session.id, (await loadSession(sessions, sessionToken(session)))?.store.toObject())
  await right(database.query({ name: 'drop', text: `drop schema ${schema} cascade` }, []))
  await right(database.close)
  const hidden = children.hidden.map((at) => ({ from: at - HIDDEN_US, to: at + HIDDEN_US }))
  const troubles = { deaths: children.deaths, losses: [...losses, ...hidden] }
  return {
    violations: violations(all, final, { seesAll: options.seesAll ?? true, troubles }),
    operations: all.length,
    unknown: all.filter(({ result }) => result === 'unknown').length,
    errors: all.flatMap(({ result, error }) => (result === 'unknown' ? [error ?? 'its process died'] : [])),
    faults,
    deaths: troubles.deaths.size,
    lost: lostUpdates(all, final).length,
  }
}

/** Stores the heads that dead processes have left behind, by loads. */
const storeHeads = async (
  { server }: NonNullable<HistoryOptions['cache']>,
  store: SessionStore,
  sessions: readonly Session[],
): Promise<void> => {
  const cache = server.open({ timeoutMs: 10_000 })
  const late = writeBehind(store, cache, { secrets: CACHE_SECRETS, flushMs: 50, allowEviction: true })
  const revisions = async (from: SessionStore): Promise<string> => {
    const all = await Promise.all(sessions.map((session) => loadSession(from, sessionToken(session))))
    return all.map((one) => O.toUndefined(one?.snapshot ?? O.none)?.revision).join()
  }
  const isStored = async (): Promise<boolean> => (await revisions(late)) === (await revisions(store))
  const deadline = Date.now() + 30_000
  while (!(await isStored())) {
    if (Date.now() > deadline) throw new Error('heads were not stored within 30 seconds')
    await delay(200)
  }
  await right(late.drain)
  await cache.close()
}

/** The processes of a history. */
class Children {
  /** The times at which processes died, in microseconds. */
  readonly deaths = new Map<string, number>()
  /** The times at which the cache did not answer a process, in microseconds. */
  readonly hidden: number[] = []
  readonly #task: (name: string, operations: number) => object
  readonly #processes: number
  readonly #operations: number
  readonly #running = new Set<ChildProcess>()

  constructor(
    options: HistoryOptions,
    schema: string,
    lasting: readonly Session[],
    mortal: readonly Session[],
  ) {
    const { driver = 'postgres.js', url, primary = false, timeoutMs = 4_000, broken = 'none' } = options
    const { fast = false, durability = 'full', cache, distribute, points } = options
    this.#processes = options.processes
    this.#operations = Math.ceil(options.operations / options.processes)
    this.#task = (name, operations) => ({
      ...{ driver, url, primary, schema, name, timeoutMs, broken, fast, durability, operations, points },
      cache: cache && cacheTask(cache, Number.parseInt(name, 10)),
      distributed: distribute !== undefined,
      workers: fast ? 12 : 4,
      lasting: lasting.map(sessionToken),
      mortal: mortal.map(sessionToken),
    })
  }

  readonly pids = (): readonly number[] => [...this.#running].flatMap(({ pid }) => pid ?? [])

  async run(): Promise<readonly Operation[]> {
    const all = await Promise.all(
      Array.from({ length: this.#processes }, (_, index) => this.#runOne(String(index))),
    )
    return all.flat()
  }

  /** Runs one process, and others in its place while it dies before its last operation. */
  async #runOne(first: string): Promise<readonly Operation[]> {
    const operations: Operation[] = []
    for (let life = 0; operations.length < this.#operations; life += 1) {
      const name = life === 0 ? first : `${first}+${String(life)}`
      const { lines, signal } = await this.#child(this.#task(name, this.#operations - operations.length))
      const death = microseconds()
      // The second line of an operation replaces its first line.
      const found = new Map(lines.map((line) => [line.tag, line]))
      operations.push(
        ...[...found.values()].map((operation) => ({ ...operation, end: operation.end ?? death })),
      )
      if (signal === null) break
      this.deaths.set(name, death)
    }
    return operations
  }

  async #child(task: object): Promise<{ lines: readonly Line[]; signal: NodeJS.Signals | null }> {
    // A process that hangs is a failure.
    const child = spawn(process.execPath, [script, JSON.stringify(task)], {
      ...{ stdio: ['ignore', 'pipe', 'inherit'], timeout: 600_000, killSignal: 'SIGABRT' },
    })
    this.#running.add(child)
    const lines: Line[] = []
    createInterface(child.stdout).on('line', (text) => {
      const line = JSON.parse(text) as Line | Hidden
      if ('hiddenAt' in line) this.hidden.push(line.hiddenAt)
      else lines.push(line)
    })
    const [code, signal] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null]
    this.#running.delete(child)
    if (code !== 0 && signal !== 'SIGKILL')
      throw new Error(`a process of the history ended with ${String(code ?? signal)}`)
    return { lines, signal }
  }
}

type Line = Omit<Operation, 'end'> & { readonly end?: number }

interface Hidden {
  readonly hiddenAt: number
}

/** Processes in turn have different options. */
const cacheTask = (
  {
    server: { name, port },
    port: proxy = port,
    flushMs = [],
    ...cache
  }: NonNullable<HistoryOptions['cache']>,
  index: number,
): object | undefined => {
  const own = flushMs[index % flushMs.length]
  return flushMs.length > 0 && own === undefined
    ? undefined
    : { ...cache, server: name, port: proxy, flushMs: own }
}
