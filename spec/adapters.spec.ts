// Every door with its real framework, and the one that the documentation writes, on a real PostgreSQL, as a client
// sees it.

import t from 'tap'
import { postgresDatabase } from '../lib/db/postgres/index.js'
import { doorSuite } from './support/adapter-suite.js'
import { documentedDoor, doors } from './support/adapters.js'
import { browserSuite } from './support/browser-headers-suite.js'
import { crossSiteSuite } from './support/cross-site-suite.js'
import { quietPools } from './support/databases.js'
import { specDatabaseUrl } from './support/postgres-server.js'
import { dropSchemas } from './support/stores.js'

const { url, stop } = await specDatabaseUrl()
const database = postgresDatabase(quietPools(url))
// What fails on purpose is logged.
console.error = () => undefined
t.teardown(async () => {
  await dropSchemas(database)
  await database.close()
  await stop()
})

for (const door of [...doors, await documentedDoor()])
  t.test(door.name, async (t) => {
    doorSuite(t, door, database)
    browserSuite(t, door, database)
    crossSiteSuite(t, door, database)
  })
