// Tests the laws of flows on every store, and on the store with the layers `batched` and `cached`.

import t from 'tap'
import { pgliteDatabase } from '../lib/db/pglite.js'
import { flowLaws } from '../lib/testing/index.js'
import { drivers } from './support/databases.js'
import './support/pglite.mjs'
import { fast, openIn, openMemory, right } from './support/stores.js'

for (const { name, run } of flowLaws(openMemory)) t.test(`${name} (memory)`, run)

const embedded = pgliteDatabase()
t.teardown(() => right(embedded.close))

for (const { name, run } of flowLaws(openIn(embedded))) t.test(`${name} (PGlite)`, run)

// The statements for Citus also run on other databases.
for (const { name, run } of flowLaws(openIn(embedded, undefined, { citus: true })))
  t.test(`${name} (PGlite, distributed)`, run)

for (const driver of drivers) {
  const { database, close } = await driver.open()
  t.teardown(close)
  for (const { name, run } of flowLaws(openIn(database))) t.test(`${name} (${driver.name})`, run)
  for (const { name, run } of flowLaws(openIn(database, undefined, {}, fast)))
    t.test(`${name} (${driver.name}, batched and cached)`, run)
}
