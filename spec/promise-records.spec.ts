// Tests records, transactions and SQL for `async` programs on both drivers. Promises reject with the errors of the
// functional face, and an absent value is `undefined`.

import * as D from 'io-ts'
import t, { type Test } from 'tap'
import type { Database } from '../lib/db/database.js'
import * as S from '../lib/entry/store.js'
import * as K from '../lib/index.js'
import * as P from '../lib/promise/index.js'
import * as R from '../lib/records/index.js'
import { drivers, rowsOf } from './support/databases.js'
import { freshSchema } from './support/stores.js'

/** Makes a part of a statement from a text. */
const part = (text: string) => P.sql(Object.assign([text], { raw: [text] }))

/** Returns the error with which a promise rejects. */
const rejection = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => 'it did not reject',
    (error: unknown) => error,
  )

const thrownBy = (act: () => unknown): unknown => {
  try {
    return act()
  } catch (error) {
    return error
  }
}

const notesIn = async (database: Database) => {
  const schema = freshSchema()
  const make = [
    `create schema ${schema}`,
    `create table ${schema}.author (id bigserial primary key, name text not null unique)`,
    `create table ${schema}.note (id bigserial primary key, author_id int8 references ${schema}.author, title text,
       views int not null default 0, revision int not null default 1)`,
    `create table ${schema}.reader (author_id int8, note_id int8, primary key (author_id, note_id))`,
  ]
  for (const statement of make) await rowsOf(database, statement)
  const authors = P.record({
    table: `${schema}.author`,
    key: 'id',
    columns: { id: P.generated(P.int8), name: P.text },
  })
  const notes = P.record({
    table: `${schema}.note`,
    key: 'id',
    columns: {
      id: P.generated(P.int8),
      authorId: authors.reference,
      title: P.text,
      views: P.generated(P.int4),
      revision: P.generated(P.int4),
    },
    revision: 'revision',
  })
  const readers = P.record({
    table: `${schema}.reader`,
    key: ['authorId', 'noteId'],
    columns: { authorId: authors.reference, noteId: notes.reference },
  })
  const author = (name: string, handle = database) => authors.save(authors.build(handle, { name }))
  const note = (authorId: R.RecordValue<typeof authors>['id'], title: string) =>
    notes.save(notes.build(database, { authorId, title }))
  return { schema, authors, notes, readers, author, note }
}

const recordSpec = (t: Test, database: Database): void => {
  t.test('the verbs of a record give values, and reject with the tagged error', async (t) => {
    const { authors, notes, author, note } = await notesIn(database)
    const ada = await author('Ada')
    const tea = await note(ada.id, 'Tea')
    t.strictSame(tea, { id: 1n, authorId: 1n, title: 'Tea', views: 0, revision: 1 })
    const seen = notes.update('views', (views) => views + 1)
    const milk = await notes.save(notes.set('title', 'Milk')(seen(tea)))
    t.match(milk, { title: 'Milk', views: 1, revision: 2 })
    t.match(await notes.save(seen(tea)), { views: 2 }, 'an update is replayed')
    t.match(await rejection(notes.save(notes.set('title', 'Beer')(tea))), {
      _tag: 'SaveConflict',
      what: 'title',
    })
    t.match(await notes.refresh(tea), { title: 'Milk', views: 2 })
    t.equal(await notes.find(database, notes.id('99')), undefined)
    t.strictSame(await notes.find(database, tea.id), await notes.refresh(milk))
    const found = await notes.findMany(database, [notes.id('99'), tea.id])
    t.strictSame(
      found.map((one) => one?.title),
      [undefined, 'Milk'],
    )
    t.match(await rejection(author('Ada')), { _tag: 'DriverError', kind: 'unique' })
    await notes.destroy(tea)
    t.match(await rejection(notes.save(seen(tea))), { _tag: 'RecordGone', id: '1' })
    t.match(await rejection(notes.refresh(tea)), { _tag: 'RecordGone' })
    t.match(
      thrownBy(() => authors.build(database, { name: 'a\u0000' })),
      { _tag: 'EncodeError', key: 'name' },
    )
    t.match(
      thrownBy(() => authors.id('x')),
      { _tag: 'EncodeError', key: 'id' },
    )
    t.match(await rejection(authors.find(database, 'x' as never)), { _tag: 'EncodeError', key: 'id' })
    const copy = authors.save({ ...ada })
    t.ok((await rejection(copy)) instanceof TypeError, 'what is no record rejects too')
  })

  t.test('relations, and records of the other face', async (t) => {
    const { authors, notes, readers, author, note } = await notesIn(database)
    const [ada, bob] = [await author('Ada'), await author('Bob')]
    const tea = await note(ada.id, 'Tea')
    await readers.save(readers.build(database, { authorId: bob.id, noteId: tea.id }))
    const [notesOf, readBy] = [notes.hasMany('authorId'), notes.hasManyThrough(readers, 'authorId', 'noteId')]
    t.strictSame(await notesOf(ada), [tea])
    t.strictSame(await notesOf.preload([bob, ada]), [
      [bob, []],
      [ada, [tea]],
    ])
    t.strictSame(await readBy.preload([ada, bob]), [
      [ada, []],
      [bob, [tea]],
    ])
    const every = P.sql`select ${authors.row} from ${part(authors.table)} order by name`
    t.match(await R.queryMany(database, authors, every)(), { _tag: 'Right', right: [ada, bob] })
  })

  t.test('statements of your own: many, one, none, a misfit, a failure', async (t) => {
    const { notes, author, note, schema } = await notesIn(database)
    const ada = await author('Ada')
    const all = P.sql`select ${notes.row} from ${part(`${schema}.note`)} order by 1`
    t.equal(await P.queryOne(database, notes, all), undefined)
    const tea = await note(ada.id, 'Tea')
    t.strictSame(await P.queryMany(database, notes, all), [tea])
    const found = await P.queryOne(database, notes, all)
    t.strictSame(found, tea)
    t.equal(found?.handle, database)
    const N = D.type({ n: D.number })
    const wrong = P.sql`select case n when 2 then null else n end as n from generate_series(1, 3) as n`
    t.match(await rejection(P.queryMany(database, N, wrong)), { _tag: 'DecodeError', key: 'n', row: 1 })
    t.match(await rejection(P.queryOne(database, N, P.sql`select 1 / ${0}::int as n`)), { sqlState: '22012' })
  })
}

