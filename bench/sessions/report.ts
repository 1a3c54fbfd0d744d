// Formats the results as a table and as a chart.

import type { Case } from './clients.js'

/**
 * The results of one peer in one case. `rates` contains the number of cycles per second in each round. The latencies
 * are from the last round.
 */
export interface Figures {
  readonly peer: string
  readonly rates: readonly number[]
  /** The processor time in each round. The list is empty if the processor time is not known. */
  readonly costs: readonly Cost[]
  readonly p50: number
  readonly p99: number
}

/** The processor time of the client and of the servers for one cycle, in microseconds. */
export interface Cost {
  readonly client: number
  readonly server: number
}

export interface Measured {
  readonly of: Case
  readonly figures: readonly Figures[]
  /** The peers that could not be measured, with the reasons. */
  readonly missing: readonly Missing[]
}

export interface Missing {
  readonly peer: string
  readonly why: string
}

const median = (figures: readonly number[]): number => {
  const sorted = [...figures].sort((a, b) => a - b)
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN
}

/** Divides each figure of `peer` by the figure of `other` in the same round. Returns the median ratio and its range. */
const ratio = (peer: readonly number[], other: readonly number[]): string => {
  const ratios = peer.map((figure, round) => figure / (other[round] ?? Number.NaN))
  const [least, middle, greatest] = [Math.min(...ratios), median(ratios), Math.max(...ratios)]
  return `${middle.toFixed(2)} (${least.toFixed(2)} to ${greatest.toFixed(2)})`
}

const costs = ({ costs }: Figures, part: keyof Cost): string =>
  median(costs.map((cost) => cost[part])).toFixed(0)

const sums = ({ costs }: Figures): readonly number[] => costs.map(({ client, server }) => client + server)

const cell = (ours: Figures | undefined, peer: Figures): string => {
  const rate = `${Math.round(median(peer.rates)).toLocaleString('en')} /s`
  const latency = `p50 ${peer.p50.toFixed(2)}, p99 ${peer.p99.toFixed(1)} ms`
  const cost = peer.costs.length === 0 ? [] : [`${costs(peer, 'client')} + ${costs(peer, 'server')} µs`]
  const comparison =
    ours === undefined || peer === ours
      ? []
      : [
          ratio(ours.rates, peer.rates),
          ...(cost.length === 0 ? [] : [`processor ${ratio(sums(ours), sums(peer))}`]),
        ]
  return [rate, latency, ...cost, ...comparison].join('<br>')
}

const row = ({ of, figures, missing }: Measured, names: readonly string[]): string => {
  const [ours] = figures
  const cells = names.map((name) => {
    const peer = figures.find(({ peer }) => peer === name)
    if (peer !== undefined) return cell(ours, peer)
    return missing.some(({ peer }) => peer === name) ? 'not measured' : ''
  })
  return `| ${[of.name, ...cells].join(' | ')} |`
}

/**
 * Returns a table with a row for each case and a column for each peer. A cell is empty if the peer is not part of the
 * case. The cell of a peer also has the ratio of the first peer's figures to its own figures. A list below the table
 * names the peers that could not be measured, with the reasons.
 */
export const table = (measured: readonly Measured[]): string => {
  const all = measured.flatMap(({ figures, missing }) => [...figures, ...missing])
  const names = [...new Set(all.map(({ peer }) => peer))]
  const reasons = new Set(
    measured.flatMap(({ missing }) => missing.map(({ peer, why }) => `- ${peer} was not measured: ${why}`)),
  )
  return [
    `| case | ${names.join(' | ')} |`,
    `|---|${names.map(() => '---|').join('')}`,
    ...measured.map((each) => row(each, names)),
    ...(reasons.size === 0 ? [] : ['', ...reasons]),
  ].join('\n')
}

const [WIDTH, HEIGHT, MARGIN] = [640, 400, 60]
const COLOURS = ['#0b6', '#c33', '#36c', '#963', '#888', '#c6c']

/** Returns a chart of the time of one cycle by the number of keys. Both axes are logarithmic. */
export const drawing = (measured: readonly Measured[]): string => {
  const points = measured.flatMap(({ of, figures }) =>
    figures.map(({ peer, rates }) => ({ peer, keys: of.keys, micros: 1e6 / median(rates) })),
  )
  const scale = (of: (point: (typeof points)[number]) => number, size: number) => {
    const logs = points.map((point) => Math.log10(of(point)))
    const [low, high] = [Math.floor(Math.min(...logs)), Math.ceil(Math.max(...logs))]
    return {
      low,
      high,
      at: (value: number) => ((Math.log10(value) - low) / (high - low)) * (size - 2 * MARGIN),
    }
  }
  const [x, y] = [scale(({ keys }) => keys, WIDTH), scale(({ micros }) => micros, HEIGHT)]
  const place = ({ keys, micros }: { keys: number; micros: number }) =>
    `${(MARGIN + x.at(keys)).toFixed(1)},${(HEIGHT - MARGIN - y.at(micros)).toFixed(1)}`
  const lines = [...new Set(points.map(({ peer }) => peer))].map((peer, index) => {
    const own = points.filter((point) => point.peer === peer)
    const colour = COLOURS[index % COLOURS.length] ?? '#000'
    return `<polyline fill="none" stroke="${colour}" stroke-width="2" points="${own.map(place).join(' ')}"/>
<text x="${MARGIN + 8}" y="${MARGIN + index * 18}" fill="${colour}">${peer}</text>`
  })
  const powers = (low: number, high: number) =>
    Array.from({ length: high - low + 1 }, (_, index) => 10 ** (low + index))
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="sans-serif" font-size="12">
<text x="${WIDTH / 2}" y="${HEIGHT - 12}" text-anchor="middle">keys of a session</text>
<text x="12" y="${MARGIN - 20}">microseconds a cycle (one divided by cycles a second)</text>
${powers(x.low, x.high)
  .map((n) => `<text x="${MARGIN + x.at(n)}" y="${HEIGHT - MARGIN + 18}" text-anchor="middle">${n}</text>`)
  .join('\n')}
${powers(y.low, y.high)
  .map((n) => `<text x="${MARGIN - 6}" y="${HEIGHT - MARGIN - y.at(n)}" text-anchor="end">${n}</text>`)
  .join('\n')}
${lines.join('\n')}
</svg>
`
}
