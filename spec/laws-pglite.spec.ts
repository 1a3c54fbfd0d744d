import t from 'tap'
import { pgliteDatabase } from '../lib/db/pglite.js'
import { sessionStoreLaws } from '../lib/testing/index.js'
import './support/pglite.mjs'
import { fast, openIn, right } from './support/stores.js'

const database = pgliteDatabase()
t.teardown(() => right(database.close))

for (const { name, run } of sessionStoreLaws(openIn(database))) t.test(name, run)

// The statements for Citus also run on other databases.
const distributed = openIn(database, undefined, { citus: true }, fast)

for (const { name, run } of sessionStoreLaws(distributed)) t.test(`${name} (distributed)`, run)