const transactionSpec = (t: Test, database: Database): void => {
  t.test(
    'a body that rejects is rolled back, an inner one alone; one that is done is committed',
    async (t) => {
      const { author, schema } = await notesIn(database)
      const names = async () =>
        (await rowsOf(database, `select name from ${schema}.author order by name`)).map(({ name }) => name)
      const thrown = new Error('mine')
      const refused = P.transact(database, async (tx) => {
        await author('Ada', tx)
        throw thrown
      })
      t.equal(await rejection(refused), thrown, 'the very error')
      t.strictSame(await names(), [])
      const done = await P.transact(database, async (tx) => {
        await author('Ada', tx)
        const inner = P.transact(tx, async (tx2) => {
          await author('Bob', tx2)
          throw thrown
        })
        t.equal(await rejection(inner), thrown)
        t.match(await rejection(author('Eve')), { kind: 'outerHandle' })
        return 'done'
      })
      t.equal(done, 'done')
      t.strictSame(await names(), ['Ada'])
      const caught = P.transact(database, async (tx) => {
        await author('Bob', tx)
        await author('Ada', tx).catch(() => undefined)
      })
      t.match(
        await rejection(caught),
        { kind: 'unique' },
        'a failure that the body caught fails it all the same',
      )
      const unrun = P.transact(database, (tx) => tx.query({ name: 'spec', text: 'select 1' }, []))
      t.match(await rejection(unrun), { message: /transact: .*has to be run/ })
      t.strictSame(await names(), ['Ada'])
    },
  )

  t.test('a session and a record are saved together, or neither', async (t) => {
    const { authors, schema } = await notesIn(database)
    const store = P.sessionStore(database, { schema })
    await P.prepareStore(store)
    const session = await P.saveSession(P.buildSession(store))
    const both = (fail: boolean) =>
      P.transact(database, async (tx) => {
        const ada = await authors.save(authors.build(tx, { name: 'Ada' }))
        const edit = P.sessionSet('author', String(ada.id))
        const saved = await P.saveSession(edit(P.withHandle(tx)(session)))
        if (fail) throw new Error('mine')
        return P.withHandle(database)(saved)
      })
    const count = () => rowsOf(database, `select count(*)::int as n from ${schema}.author`)
    t.match(await rejection(both(true)), { message: 'mine' })
    t.equal(P.sessionRef('author')(await P.refreshSession(session)), undefined)
    t.strictSame(await count(), [{ n: 0 }])
    const saved = await both(false)
    t.equal(P.sessionRef('author')(await P.refreshSession(saved)), '2')
    t.strictSame(await count(), [{ n: 1 }])
  })

  t.test(
    'a stream: rows one by one, ended early, rejecting, with a misfit or a failure in its midst',
    async (t) => {
      const { authors, schema } = await notesIn(database)
      await rowsOf(
        database,
        `insert into ${schema}.author (name) select 'n' || n from generate_series(1, 250) n`,
      )
      const all = P.sql`select ${authors.row} from ${part(`${schema}.author`)} order by 1`
      const loud = await P.queryStream(database, authors, all, async (rows) => {
        let count = 0
        for await (const author of rows) {
          await authors.save(authors.update('name', (name) => `${name}!`)(author))
          count += 1
          if (count === 120) break
        }
        return count
      })
      t.equal(loud, 120)
      const shouting = `select count(*)::int as n from ${schema}.author where name like '%!'`
      t.strictSame(await rowsOf(database, shouting), [{ n: 120 }])
      const thrown = new Error('mine')
      const rejecting = P.queryStream(database, authors, all, async (rows) => {
        for await (const author of rows) {
          await authors.destroy(author)
          throw thrown
        }
      })
      t.equal(await rejection(rejecting), thrown)
      t.strictSame(await rowsOf(database, `select count(*)::int as n from ${schema}.author`), [{ n: 250 }])
      const N = D.type({ n: D.number })
      const seen: number[] = []
      const each = async (rows: AsyncIterable<{ readonly n: number }>) => {
        for await (const { n } of rows) seen.push(n)
      }
      const odd = P.sql`select case n when 3 then null else n end as n from generate_series(1, 5) as n`
      t.match(await rejection(P.queryStream(database, N, odd, each)), {
        _tag: 'DecodeError',
        key: 'n',
        row: 2,
      })
      t.strictSame(seen, [1, 2])
      const failing = P.sql`select 10 / (3 - n) as n from generate_series(1, 5) as n`
      t.match(await rejection(P.queryStream(database, N, failing, each)), {
        _tag: 'DriverError',
        sqlState: '22012',
      })
    },
  )
}

t.test('every name of the one face is one of the other', async (t) => {
  const missing = Object.keys({ ...K, ...R, ...S }).filter((name) => !(name in P))
  t.strictSame(missing, [])
})

for (const driver of drivers)
  t.test(driver.name, async (t) => {
    const { database, close } = await driver.open()
    t.teardown(close)
    recordSpec(t, database)
    transactionSpec(t, database)
  })
