// A real pgbouncer in transaction mode, with far fewer connections to the server than its clients have to it.

import { spawn } from 'node:child_process'
import { chownSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

// It refuses to run as root, as PostgreSQL does.
const user = process.getuid?.() === 0 ? { uid: 65_534, gid: 65_534 } : {}

const freePort = (): Promise<number> =>
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

export interface PgBouncer {
  readonly url: string
  readonly stop: () => Promise<void>
}

export const startPgBouncer = async (server: { readonly port: number }): Promise<PgBouncer> => {
  const directory = mkdtempSync(join(tmpdir(), 'keyrow-pgbouncer-'))
  const port = await freePort()
  const config = join(directory, 'pgbouncer.ini')
  writeFileSync(
    config,
    `[databases]
* = host=127.0.0.1 port=${server.port} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
max_client_conn = 200
`,
  )
  for (const path of [directory, config]) if (user.uid !== undefined) chownSync(path, user.uid, user.gid)
  // Its stdin ends with this process, however that ends; then it ends too.
  const script = 'pgbouncer -q "$0" & bouncer=$!; read -r _; kill "$bouncer"; wait "$bouncer"'
  const child = spawn('sh', ['-c', script, config], {
    ...user,
    cwd: directory,
    stdio: ['pipe', 'inherit', 'inherit'],
  })
  const ended = new Promise((resolve) => child.once('close', resolve))
  const deadline = Date.now() + 10_000
  while (!(await accepts(port)))
    if (child.exitCode !== null || Date.now() > deadline)
      throw new Error('pgbouncer does not start; is it installed? (Debian: apt-get install pgbouncer)')
  return {
    url: `postgres://postgres@127.0.0.1:${port}/postgres`,
    stop: async () => {
      child.stdin.end()
      await ended
      rmSync(directory, { recursive: true, force: true })
    },
  }
}
