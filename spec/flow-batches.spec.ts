// Tests the statement that stores rows of several flows, against the statement that stores one row.

import { randomUUID } from 'node:crypto'
import * as E from 'fp-ts/lib/Either.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import * as io from 'io-ts'
import t from 'tap'
import { DriverError } from '../lib/core/errors.js'
import { type IdempotencyKey, newIdempotencyKey } from '../lib/core/token.js'
import type { Database } from '../lib/db/database.js'
import { effect, type FlowHandler, forward, suspend } from '../lib/flow/index.js'
import { buildSession, saveSession, sessionSet, sessionToken } from '../lib/promise/index.js'
import { sessionStore } from '../lib/sql/store.js'
import { batched } from '../lib/store/batched.js'
import type { SessionStore } from '../lib/store/contract.js'
import {
  type FlowKey,
  type FlowStore,
  MAX_JOURNAL_CHARS,
  type NewRow,
  type RowWrite,
  type Seen,
} from '../lib/store/flow-contract.js'
import { Browser, begin, page, served, textOf, Word } from '../lib/testing/flow-subject.js'
import { counting, drivers, rowsOf } from './support/databases.js'
import { fast, freshSchema, right } from './support/stores.js'

const [driver] = drivers
if (driver === undefined) throw new Error('there is no driver')
const { database, close } = await driver.open()
t.teardown(close)

const storeIn = (schema: string, over: Database = database) => sessionStore(over, { schema })

/** Begins a flow in each of several new browsers. `url` is the second page. */
const begunIn = (store: SessionStore, handler: FlowHandler<unknown>, count: number) =>
  Promise.all(
    Array.from({ length: count }, async () => {
      const { browser, first } = await begin(store, handler)
      return { browser, url: await browser.answer(handler, first, { word: 'a' }) }
    }),
  )

t.test('rows of several flows are one statement, and each request gets its own result', async (t) => {
  const counted = counting(database)
  const store = fast(storeIn(freshSchema(), counted.database))
  const handler = served(function* () {
    const words: string[] = []
    for (;;) words.push((yield* suspend('word', Word, page(words.join(' ')))).word)
  })
  const begun = await begunIn(store, handler, 20)
  counted.events.length = 0
  const words = begun.map((_, place) => `b${String(place)}`)
  const urls = await Promise.all(
    begun.map(({ browser, url }, place) => browser.answer(handler, url, { word: words[place] })),
  )
  const writes = counted.events.filter(({ query }) => /^flow\.(?:advance|write)/.test(query.name))
  t.ok(writes.length < 6, `${String(writes.length)} statements for 20 rows`)
  t.ok(writes.some(({ query }) => query.name === 'flow.advanceAll'))
  const pages = await Promise.all(begun.map(({ browser }, place) => browser.page(handler, urls[place] ?? '')))
  t.strictSame(
    pages.map(textOf),
    words.map((word) => `a ${word}`),
  )
})

/** A row of a new flow in a new session, and a change that is made before the row is written. */
interface Attempted {
  readonly isStored: boolean
  readonly change?: Partial<NewRow>
  readonly seen?: Partial<Seen>
  readonly before?: (key: FlowKey, flows: FlowStore, row: RowWrite, store: SessionStore) => Promise<unknown>
}

