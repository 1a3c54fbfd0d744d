import t from 'tap'
import { pgliteDatabase } from '../lib/driver/pglite.js'
import { sessionStoreLaws } from '../lib/testing/index.js'
import { openIn, right } from './support/stores.js'

const database = pgliteDatabase()
t.teardown(() => right(database.close))

for (const { name, run } of sessionStoreLaws(openIn(database))) t.test(name, run)
