// Runs a program that is not an npm package, such as a pooler, as a child process of a spec. Its files are in a
// temporary directory. If this user is root, the program runs as another user. The program ends, and its files are
// removed, when the spec ends in any way.

import { spawn } from 'node:child_process'
import { chownSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

// Poolers do not run as root, like PostgreSQL.
const user = process.getuid?.() === 0 ? { uid: 65_534, gid: 65_534 } : {}

export interface Program {
  /** The command and its arguments. `{name}` stands for the path of the file `name`. */
  readonly command: readonly string[]
  readonly files: Readonly<Record<string, string>>
  /** The program is ready when it accepts connections on this port. */
  readonly port: number
  /** The signal that ends the program without a wait for its clients. */
  readonly signal: 'INT' | 'TERM'
}

export interface RunningProgram {
  readonly directory: string
  readonly pid: number
  readonly stop: () => Promise<void>
}

export const freePort = (): Promise<number> =>
  new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const address = server.address()
      server.close(() => resolve(typeof address === 'object' && address !== null ? address.port : 0))
    })
  })

const accepts = (port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1')
    socket.once('connect', () => resolve(true)).once('error', () => resolve(false))
    socket.unref()
    setTimeout(() => socket.destroy(), 200)
  })

/** `program` gets the path of its directory. */
export const startProgram = async (program: (directory: string) => Program): Promise<RunningProgram> => {
  const directory = mkdtempSync(join(tmpdir(), 'keyrow-program-'))
  const { command, files, port, signal } = program(directory)
  const paths = Object.keys(files).map((name) => join(directory, name))
  for (const [name, content] of Object.entries(files)) writeFileSync(join(directory, name), content)
  for (const path of [directory, ...paths]) if (user.uid !== undefined) chownSync(path, user.uid, user.gid)
  const argv = command.map((word) => word.replace(/^\{(.*)\}$/, (_, name: string) => join(directory, name)))
  // The program's stdin ends when this process ends in any way. Then the program ends too.
  const script = `"$@" & child=$!; echo "$child" >pid; read -r _; kill -${signal} "$child"; wait "$child"`
  const child = spawn('sh', ['-c', script, 'sh', ...argv], {
    ...user,
    cwd: directory,
    stdio: ['pipe', 'inherit', 'inherit'],
  })
  const ended = new Promise((resolve) => child.once('close', resolve))
  const stop = async (): Promise<void> => {
    child.stdin.end()
    await ended
    rmSync(directory, { recursive: true, force: true })
  }
  const deadline = Date.now() + 20_000
  const pidFile = join(directory, 'pid')
  // The program may accept connections before the shell has written its id. An id of 0 would mean all processes of the group.
  const pidNow = (): string => (existsSync(pidFile) ? readFileSync(pidFile, 'utf8') : '')
  while (!pidNow().endsWith('\n') || !(await accepts(port))) {
    await new Promise((resolve) => setTimeout(resolve, 10))
    if (child.exitCode !== null || Date.now() > deadline) {
      await stop()
      throw new Error(`${argv[0] ?? ''} does not start; is it installed?`)
    }
  }
  return { directory, pid: Number(pidNow()), stop }
}
