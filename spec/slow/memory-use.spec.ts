// What a request leaves in memory is freed by the quick collections of V8. A request must not get into the old generation:
// there it stays until a full collection, and each quick collection copies it.

import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import t from 'tap'
import { startPostgres } from '../support/postgres-server.js'

const CHILD = fileURLToPath(new URL('../support/memory-child.mjs', import.meta.url))

/** Returns by how many bytes each request lets the old generation grow. The young generation is small. */
const growthOf = async (...given: readonly string[]): Promise<number> => {
  const { stdout } = await promisify(execFile)(process.execPath, [
    ...['--expose-gc', '--max-semi-space-size=2', CHILD],
    ...given,
  ])
  return Number(stdout)
}

for (const framework of ['node', 'express', 'koa', 'fastify'])
  t.test(
    `a request with a session of keyrow/${framework} does not outlive the quick collections`,
    async (t) => {
      const bare = await growthOf(framework)
      const own = await growthOf(framework, 'session')
      t.ok(own - bare < 1_000, `it leaves ${String(own)} bytes, and without a session ${String(bare)} bytes`)
    },
  )

t.test('a transaction that saves the session does not outlive the quick collections', async (t) => {
  const server = await startPostgres()
  t.teardown(server.stop)
  const own = await growthOf('transaction', 'session', server.url)
  t.ok(own < 10_000, `it leaves ${String(own)} bytes`)
})

t.test('a statement of postgres.js keeps little more than one without keyrow', async (t) => {
  const server = await startPostgres()
  t.teardown(server.stop)
  const bare = await growthOf('statement', '', server.url)
  const own = await growthOf('statement', 'keyrow', server.url)
  t.ok(own - bare < 1_000, `it leaves ${String(own)} bytes, and without keyrow ${String(bare)} bytes`)
})
