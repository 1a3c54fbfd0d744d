// The laws and the adapters' suite on each Node that is supported, but the one that runs `npm test`. The executables
// are installed from the npm registry.
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { nodePackages, nodeProgram, openWorkshop, project, succeed } from '../support/package-workshop.js'

const majors = [20, 22, 24, 26].filter((major) => !process.versions.node.startsWith(`${String(major)}.`))
const files = [
  'laws-memory',
  'laws-postgres',
  'laws-pglite',
  'current-scope',
  'adapter',
  'adapter-edges',
  'adapter-frameworks',
  'adapters',
  'events',
  'express-session',
  'express-store',
  'processes',
  'records',
  'response',
  'timers',
  'transactions',
]

const workshop = openWorkshop()
t.teardown(workshop.close)
const home = await project(workshop, 'nodes', ...nodePackages(majors))
// As in `npm test`, not at length.
const env = { ...process.env, LONG: '' }
const root = fileURLToPath(new URL('../../', import.meta.url))
const typescript = new URL('../support/typescript.mjs', import.meta.url).href

for (const major of majors)
  t.test(`Node ${String(major)}`, async (t) => {
    const node = nodeProgram(home, major)
    t.match(await succeed(home, node, '--version'), `v${String(major)}.`)
    for (const file of files)
      await t.spawn(
        node,
        ['--import', typescript, join('spec', `${file}.spec.ts`)],
        { cwd: root, env, timeout: 300_000 },
        file,
      )
  })
