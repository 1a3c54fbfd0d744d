// The adapters for `fetch` and Hono on Bun and Deno, whose executables come from the npm registry. So it is not part
// of `npm test`; `npm run test:slow` runs it.
import { join } from 'node:path'
import t from 'tap'
import { openWorkshop, project } from '../support/package-workshop.js'
import { specDatabaseUrl } from '../support/postgres-server.js'

const versions = { bun: '1.4.5', deno: '2.9.6' }

const { platform, arch } = process
const bun = `@oven/bun-${platform}-${arch === 'arm64' ? 'aarch64' : arch}`
const deno = `@deno/${platform}-${arch}${platform === 'linux' ? '-glibc' : ''}`

const workshop = openWorkshop()
t.teardown(workshop.close)
const { url, stop } = await specDatabaseUrl()
t.teardown(stop)
const tools = await project(workshop, 'runtimes', `${bun}@${versions.bun}`, `${deno}@${versions.deno}`)

const suite = 'spec/support/runtime-suite.ts'
const runtimes: Readonly<Record<string, readonly [string, ...string[]]>> = {
  Bun: [join(tools, 'node_modules', bun, 'bin', 'bun'), 'run', suite],
  // Deno does not look for the `.ts` of a `.js` unless it is told to, and never for the `.cts` of a `.cjs`.
  Deno: [
    join(tools, 'node_modules', deno, 'deno'),
    ...['run', '--allow-all', '--no-check', '--unstable-sloppy-imports'],
    ...['--import-map', 'spec/support/deno-imports.json', suite],
  ],
}

for (const [name, [program, ...args]] of Object.entries(runtimes))
  t.test(name, { timeout: 300_000 }, async (t) => {
    await t.spawn(program, args, { env: { ...process.env, NODE_OPTIONS: '', DATABASE_URL: url } }, name)
  })
