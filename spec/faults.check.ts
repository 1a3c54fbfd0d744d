// Laws 4, 5, 6 and 11 under faults, at length: `npm run spec:faults`. Each history is judged; RUNS and
// OPERATIONS make it shorter.

import t from 'tap'
import { quietPool } from './support/databases.js'
import { makeHistory } from './support/history-run.js'
import { startPostgres } from './support/postgres-server.js'
import { startProxy } from './support/proxy.js'

const runs = Number(process.env['RUNS'] ?? 5)
const operations = Number(process.env['OPERATIONS'] ?? 20_000)

const server = await startPostgres()
const proxy = await startProxy(server.url)
t.teardown(async () => {
  await proxy.close()
  await server.stop()
})

const pause = (milliseconds: number): Promise<void> =>
  new Promise((resolve) => setTimeout(resolve, milliseconds))

const killing = async (isOver: () => boolean): Promise<void> => {
  while (!isOver()) {
    await pause(2_000)
    await server.kill()
    await server.start()
  }
}

const terminating = async (isOver: () => boolean): Promise<void> => {
  const sql = quietPool(server.url, { max: 1 })
  while (!isOver()) {
    await pause(20)
    await sql`select pg_terminate_backend(pid) from pg_stat_activity
              where backend_type = 'client backend' and pid <> pg_backend_pid() order by random() limit 1`
  }
  await sql.end({ timeout: 1 })
}

const cutting = async (isOver: () => boolean): Promise<void> => {
  proxy.disturb({ cut: 0.002, delay: 0.02, delayMs: 30 })
  while (!isOver()) await pause(100)
  proxy.disturb({ cut: 0, delay: 0, delayMs: 0 })
}

const faults = {
  'no faults': { url: server.url },
  'SIGKILL of the server every two seconds': { url: server.url, fault: killing },
  'backends terminated one by one': { url: server.url, fault: terminating },
  'connections cut and delayed at random': { url: proxy.url, directUrl: server.url, fault: cutting },
}

for (const [name, fault] of Object.entries(faults))
  for (let run = 1; run <= runs; run += 1)
    t.test(`${name}, run ${String(run)}`, async (t) => {
      const history = await makeHistory({ processes: 4, operations, ...fault })
      t.strictSame(history.violations, [])
      t.equal(history.operations, operations)
      t.comment(`${String(history.unknown)} of ${String(history.operations)} outcomes unknown to the caller`)
    })
