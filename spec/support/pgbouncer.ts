// Runs a real pgbouncer in transaction mode. It has far fewer connections to the server than clients.

import { freePort, startProgram } from './program.js'

export interface PgBouncer {
  readonly url: string
  readonly stop: () => Promise<void>
}

export const startPgBouncer = async (server: { readonly port: number }): Promise<PgBouncer> => {
  const port = await freePort()
  const config = `[databases]
* = host=127.0.0.1 port=${server.port} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
max_client_conn = 200
`
  const { stop } = await startProgram(() => ({
    command: ['pgbouncer', '-q', '{pgbouncer.ini}'],
    files: { 'pgbouncer.ini': config },
    port,
    signal: 'TERM',
  }))
  return { url: `postgres://postgres@127.0.0.1:${port}/postgres`, stop }
}
