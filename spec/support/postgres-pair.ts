// A primary and a streaming standby that fail over: the primary's machine dies, the standby is promoted, and a new
// standby made in its place. Replication is synchronous: what was answered is on both.

import { quietPool } from './databases.js'
import { inTime } from './in-time.js'
import { type PostgresServer, startPostgres } from './postgres-server.js'

export interface PostgresPair {
  /** Both servers, for a client that looks for the primary. */
  readonly url: string
  readonly failOver: () => Promise<void>
  readonly stop: () => Promise<void>
}

const SETTINGS = { synchronous_standby_names: '*', wal_keep_size: '256MB', max_wal_senders: '4' }

const run = async (server: PostgresServer, text: string): Promise<readonly Record<string, unknown>[]> => {
  const sql = quietPool(server.url, { max: 1 })
  try {
    return await sql.unsafe(text)
  } finally {
    await sql.end({ timeout: 1 })
  }
}

const untilSynchronous = async (primary: PostgresServer): Promise<void> => {
  const text = `select 1 from pg_stat_replication where sync_state = 'sync' and state = 'streaming'`
  const deadline = Date.now() + 20_000
  while ((await run(primary, text)).length === 0) {
    if (Date.now() > deadline) throw new Error('The standby does not follow')
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

export const startPair = async (): Promise<PostgresPair> => {
  let primary = await startPostgres({ settings: SETTINGS })
  let standby = await startPostgres({ settings: SETTINGS, standbyOf: primary })
  const hosts = [primary, standby].map(({ port }) => `127.0.0.1:${port}`).join(',')
  await untilSynchronous(primary)
  return {
    url: `postgres://postgres@${hosts}/postgres?target_session_attrs=primary`,
    failOver: async () => {
      const { port } = primary
      await inTime('the death of the primary', 30_000, primary.crash())
      await inTime('the promotion', 90_000, run(standby, 'select pg_promote()'))
      await inTime('the removal of the primary', 30_000, primary.stop())
      primary = standby
      const next = startPostgres({ settings: SETTINGS, port, standbyOf: primary })
      standby = await inTime('the making of a standby', 90_000, next)
      await untilSynchronous(primary)
    },
    stop: async () => {
      await standby.stop()
      await primary.stop()
    },
  }
}
