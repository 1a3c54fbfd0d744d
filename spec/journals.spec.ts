// Replays the stored journals of the example shop's checkout on its present definition. When the checkout changes, keep
// the old files and add a new one.

import { readdirSync, readFileSync } from 'node:fs'
import { pgliteDatabase } from 'keyrow/pglite'
import { replayJournal, type StoredJournal } from 'keyrow/testing'
import t from 'tap'
import { checkoutFlow } from '../examples/shop/checkout.js'
import { stubPayments } from '../examples/shop/payments.js'
import './support/pglite.mjs'

const folder = new URL('./frozen/journals/', import.meta.url)
const database = pgliteDatabase()
t.teardown(() => database.close())
const checkout = checkoutFlow(database, stubPayments())

for (const file of readdirSync(folder)) {
  const journals = JSON.parse(readFileSync(new URL(file, folder), 'utf8')) as readonly (StoredJournal & {
    readonly waitsFor: string
  })[]
  for (const { waitsFor, ...journal } of journals)
    t.test(`${file}: ${waitsFor}`, async (t) => {
      t.strictSame(replayJournal(checkout, journal), { waitsFor })
    })
}

t.test('a journal that does not fit is told', async (t) => {
  const journal = [['suspend', 'name', { name: 'Ada' }]] as const
  t.throws(() => replayJournal(checkout, { version: 1, input: [], journal }), /does not fit its journal/)
})