const ATTEMPTS: Readonly<Record<string, Attempted>> = {
  'a first row': { isStored: true },
  'a row that cuts': { isStored: true, change: { cuts: true } },
  'a row of a principal': { isStored: true, seen: { principal: 'ada' } },
  'a row below another': {
    isStored: true,
    before: async (key, flows, { row, seen }) => {
      const parent = {
        ...row,
        id: row.parent ?? '',
        parent: undefined,
        parentMade: '00',
        made: row.parentMade as IdempotencyKey,
      }
      await right(
        flows.write({ session: key.session, row: { key, seen, row: parent }, ends: [], change: undefined }),
      )
    },
    change: { parent: randomUUID(), parentMade: newIdempotencyKey() },
  },
  'a row whose parent was made by another write': {
    isStored: false,
    before: async (key, flows, { row, seen }) => {
      const parent = {
        ...row,
        id: row.parent ?? '',
        parent: undefined,
        parentMade: '00',
        made: newIdempotencyKey(),
      }
      await right(
        flows.write({ session: key.session, row: { key, seen, row: parent }, ends: [], change: undefined }),
      )
    },
    change: { parent: randomUUID(), parentMade: newIdempotencyKey() },
  },
  'a row without its parent': {
    isStored: false,
    change: { parent: randomUUID(), parentMade: newIdempotencyKey() },
  },
  'a first row of a flow with another seed': { isStored: false, change: { parentMade: '11' } },
  'a row of another generation': { isStored: false, seen: { generation: 1 } },
  'a row of another principal': {
    isStored: false,
    before: (key, flows, { row, seen }) =>
      right(
        flows.write({
          ...{ session: key.session, ends: [], change: undefined },
          row: {
            key,
            seen: { ...seen, principal: 'bob' },
            row: { ...row, id: randomUUID(), made: newIdempotencyKey() },
          },
        }),
      ),
    seen: { principal: 'ada' },
  },
  'a row of nobody in a flow of a principal': {
    isStored: false,
    before: (key, flows, { row, seen }) =>
      right(
        flows.write({
          ...{ session: key.session, ends: [], change: undefined },
          row: {
            key,
            seen: { ...seen, principal: 'bob' },
            row: { ...row, id: randomUUID(), made: newIdempotencyKey() },
          },
        }),
      ),
  },
  'a row that is too large': { isStored: false, change: { chars: MAX_JOURNAL_CHARS + 1 } },
  'a row of a flow that has ended': {
    isStored: false,
    before: (key, flows, { seen }) =>
      right(
        flows.write({
          ...{ session: key.session, row: undefined, change: undefined },
          ends: [{ key, seen, to: '/', made: newIdempotencyKey() }],
        }),
      ),
  },
  'a row of a flow that was dropped': { isStored: false, before: (key, flows) => right(flows.drop(key)) },
  'a row of a session that was destroyed': {
    isStored: false,
    before: (key, _, __, store) => right(store.destroy(key.session)),
  },
  'a row of a flow that has expired': {
    isStored: false,
    before: async ({ flow }) => {
      await rowsOf(database, `update ${BATCHED}.flow set expires_at = now() where id = '${flow}'`)
    },
  },
  'a row of a flow with too many answers': {
    isStored: false,
    before: async ({ flow }) => {
      await rowsOf(database, `update ${BATCHED}.flow set answers = 500 where id = '${flow}'`)
    },
  },
}

const BATCHED = freshSchema()

t.test('a batch of rows stores the rows that single writes store, and no other', async (t) => {
  const store = storeIn(BATCHED)
  const { flows, batch } = store
  if (flows === undefined || batch?.addRows === undefined) throw new Error('the store has no batches')
  const made = async ({ change, seen, before }: Attempted): Promise<RowWrite> => {
    const session = await saveSession(sessionSet('n', 1)(buildSession(store)))
    const key = { session: session.id, flow: randomUUID() }
    const head = { name: 'flow', version: 1, input: {}, seed: '00', principal: undefined, caller: undefined }
    await right(flows.begin(key, { ...head, idleMs: undefined, maxAgeMs: undefined }, undefined))
    const row: NewRow = {
      ...{ id: randomUUID(), parent: undefined, parentMade: '00', step: 'step' },
      ...{
        records: [['suspend', 'step', { text: `"{},\\\n${randomUUID()}` }]],
        chars: 30,
        made: newIdempotencyKey(),
        cuts: false,
      },
      ...change,
    }
    const write = { key, seen: { generation: 0, principal: undefined, ...seen }, row }
    await before?.(key, flows, { key, seen: { generation: 0, principal: undefined }, row }, store)
    return write
  }
  const alone = (write: RowWrite) =>
    flows.write({ session: write.key.session, row: write, ends: [], change: undefined })()
  /** What the store has of the flow, without the ids of this attempt. */
  const found = async ({ key, row }: RowWrite): Promise<string> =>
    JSON.stringify(await right(flows.read(key, row.id, [])))
      .replaceAll(row.id, 'row')
      .replaceAll(row.made, 'made')
      .replaceAll(/[0-9a-f]{8}-[0-9a-f-]{27}/g, 'id')
      .replaceAll(/"made":"(?!made)[^"]*"/g, '"made":"other"')
  const attempts = Object.entries(ATTEMPTS)
  const together = await Promise.all(attempts.map(([, attempt]) => made(attempt)))
  const results = await right(batch.addRows(together))
  const expected: string[] = []
  for (const [place, [name, attempt]] of attempts.entries()) {
    const write = together[place] as RowWrite
    t.equal(results[place], attempt.isStored, name)
    const single = await made(attempt)
    t.equal(E.isRight(await alone(single)), attempt.isStored, `${name}, alone`)
    expected[place] = await found(single)
    t.equal(await found(write), expected[place], `${name}, what is stored`)
    t.equal(E.isRight(await alone(write)), attempt.isStored, `${name}, repeated alone`)
  }
  t.notOk((await right(batch.addRows(together))).includes(true), 'a repeated batch stores nothing')
  for (const [place, [name]] of attempts.entries())
    t.equal(await found(together[place] as RowWrite), expected[place], `${name}, after the repetitions`)
})

