// Tests that a store recognises its ids in every process, after the end of the session, after an upgrade, and after a
// restore.

import t from 'tap'
import { freshId } from '../lib/core/token.js'
import { pgliteDatabase } from '../lib/db/pglite.js'
import { buildSession, destroySession, saveSession, sessionSet } from '../lib/promise/index.js'
import { sessionStore } from '../lib/sql/store.js'
import type { SessionStore } from '../lib/store/contract.js'
import { memoryStore } from '../lib/store/memory.js'
import './support/pglite.mjs'
import { fast, freshSchema, right } from './support/stores.js'

const database = pgliteDatabase()
t.teardown(() => right(database.close))

const sql = (text: string) => right(database.query({ name: 'spec', text }, []))

const open = async (schema: string): Promise<SessionStore> => {
  const store = fast(sessionStore(database, { schema, absoluteMs: 3_600_000 }))
  await right(store.prepare)
  return store
}

const UUID_4 = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/

t.test('an id is a UUID of version 4 that every store on the same data knows, and no other', async (t) => {
  const [schema, other] = [freshSchema(), await open(freshSchema())]
  const [one, two] = [await open(schema), await open(schema)]
  const ids = Array.from({ length: 1_000 }, () => buildSession(one).id)
  t.equal(new Set(ids).size, 1_000)
  for (const id of ids) {
    t.match(id, UUID_4)
    if (two.ids?.originOf(id) !== 'own' || other.ids?.originOf(id) === 'own') t.fail(id)
  }
  const ended = await saveSession(sessionSet('a', 1)(buildSession(one)))
  await destroySession(ended)
  t.equal(two.ids?.originOf(ended.id), 'own')
})

t.test('a store that was not asked yet knows nothing, and waits for nothing', async (t) => {
  const schema = freshSchema()
  const before = await open(schema)
  const store = sessionStore(database, { schema })
  t.equal(store.ids?.originOf(buildSession(before).id), 'unknown')
  const early = await saveSession(sessionSet('a', 1)(buildSession(store)))
  t.match(early.id, UUID_4)
  t.not(before.ids?.originOf(early.id), 'own')
  t.equal(before.ids?.originOf(buildSession(store).id), 'own', 'from its first statement on')
})

t.test(
  'while sessions from before the key may live, an id without a tag is nobody knows whose',
  async (t) => {
    const schema = freshSchema()
    t.equal((await open(schema)).ids?.originOf(freshId()), 'unknown')
    await sql(`update ${schema}.metadata set made_at = now() - interval '59 minutes'`)
    t.equal((await open(schema)).ids?.originOf(freshId()), 'unknown')
    await sql(`update ${schema}.metadata set made_at = now() - interval '61 minutes'`)
    t.equal((await open(schema)).ids?.originOf(freshId()), 'foreign')
  },
)

t.test('the key is of 256 random bits, and of this data alone', async (t) => {
  const keys = async (schema: string) =>
    (await sql(`select id_key from ${schema}.metadata where version = 3`)).map((row) => String(row['id_key']))
  const [one, two] = [freshSchema(), freshSchema()]
  await Promise.all([open(one), open(two)])
  const both = [...(await keys(one)), ...(await keys(two))]
  t.equal(new Set(both).size, 2)
  for (const key of both) t.match(key, /^([0-9a-f-]{36}){3}$/)
})

t.test('a store in memory knows its own from the start', async (t) => {
  const [one, two] = [memoryStore(), memoryStore()]
  const { id } = buildSession(one)
  t.match(id, UUID_4)
  t.strictSame([one.ids?.originOf(id), two.ids?.originOf(id)], ['own', 'foreign'])
})
