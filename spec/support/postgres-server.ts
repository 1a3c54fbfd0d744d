// Runs a real PostgreSQL for specs, with its own data directory, on a free port. The server belongs to a separate
// process (postgres-watcher.mjs). When this process ends in any way, the watcher stops the server and removes its
// files.
import { spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { tmpdir } from 'node:os'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import postgres from 'postgres'

type Settings = Readonly<Record<string, string>>

interface PostgresOptions {
  readonly settings?: Settings
  /** Default: a free port. */
  readonly port?: number | undefined
  /** The directory of PostgreSQL's programs and libraries. Default: the directory of the installed package. */
  readonly native?: string
  /** A running server. The new server becomes its streaming standby. */
  readonly standbyOf?: PostgresServer
}

export interface PostgresServer {
  readonly url: string
  readonly port: number
  readonly dataDir: string
  /** The id of the postmaster, which changes at each start. */
  readonly pid: number
  /** Kills the postmaster and waits for its end. The data stay. */
  readonly kill: (signal?: NodeJS.Signals) => Promise<void>
  /**
   * Kills all processes of the server at once, like a loss of power. On systems other than Linux it works like `kill`.
   */
  readonly crash: () => Promise<void>
  /** Starts the server again after a kill, with the same port and data. */
  readonly start: () => Promise<void>
  /** Shuts the server down and removes all its files. A second call has no effect. */
  readonly stop: () => Promise<void>
}

export interface SpecDatabase {
  readonly url: string
  readonly stop: () => Promise<void>
}

type Order =
  | {
      readonly name: 'start'
      readonly settings: Settings
      readonly port?: number | undefined
      readonly native?: string | undefined
    }
  | { readonly name: 'copy'; readonly from: string }
  | { readonly name: 'write'; readonly files: Settings }
  | { readonly name: 'kill'; readonly signal: NodeJS.Signals }
  | { readonly name: 'crash' }
  | { readonly name: 'stop' }

interface State {
  readonly id: number
  readonly failure?: string
  readonly port: number
  readonly dataDir: string
  readonly pid: number
}

interface Watcher {
  order(order: Order): Promise<State>
  ended(): Promise<void>
}

type Waiting = Map<number, (state: State | Error) => void>

// Durability has PostgreSQL's default, because specs kill the server and then read the data.
const SETTINGS = { max_connections: '100', shared_buffers: '32MB' }

const ENDED = 'The PostgreSQL watcher has ended'

// The watcher is detached, because a Ctrl-C of the terminal must not reach it.
const spawnWatcher = () => {
  const script = fileURLToPath(new URL('./postgres-watcher.mjs', import.meta.url))
  const child = spawn(process.execPath, [script], {
    cwd: tmpdir(),
    detached: true,
    stdio: ['pipe', 'pipe', 'inherit'],
    windowsHide: true,
  })
  // The `exit` event reports a dead watcher, so errors of the pipe are ignored.
  child.stdin.on('error', () => undefined)
  // Between orders the watcher does not keep this process alive.
  for (const handle of [child, child.stdin, child.stdout] as { unref(): void }[]) handle.unref()
  return child
}

type Child = ReturnType<typeof spawnWatcher>

const untilGone = (child: Child, waiting: Waiting) =>
  new Promise<void>((resolve) => {
    const giveUp = (reason: string) => {
      for (const answer of waiting.values()) answer(new Error(reason))
      waiting.clear()
      resolve()
    }
    child.once('error', (error) => giveUp(`The PostgreSQL watcher cannot run: ${error.message}`))
    child.once('close', () => giveUp(ENDED))
  })

const hearReplies = ({ stdout }: Child, waiting: Waiting, idle: () => void) => {
  createInterface({ input: stdout }).on('line', (line) => {
    const state = JSON.parse(line) as State
    waiting.get(state.id)?.(state.failure === undefined ? state : new Error(state.failure))
    waiting.delete(state.id)
    if (waiting.size === 0) idle()
  })
}

const startWatcher = (): Watcher => {
  const child = spawnWatcher()
  const waiting: Waiting = new Map()
  const gone = untilGone(child, waiting)
  hearReplies(child, waiting, () => child.unref())
  let orders = 0
  const order = (what: Order) =>
    new Promise<State>((resolve, reject) => {
      if (child.exitCode !== null || child.signalCode !== null) throw new Error(ENDED)
      orders += 1
      waiting.set(orders, (reply) => (reply instanceof Error ? reject(reply) : resolve(reply)))
      child.ref()
      child.stdin.write(`${JSON.stringify({ ...what, id: orders })}\n`)
    })
  const ended = () => {
    child.ref()
    return gone
  }
  return { order, ended }
}

const stopWatcher = async (watcher: Watcher) => {
  await watcher.order({ name: 'stop' })
  await watcher.ended()
}

const serve = async (
  watcher: Watcher,
  settings: Settings,
  { port, native }: Pick<PostgresOptions, 'port' | 'native'>,
): Promise<PostgresServer> => {
  let state = await watcher.order({ name: 'start', settings, port, native })
  let stopping: Promise<void> | undefined
  return {
    url: `postgres://postgres@127.0.0.1:${state.port}/postgres`,
    port: state.port,
    dataDir: state.dataDir,
    get pid() {
      return state.pid
    },
    kill: async (signal = 'SIGKILL') => {
      await watcher.order({ name: 'kill', signal })
    },
    crash: async () => {
      await watcher.order({ name: 'crash' })
    },
    start: async () => {
      state = await watcher.order({ name: 'start', settings })
    },
    stop: () => (stopping ??= stopWatcher(watcher)),
  }
}

/** Copies the data of a running server by a base backup, for a new server. */
const copyServer = async (watcher: Watcher, { url, dataDir }: PostgresServer): Promise<void> => {
  const sql = postgres(url, { max: 1, fetch_types: false })
  try {
    await sql`select pg_backup_start('standby', true)`
    await watcher.order({ name: 'copy', from: dataDir })
    const [stopped] = await sql`select labelfile from pg_backup_stop(false)`
    await watcher.order({
      name: 'write',
      files: { backup_label: String(stopped?.['labelfile']), 'standby.signal': '' },
    })
  } finally {
    await sql.end({ timeout: 1 })
  }
}

export const startPostgres = async (options: PostgresOptions = {}): Promise<PostgresServer> => {
  const watcher = startWatcher()
  const settings = { ...SETTINGS, ...options.settings }
  const { standbyOf } = options
  try {
    if (standbyOf === undefined) return await serve(watcher, settings, options)
    await copyServer(watcher, standbyOf)
    const source = `host=127.0.0.1 port=${standbyOf.port} user=postgres`
    return await serve(watcher, { ...settings, primary_conninfo: source }, options)
  } catch (error) {
    await stopWatcher(watcher).catch(() => undefined)
    throw error
  }
}

/** The server that all spec files of a run share. `npm run spec` starts it (run.ts), and no spec kills it. */
export const SHARED_SERVER = 'KEYROW_SPEC_SERVER'

const onServer = async (url: string, statement: string): Promise<void> => {
  const sql = postgres(url, { max: 1, fetch_types: false, onnotice: () => undefined })
  try {
    await sql.unsafe(statement)
  } finally {
    await sql.end({ timeout: 1 })
  }
}

/** Makes a new, empty database, on the shared server or else on a new server. */
export const newDatabase = async (): Promise<SpecDatabase> => {
  const shared = process.env[SHARED_SERVER]
  if (!shared) {
    const server = await startPostgres()
    return { url: server.url, stop: () => server.stop() }
  }
  const name = `spec_${randomUUID().replaceAll('-', '')}`
  await onServer(shared, `create database ${name}`)
  const url = new URL(shared)
  url.pathname = name
  return { url: url.href, stop: () => onServer(shared, `drop database if exists ${name} with (force)`) }
}

/** Returns the database of DATABASE_URL, or else a new database. */
export const specDatabaseUrl = async (): Promise<SpecDatabase> => {
  const url = process.env['DATABASE_URL']
  return url ? { url, stop: () => Promise.resolve() } : newDatabase()
}

/** Returns a database with durable commits, which is never on the shared server. */
export const durableDatabaseUrl = async (): Promise<SpecDatabase> => {
  const url = process.env['DATABASE_URL']
  if (url) return { url, stop: () => Promise.resolve() }
  const server = await startPostgres()
  return { url: server.url, stop: () => server.stop() }
}
