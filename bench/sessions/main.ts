// Compares keyrow with other session libraries, which are called peers. Run it with `npm run bench`. It writes
// results.json, results.md and keys.svg. These environment variables configure it:
//
// - ROUNDS: the number of rounds of each case.
// - MS: the length of a round in milliseconds.
// - CASES, PEERS: regular expressions for the names of cases and peers.
// - BASELINE: the folder of another version of keyrow, which must be built. This version becomes another peer.
// - OUT: the folder of the results. The default is build/bench.

import { mkdir, writeFile } from 'node:fs/promises'
import { cpus } from 'node:os'
import { join } from 'node:path'
import { type Case, type Clients, openClients } from './clients.js'
import { peersFor } from './peers.js'
import { processorTime } from './processor-time.js'
import { type Cost, drawing, type Figures, type Measured, type Missing, table } from './report.js'
import { startServers } from './servers.js'
import type { Ran } from './worker.js'

const environment = process.env
const rounds = Number(environment['ROUNDS'] ?? 5)
const milliseconds = Number(environment['MS'] ?? 3_000)
const chosen = new RegExp(environment['CASES'] ?? '.')
const wanted = new RegExp(environment['PEERS'] ?? '.')
const directory = environment['OUT'] ?? 'build/bench'

const cycle = { concurrency: 64, processes: 1, readOnly: false, http: false }
const named: readonly Case[] = [
  { name: 'cycle, 5 × 50 B', keys: 5, bytes: 50, ...cycle },
  { name: 'cycle, 50 × 200 B', keys: 50, bytes: 200, ...cycle },
  { name: 'cycle, 500 × 1 kB', keys: 500, bytes: 1_000, ...cycle },
  { name: 'read only, 5 × 50 B', keys: 5, bytes: 50, ...cycle, readOnly: true },
  { name: 'cycle, 5 × 50 B, 512 at once', keys: 5, bytes: 50, ...cycle, concurrency: 512 },
  { name: 'cycle, 5 × 50 B, 4 processes', keys: 5, bytes: 50, ...cycle, processes: 4 },
  { name: 'cycle, 500 × 1 kB, 4 processes', keys: 500, bytes: 1_000, ...cycle, processes: 4 },
  { name: 'cycle, 5 × 50 B, 4 at once', keys: 5, bytes: 50, ...cycle, concurrency: 4 },
  { name: 'cycle, 5 × 50 B, one at a time', keys: 5, bytes: 50, ...cycle, concurrency: 1 },
  { name: 'HTTP through Express, 5 × 50 B, one key changed', keys: 5, bytes: 50, ...cycle, http: true },
]
const byKeys: readonly Case[] = [5, 50, 500, 2_000, 10_000].map((keys) => ({
  name: `by keys: ${String(keys)} × 50 B`,
  keys,
  bytes: 50,
  ...cycle,
  // All these sessions fit into the cache, and two concurrent requests rarely use the same session.
  concurrency: 4,
  sessions: 50,
}))

const { servers, pids, stop } = await startServers()

const opened = async (of: Case): Promise<{ clients: Map<string, Clients>; missing: Missing[] }> => {
  const clients = new Map<string, Clients>()
  const missing: Missing[] = []
  for (const name of Object.keys(peersFor(of)).filter((name) => wanted.test(name)))
    try {
      clients.set(name, await openClients(name, servers, of))
    } catch (error) {
      missing.push({ peer: name, why: error instanceof Error ? error.message : String(error) })
    }
  return { clients, missing }
}

/** The processor time of one cycle, in microseconds. */
const costOf = ({ processor, cycles }: Ran, server: number): Cost => ({
  client: (processor / cycles) * 1_000,
  server: (server / cycles) * 1_000,
})

const measure = async (of: Case): Promise<Measured> => {
  const { clients, missing } = await opened(of)
  const found = new Map<string, Figures>()
  for (const run of clients.values()) await run.run(milliseconds / 2)
  for (let round = 0; round < rounds; round += 1)
    for (const [peer, run] of clients) {
      const before = processorTime(pids)
      const ran = await run.run(milliseconds)
      const server = processorTime(pids) - before
      const { rates, costs } = found.get(peer) ?? { rates: [], costs: [] }
      found.set(peer, {
        peer,
        rates: [...rates, (ran.cycles / ran.milliseconds) * 1_000],
        costs: of.http ? [] : [...costs, costOf(ran, server)],
        p50: ran.p50,
        p99: ran.p99,
      })
    }
  for (const run of clients.values()) await run.close()
  return { of, figures: [...found.values()], missing }
}

const measureAll = async (cases: readonly Case[]): Promise<readonly Measured[]> => {
  const all: Measured[] = []
  for (const of of cases.filter(({ name }) => chosen.test(name))) {
    const measured = await measure(of)
    all.push(measured)
    process.stdout.write(`${table([measured])}\n\n`)
  }
  return all
}

const results = await measureAll(named)
const drawn = await measureAll(byKeys)
await stop()
await mkdir(directory, { recursive: true })
const machine = `Node.js ${process.version}, ${String(cpus().length)} processors, ${String(rounds)} rounds of ${String(milliseconds)} ms`
await writeFile(join(directory, 'results.json'), JSON.stringify({ machine, results, drawn }, null, 1))
await writeFile(join(directory, 'results.md'), `${machine}\n\n${table([...results, ...drawn])}\n`)
if (drawn.length > 0) await writeFile(join(directory, 'keys.svg'), drawing(drawn))
