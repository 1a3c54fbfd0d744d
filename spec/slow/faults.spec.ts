// Laws 4, 5, 6 and 11 under faults, at length: `npm run spec:faults`. Each history is judged. The runs alternate between
// the drivers. RUNS, FAST_RUNS and OPERATIONS make it shorter. DRIVER limits it to one driver.

import type postgres from 'postgres'
import t from 'tap'
import { quietPool, type ServerDriver, serverDrivers } from '../support/databases.js'
import { makeHistory } from '../support/history-run.js'
import { inTime } from '../support/in-time.js'
import { startPair } from '../support/postgres-pair.js'
import { startPostgres } from '../support/postgres-server.js'
import { startProxy } from '../support/proxy.js'

const runs = Number(process.env['RUNS'] ?? 4)
const fastRuns = Number(process.env['FAST_RUNS'] ?? 2)
const operations = Number(process.env['OPERATIONS'] ?? 20_000)

const server = await startPostgres()
const proxy = await startProxy(server.url)
const pair = await startPair()
// node-postgres has one address. It leads to both servers in turn.
const both = await startProxy(
  ...([pair.primaryPort(), pair.standbyPort()].map(
    (port) => `postgres://postgres@127.0.0.1:${String(port)}/postgres`,
  ) as [string, string]),
)
t.teardown(async () => {
  await Promise.all([sql, primary].map((pool) => pool.end({ timeout: 1 })))
  await both.close()
  await proxy.close()
  await server.stop()
  await pair.stop()
})

const pause = (milliseconds: number): Promise<void> =>
  new Promise((resolve) => setTimeout(resolve, milliseconds))

type Fault = (isOver: () => boolean) => Promise<number>

/** Strikes again and again, after pauses, until all is over. */
const repeating =
  (milliseconds: number, strike: () => Promise<unknown>): Fault =>
  async (isOver) => {
    for (let times = 0; ; times += 1) {
      await pause(milliseconds)
      if (isOver()) return times
      await inTime('a fault', 180_000, strike())
    }
  }

const disturbing =
  (disturbances: Parameters<typeof proxy.disturb>[0]): Fault =>
  async (isOver) => {
    const before = proxy.disturbed()
    proxy.disturb(disturbances)
    while (!isOver()) await pause(100)
    proxy.disturb({})
    return proxy.disturbed() - before
  }

const sql = quietPool(server.url, { max: 1, idle_timeout: 1 })
const primary = quietPool(pair.url, { max: 1, idle_timeout: 1 })

const kill = async (): Promise<void> => {
  await server.kill()
  await server.start()
}

const terminate = (sql: postgres.Sql) => (): Promise<unknown> =>
  sql`select pg_terminate_backend(pid) from pg_stat_activity
      where backend_type = 'client backend' and pid <> pg_backend_pid() order by random() limit 1`

const direct = { url: server.url }
const proxied = { url: proxy.url, directUrl: server.url }

const faultsOf = (driver: ServerDriver['name']) => {
  const paired =
    driver === 'postgres.js' ? { url: pair.url } : { url: both.url, directUrl: pair.url, primary: true }
  return {
    'SIGKILL of the server every two seconds': { ...direct, fault: repeating(2_000, kill) },
    'backends terminated one by one': { ...direct, fault: repeating(20, terminate(sql)) },
    'connections cut and delayed at random': {
      ...proxied,
      fault: disturbing({ cut: 0.002, delay: 0.02, delayMs: 30 }),
    },
    'connections that fall silent': { ...proxied, fault: disturbing({ hole: 0.001 }), timeoutMs: 500 },
    'the primary fails over to its standby': { ...paired, fault: repeating(2_000, pair.failOver) },
    'backends terminated beside a standby': { ...paired, fault: repeating(50, terminate(primary)) },
  }
}

const history = (driver: ServerDriver['name'], run: string, fast: boolean): void => {
  t.test(`${driver}: no faults, ${run}`, async (t) => {
    const history = await makeHistory({ driver, processes: 4, operations, fast, ...direct })
    t.strictSame(history.violations, [])
    t.strictSame([history.operations, history.unknown], [operations, 0])
  })
  for (const [name, fault] of Object.entries(faultsOf(driver)))
    t.test(`${driver}: ${name}, ${run}`, async (t) => {
      const history = await makeHistory({ driver, processes: 4, operations, fast, ...fault })
      t.strictSame(history.violations, [])
      t.equal(history.operations, operations)
      t.ok(history.faults > 0, `it struck ${String(history.faults)} times`)
      // A pool that did not recover would fail all the rest.
      t.ok(
        history.unknown <= operations / 50,
        `${String(history.unknown)} outcomes are unknown to the caller`,
      )
    })
}

const names = serverDrivers.map(({ name }) => name).filter((name) => (process.env['DRIVER'] ?? name) === name)
const driverOf = (run: number) => names[(run - 1) % names.length] ?? 'postgres.js'

for (let run = 1; run <= runs; run += 1) history(driverOf(run), `run ${String(run)}`, false)
for (let run = 1; run <= fastRuns; run += 1)
  history(driverOf(run), `batched and cached, run ${String(run)}`, true)
