// Tests the laws of session stores on node-postgres.

import t from 'tap'
import { sessionStoreLaws } from '../lib/testing/index.js'
import { drivers } from './support/databases.js'
import { fast, openIn } from './support/stores.js'

const driver = drivers.find(({ name }) => name === 'node-postgres')
if (driver === undefined) throw new Error('there is no such driver')
const { database, close } = await driver.open()
t.teardown(close)

for (const { name, run } of sessionStoreLaws(openIn(database))) t.test(name, run)

const quick = openIn(database, undefined, {}, fast)

for (const { name, run } of sessionStoreLaws(quick)) t.test(`${name} (batched and cached)`, run)
