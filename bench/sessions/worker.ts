// A client process. It runs concurrent clients, and each client runs one cycle after the other. The parent process
// sends orders as messages.

import { once } from 'node:events'
import { performance } from 'node:perf_hooks'
import type { Peer, Servers, Values } from './peer.js'
import { peersFor } from './peers.js'

export type Order =
  | { readonly do: 'open'; readonly peer: string; readonly http: boolean; readonly servers: Servers }
  | { readonly do: 'fill'; readonly count: number; readonly values: Values }
  | {
      readonly do: 'run'
      readonly tokens: readonly string[]
      readonly keys: number
      readonly bytes: number
      readonly concurrency: number
      readonly milliseconds: number
      readonly readOnly: boolean
    }
  | { readonly do: 'close' }

export interface Ran {
  readonly cycles: number
  readonly milliseconds: number
  /** The processor time of the process, in milliseconds. */
  readonly processor: number
  /** The median time of a cycle, in milliseconds. `p99` is the 99th percentile. */
  readonly p50: number
  readonly p99: number
}

let peer: Peer | undefined

const pick = <A>(list: readonly A[]): A => list[Math.floor(Math.random() * list.length)] as A

const run = async (peer: Peer, order: Order & { do: 'run' }): Promise<Ran> => {
  const took: number[] = []
  const start = performance.now()
  const before = process.cpuUsage()
  const until = start + order.milliseconds
  let count = 0
  const client = async (): Promise<void> => {
    for (let now = performance.now(); now < until; ) {
      const token = pick(order.tokens)
      count += 1
      if (order.readOnly) await peer.read(token)
      else {
        const key = `key ${String(Math.floor(Math.random() * order.keys))}`
        await peer.cycle(token, key, String(count).padEnd(order.bytes, 'x'))
      }
      const next = performance.now()
      took.push(next - now)
      now = next
    }
  }
  await Promise.all(Array.from({ length: order.concurrency }, client))
  const milliseconds = performance.now() - start
  const { user, system } = process.cpuUsage(before)
  const sorted = Float64Array.from(took).sort()
  const at = (part: number): number => sorted[Math.floor(sorted.length * part)] ?? Number.NaN
  return {
    cycles: took.length,
    milliseconds,
    processor: (user + system) / 1_000,
    p50: at(0.5),
    p99: at(0.99),
  }
}

const obey = async (order: Order): Promise<unknown> => {
  if (order.do === 'open') {
    peer = await peersFor(order)[order.peer]?.(order.servers)
    return undefined
  }
  if (peer === undefined) throw new Error('nothing is open')
  if (order.do === 'fill') return peer.fill(order.count, order.values)
  if (order.do === 'run') return run(peer, order)
  await peer.close()
  setTimeout(() => process.disconnect(), 10)
  return undefined
}

process.on('message', (order: Order) => {
  obey(order).then(
    (result) => process.send?.({ result }),
    (error: unknown) => process.send?.({ failure: String(error) }),
  )
})
process.send?.({ result: 'ready' })
await once(process, 'disconnect')
// The process has to end even if the parent was killed and the server of a peer is still running.
process.exit()
