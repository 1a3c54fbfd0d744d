// Tests laws 4, 5, 6 and 11 between real processes by a short run of the history checker. Also shows that the checker
// can fail. Longer runs are in slow/history.spec.ts and slow/faults.spec.ts.

import t from 'tap'
import { isLong, times } from './support/at-length.js'
import { makeHistory } from './support/history-run.js'
import { startPostgres } from './support/postgres-server.js'

const server = await startPostgres()
t.teardown(() => server.stop())

const [processes, operations] = [times(2, 4), times(1_000, 3_000)]
const breaks = ['whole', 'unreplayed', 'upsert'] as const

const variants = {
  '': {},
  ' (batched and remembered)': { fast: true },
  ' (batched, remembered and relaxed)': { fast: true, durability: 'relaxed' },
} as const

for (const [variant, options] of Object.entries(variants))
  t.test(`a history of several processes can be explained${variant}`, async (t) => {
    const history = await makeHistory({ url: server.url, processes, operations, ...options })
    t.strictSame([history.violations, history.unknown], [[], 0])
    t.equal(history.operations, operations)
  })

for (const broken of isLong ? breaks : breaks.slice(0, 1))
  t.test(`a history of a store that is broken (${broken}) cannot`, async (t) => {
    const { violations } = await makeHistory({ url: server.url, processes, operations, broken })
    t.not(violations.length, 0)
    t.comment(`${String(violations.length)} violations, the first: ${violations[0] ?? ''}`)
  })

if (isLong)
  t.test('a server that is killed and started again leaves a history that can be explained', async (t) => {
    const fault = async (isOver: () => boolean): Promise<number> => {
      for (let kills = 0; ; kills += 1) {
        await new Promise((resolve) => setTimeout(resolve, 700))
        if (isOver()) return kills
        await server.kill()
        await server.start()
      }
    }
    const history = await makeHistory({ url: server.url, processes, operations, fault })
    t.strictSame(history.violations, [])
    t.not(history.faults, 0)
    t.ok(history.unknown <= history.operations / 20, 'the pools recover')
    t.comment(
      `${String(history.faults)} kills, ${String(history.unknown)} of ${String(history.operations)} outcomes unknown`,
    )
  })
