// A program that is no npm package (a pooler, a balancer), as a child of a spec: its files in a directory of its own,
// as another user where this one is root, gone without a trace when the spec ends, however that ends.

import { spawn } from 'node:child_process'
import { chownSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

// Poolers refuse to run as root, as PostgreSQL does.
const user = process.getuid?.() === 0 ? { uid: 65_534, gid: 65_534 } : {}

export interface Program {
  /** The file of the command and its arguments; `{name}` stands for the path of the file `name`. */
  readonly command: readonly string[]
  readonly files: Readonly<Record<string, string>>
  /** It is ready when it accepts connections here. */
  readonly port: number
  /** What ends it, without waiting for its clients. */
  readonly signal: 'INT' | 'TERM'
}

export interface RunningProgram {
  readonly directory: string
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

/** `program` is told the directory that it gets. */
export const startProgram = async (program: (directory: string) => Program): Promise<RunningProgram> => {
  const directory = mkdtempSync(join(tmpdir(), 'keyrow-program-'))
  const { command, files, port, signal } = program(directory)
  const paths = Object.keys(files).map((name) => join(directory, name))
  for (const [name, content] of Object.entries(files)) writeFileSync(join(directory, name), content)
  for (const path of [directory, ...paths]) if (user.uid !== undefined) chownSync(path, user.uid, user.gid)
  const argv = command.map((word) => word.replace(/^\{(.*)\}$/, (_, name: string) => join(directory, name)))
  // Its stdin ends with this process, however that ends; then it ends too.
  const script = `"$@" & child=$!; read -r _; kill -${signal} "$child"; wait "$child"`
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
  while (!(await accepts(port)))
    if (child.exitCode !== null || Date.now() > deadline) {
      await stop()
      throw new Error(`${argv[0] ?? ''} does not start; is it installed?`)
    }
  return { directory, stop }
}
