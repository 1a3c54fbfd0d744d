// Runs a real pgpool-II in front of a primary and a streaming standby. It has the default settings, except that the
// plain reads of every session go to the standby.

import { quietPool } from './databases.js'
import type { PostgresPair } from './postgres-pair.js'
import { freePort, startProgram } from './program.js'

export interface Pgpool {
  readonly url: string
  readonly stop: () => Promise<void>
}

export type PgpoolSettings = Readonly<Record<string, string>>

const written = (settings: PgpoolSettings): string =>
  Object.entries(settings)
    .map(([name, value]) => `${name} = '${value}'\n`)
    .join('')

export const startPgpool = async (pair: PostgresPair, settings: PgpoolSettings = {}): Promise<Pgpool> => {
  const [port, control] = [await freePort(), await freePort()]
  const { stop } = await startProgram((directory) => ({
    command: ['pgpool', '-n', '-f', '{pgpool.conf}', '-F', '{pcp.conf}'],
    files: {
      'pcp.conf': '',
      'pgpool.conf': written({
        backend_clustering_mode: 'streaming_replication',
        listen_addresses: '127.0.0.1',
        port: String(port),
        socket_dir: directory,
        pcp_listen_addresses: '127.0.0.1',
        pcp_port: String(control),
        pcp_socket_dir: directory,
        pid_file_name: `${directory}/pgpool.pid`,
        logdir: directory,
        work_dir: directory,
        log_min_messages: 'fatal',
        sr_check_user: 'postgres',
        backend_hostname0: '127.0.0.1',
        backend_port0: String(pair.primaryPort()),
        backend_weight0: '0',
        backend_hostname1: '127.0.0.1',
        backend_port1: String(pair.standbyPort()),
        backend_weight1: '1',
        ...settings,
      }),
    },
    port,
    signal: 'INT',
  }))
  const url = `postgres://postgres@127.0.0.1:${port}/postgres`
  await untilReady(url)
  return { url, stop }
}

// pgpool-II accepts connections before it knows which server is the primary.
const untilReady = async (url: string): Promise<void> => {
  const deadline = Date.now() + 30_000
  for (;;) {
    const sql = quietPool(url, { max: 1 })
    const nodes = await sql.unsafe('show pool_nodes').finally(() => sql.end({ timeout: 1 }))
    if (nodes.some(({ role }) => role === 'primary') && nodes.every(({ status }) => status === 'up')) return
    if (Date.now() > deadline) throw new Error(`pgpool finds no primary: ${JSON.stringify(nodes)}`)
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
}
