// Runs a primary and a streaming standby. For a failover, the primary crashes or is shut down, the standby is promoted,
// and a new standby is made. Replication is synchronous, so an answered commit is on both servers.

import { quietPool } from './databases.js'
import { inTime } from './in-time.js'
import { type PostgresServer, startPostgres } from './postgres-server.js'

export interface PostgresPair {
  /** The address of both servers, for a client that searches for the primary. */
  readonly url: string
  readonly primaryPort: () => number
  readonly standbyPort: () => number
  /** Pauses the replay on the standby, which still receives the changes. */
  readonly pauseStandby: () => Promise<void>
  /** Alternately crashes the primary, and shuts it down. */
  readonly failOver: () => Promise<void>
  readonly stop: () => Promise<void>
}

const SETTINGS = { synchronous_standby_names: '*', wal_keep_size: '256MB', max_wal_senders: '4' }

// The delay makes a read from the standby by mistake return old data.
const STANDBY = { ...SETTINGS, recovery_min_apply_delay: '200ms' }

const run = async (server: PostgresServer, text: string): Promise<readonly Record<string, unknown>[]> => {
  const sql = quietPool(server.url, { max: 1 })
  try {
    return await sql.unsafe(text)
  } finally {
    await sql.end({ timeout: 1 })
  }
}

/** Waits until the server returns a row for this statement. */
const until = async (server: PostgresServer, text: string): Promise<void> => {
  const deadline = Date.now() + 20_000
  while ((await run(server, text)).length === 0) {
    if (Date.now() > deadline) throw new Error(`It is not so: ${text}`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

const untilSynchronous = (primary: PostgresServer): Promise<void> =>
  until(primary, `select 1 from pg_stat_replication where sync_state = 'sync' and state = 'streaming'`)

// `pg_promote` does not wait here, because the replay may wait for the running statement for half a minute.
const promote = async (standby: PostgresServer): Promise<void> => {
  await run(standby, 'select pg_promote(false)')
  await until(standby, 'select 1 where not pg_is_in_recovery()')
}

export const startPair = async (): Promise<PostgresPair> => {
  let primary = await startPostgres({ settings: SETTINGS })
  let standby = await startPostgres({ settings: STANDBY, standbyOf: primary })
  const hosts = [primary, standby].map(({ port }) => `127.0.0.1:${port}`).join(',')
  await untilSynchronous(primary)
  let dies = false
  const takeOver = async (end: () => Promise<void>): Promise<void> => {
    const { port } = primary
    await inTime('the end of the primary', 30_000, end())
    await inTime('the promotion', 90_000, promote(standby))
    await inTime('the removal of the primary', 30_000, primary.stop())
    primary = standby
    const next = startPostgres({ settings: STANDBY, port, standbyOf: primary })
    standby = await inTime('the making of a standby', 90_000, next)
    await untilSynchronous(primary)
  }
  return {
    url: `postgres://postgres@${hosts}/postgres?target_session_attrs=primary`,
    primaryPort: () => primary.port,
    standbyPort: () => standby.port,
    pauseStandby: async () => {
      const [row] = await run(primary, 'select pg_current_wal_lsn()::text as lsn')
      await until(standby, `select 1 where pg_last_wal_replay_lsn() >= '${String(row?.['lsn'])}'`)
      await run(standby, 'select pg_wal_replay_pause()')
      await until(standby, `select 1 where pg_get_wal_replay_pause_state() = 'paused'`)
    },
    failOver: () => {
      dies = !dies
      return takeOver(() => (dies ? primary.crash() : primary.kill('SIGINT')))
    },
    stop: async () => {
      await standby.stop()
      await primary.stop()
    },
  }
}
