// Tests every adapter with its real framework on a real PostgreSQL, including the adapter from the documentation.

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
// Nothing logs the failures that this spec causes.
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