t.test('the answer of a batch is lost: each row is stored once', async (t) => {
  let losses = 0
  const losing: Database = {
    ...database,
    query: (query, params) => async () => {
      const result = await database.query(query, params)()
      if (query.name !== 'flow.advanceAll' || losses > 0) return result
      losses += 1
      return E.left(new DriverError('lost', { retryable: true, kind: 'unavailable' }))
    },
  }
  const schema = freshSchema()
  const store = batched(storeIn(schema, losing))
  const handler = served(function* () {
    for (;;) yield* suspend('word', Word, page(''))
  })
  const begun = await begunIn(store, handler, 10)
  const urls = await Promise.all(begun.map(({ browser, url }) => browser.answer(handler, url, { word: 'b' })))
  t.equal(losses, 1)
  t.equal(new Set(urls).size, 10)
  const [counted] = await rowsOf(database, `select sum(answers)::int as answers from ${schema}.flow`)
  t.strictSame(counted, { answers: 20 })
  t.equal((await rowsOf(database, `select from ${schema}.continuation`)).length, 20)
})

t.test('a batch of rows waits for no lock, and its other rows are stored', async (t) => {
  const handler = served(function* () {
    for (;;) yield* suspend('word', Word, page(''))
  })
  const counted = counting(database)
  const schema = freshSchema()
  const store = batched(storeIn(schema, counted.database))
  const begun = await begunIn(store, handler, 6)
  const session = (await begun[0]?.browser.session())?.id ?? ''
  const other = (await begun[1]?.browser.session())?.id ?? ''
  let [done, isLocked, unlock] = [0, () => {}, () => {}]
  const locked = new Promise<void>((resolve) => {
    isLocked = resolve
  })
  const gate = new Promise<void>((resolve) => {
    unlock = resolve
  })
  const locking = right(
    database.transaction((tx) => async () => {
      await rowsOf(tx, `select from ${schema}.flow where session_id = '${session}' for update`)
      await rowsOf(tx, `select from ${schema}.session where id = '${other}' for update`)
      isLocked()
      await gate
      return E.right(undefined)
    }),
  )
  await locked
  counted.events.length = 0
  const answers = begun.map(async ({ browser, url }) => {
    await browser.answer(handler, url, { word: 'b' })
    done += 1
  })
  await Promise.all(answers.slice(2))
  t.equal(done, 4)
  t.ok(counted.events.some(({ query }) => query.name === 'flow.advanceAll'))
  unlock()
  await Promise.all([...answers, locking])
  t.equal(done, 6)
  const rows = await rowsOf(database, `select from ${schema}.continuation`)
  t.equal(rows.length, 12)
})

t.test('cuts in a batch of one process and answers in a batch of another, 300 times at once', async (t) => {
  const schema = freshSchema()
  const [one, two] = [batched(storeIn(schema)), batched(storeIn(schema))]
  const handler = served(function* () {
    yield* suspend('first', Word, page(''))
    const { word } = yield* suspend('second', Word, page(''))
    if (word === 'cut') yield* forward('past', Word, page(''))
    else yield* suspend('other', Word, page(''))
  })
  let cuts = 0
  for (let round = 0; round < 15; round += 1) {
    const begun = await begunIn(one, handler, 20)
    const others = await Promise.all(
      begun.map(async ({ browser }) => new Browser(two, sessionToken(await browser.session()))),
    )
    const [cut, other] = await Promise.all([
      Promise.all(begun.map(({ browser, url }) => browser.send(handler, 'POST', url, { word: 'cut' }))),
      Promise.all(
        others.map((other, place) => other.send(handler, 'POST', begun[place]?.url ?? '', { word: 'other' })),
      ),
    ])
    for (const [place, { browser }] of begun.entries()) {
      const [to, later] = [cut[place]?.headers['Location'] ?? '', other[place]?.headers['Location']]
      t.equal(cut[place]?.status, 303)
      if (other[place]?.status === 410) cuts += 1
      else t.equal((await browser.send(handler, 'GET', later ?? '')).headers['Location'], to)
    }
  }
  t.comment(`${String(cuts)} of 300 answers came after the cut`)
  const past = `select from ${schema}.flow f join ${schema}.continuation c on c.session_id = f.session_id and c.flow_id = f.id
                where c.generation = f.generation and c.id <> f.latest`
  t.equal((await rowsOf(database, past)).length, 0)
})

t.test('a batch of rows has a limited size', async (t) => {
  const sizes: number[] = []
  const measured: Database = {
    ...database,
    query: (query, params) => {
      if (query.name === 'flow.advanceAll') sizes.push(String(params[7]).length)
      return database.query(query, params)
    },
  }
  const store = batched(storeIn(freshSchema(), measured))
  const handler = served(function* () {
    yield* suspend('first', Word, page(''))
    yield* suspend('second', Word, page(''))
    for (const name of ['one', 'two', 'three'])
      yield* effect(name, io.string, () => TE.right('x'.repeat(60_000)))
    yield* suspend('third', Word, page(''))
  })
  const begun = await begunIn(store, handler, 60)
  await Promise.all(begun.map(({ browser, url }) => browser.answer(handler, url, { word: 'b' })))
  t.comment(`batches of ${sizes.join()} characters`)
  t.ok(sizes.length > 1)
  t.strictSame(
    sizes.filter((size) => size > 4_600_000),
    [],
  )
})
