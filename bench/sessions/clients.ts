// Starts client processes for one peer. The processes open and fill the peer once, and then run each round.

import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { filled, type Servers } from './peer.js'
import type { Order, Ran } from './worker.js'

const script = fileURLToPath(new URL('./worker.ts', import.meta.url))

interface Answer {
  readonly result?: unknown
  readonly failure?: string
}

const answerOf = async (child: ChildProcess): Promise<unknown> => {
  const [{ result, failure }] = (await once(child, 'message')) as [Answer]
  if (failure !== undefined) throw new Error(failure)
  return result
}

const ask = (child: ChildProcess, order: Order): Promise<unknown> => {
  const answer = answerOf(child)
  child.send(order)
  return answer
}

export interface Case {
  readonly name: string
  readonly keys: number
  readonly bytes: number
  readonly concurrency: number
  readonly processes: number
  readonly readOnly: boolean
  /** Whether a cycle is an HTTP request to a server in a separate process. */
  readonly http: boolean
  /** The number of sessions. Default: as many as fit into 50 MB of values, but at least 20 and at most 1,000. */
  readonly sessions?: number
}

export interface Clients {
  readonly run: (milliseconds: number) => Promise<Ran>
  readonly close: () => Promise<void>
}

const sessionsFor = ({ keys, bytes, sessions }: Case): number =>
  sessions ?? Math.max(20, Math.min(1_000, Math.floor(5e7 / (keys * bytes))))

const together = (all: readonly Ran[]): Ran => ({
  cycles: all.reduce((sum, { cycles }) => sum + cycles, 0),
  milliseconds: Math.max(...all.map(({ milliseconds }) => milliseconds)),
  processor: all.reduce((sum, { processor }) => sum + processor, 0),
  p50: Math.max(...all.map(({ p50 }) => p50)),
  p99: Math.max(...all.map(({ p99 }) => p99)),
})

export const openClients = async (peer: string, servers: Servers, wanted: Case): Promise<Clients> => {
  const children = Array.from({ length: wanted.processes }, () =>
    fork(script, { execArgv: process.execArgv }),
  )
  const asked = <A>(order: Order): Promise<A[]> =>
    Promise.all(children.map((child) => ask(child, order))) as Promise<A[]>
  await Promise.all(children.map(answerOf))
  await asked({ do: 'open', peer, http: wanted.http, servers })
  const { keys, bytes, concurrency, readOnly } = wanted
  const values = filled(keys, bytes)
  const [first] = children
  if (first === undefined) throw new Error('no processes')
  const tokens = (await ask(first, { do: 'fill', count: sessionsFor(wanted), values })) as readonly string[]
  const order = { tokens, keys, bytes, concurrency: Math.ceil(concurrency / children.length), readOnly }
  return {
    run: async (milliseconds) => together(await asked<Ran>({ do: 'run', milliseconds, ...order })),
    close: async () => {
      await asked({ do: 'close' })
    },
  }
}
