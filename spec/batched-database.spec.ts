// Tests batched statements of records: the result of each caller, the statements that are not batched, and locked rows.

import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as O from 'fp-ts/lib/Option.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import t from 'tap'
import { type Database, transact } from '../lib/db/database.js'
import { type BatchOptions, batchedDatabase } from '../lib/entry/store.js'
import { generated, int4, int8, nullable, record, text } from '../lib/records/index.js'
import { counting, drivers, rowsOf } from './support/databases.js'
import { freshSchema, right } from './support/stores.js'

const some = <A>(option: O.Option<A>): A => {
  if (O.isNone(option)) throw new Error('nothing was found')
  return option.value
}
const ok = <A>(either: E.Either<unknown, A>): A => {
  if (E.isLeft(either)) throw either.left as Error
  return either.right
}
const at = <A>(list: readonly A[], index: number): A => {
  if (index >= list.length) throw new Error(`there are no ${String(index)}`)
  return list[index] as A
}
const all = <A>(times: number, make: (index: number) => Promise<A>): Promise<A[]> =>
  Promise.all(Array.from({ length: times }, (_, index) => make(index)))

const gate = () => {
  let open = (): void => undefined
  const passed = new Promise<void>((resolve) => (open = resolve))
  return { passed, open: () => open() }
}

const open = async (inner: Database, limits: BatchOptions = {}) => {
  const { database: counted, events } = counting(inner)
  const database = batchedDatabase(counted, limits)
  const schema = freshSchema()
  await rowsOf(inner, `create schema ${schema}`)
  await rowsOf(
    inner,
    `create table ${schema}.note (id bigserial primary key, title text unique, body text, count int not null default 0)`,
  )
  const table = `${schema}.note`
  const notes = record({
    table,
    key: 'id',
    columns: { id: generated(int8), title: text, body: nullable(text), count: generated(int4) },
  })
  const fill = (times: number) =>
    all(times, async (index) =>
      right(
        pipe(
          TE.fromEither(notes.build(database, { title: `note ${String(index)}`, body: null })),
          TE.chainW(notes.save),
        ),
      ),
    )
  const names = (): readonly string[] =>
    events.splice(0).map(({ query }) => query.name.replace(`${table}.`, ''))
  return { database, notes, fill, names, table, schema }
}

for (const driver of drivers)
  t.test(driver.name, async (t) => {
    const { database: inner, close } = await driver.open()
    t.teardown(close)

    t.test('finds that arrive together are one statement, and each gets its own', async (t) => {
      const { database, notes, fill, names } = await open(inner)
      const made = await fill(20)
      names()
      const none = ok(notes.id('999999'))
      const ids = [...made.map(({ id }) => id), none, at(made, 3).id]
      const found = await Promise.all(ids.map((id) => right(notes.find(database, id))))
      t.strictSame(names(), ['findMany'])
      t.strictSame(
        found.map(O.map(({ id }) => id)),
        ids.map((id) => (id === none ? O.none : O.some(id))),
      )
      t.strictSame(found[0], O.some(made[0]))
      await right(notes.find(database, ok(notes.id('1'))))
      t.strictSame(names(), ['find'])
    })

    t.test('saves of one column are one statement, and each record is as it was saved', async (t) => {
      const { database, notes, fill, names } = await open(inner)
      const made = await fill(20)
      names()
      const odd = 'quote " backslash \\ brace } comma , NULL \n ü \u{1F600}'
      const edited = made.map((note, index) =>
        notes.set('body', index === 7 ? 'NULL' : `${odd}${String(index)}`)(note),
      )
      const saved = await Promise.all(edited.map((note) => right(notes.save(note))))
      t.strictSame(names(), ['set.body.each'])
      t.strictSame(saved, edited)
      const found = await Promise.all(made.map(({ id }) => right(notes.find(database, id))))
      t.strictSame(found.map(some), saved)
      const emptied = await Promise.all(saved.map((note) => right(notes.save(notes.set('body', null)(note)))))
      t.strictSame(
        emptied.map(({ body }) => body),
        made.map(() => null),
      )
    })

    t.test('saves of one record are done in their order, one after the other', async (t) => {
      const { database, notes, fill, names } = await open(inner)
      const [note, other] = await fill(2)
      if (note === undefined || other === undefined) throw new Error('not made')
      names()
      const saved = await all(6, (index) =>
        right(notes.save(notes.set('body', String(index))(index === 3 ? other : note))),
      )
      t.strictSame(
        saved.map(({ body }) => body),
        ['0', '1', '2', '3', '4', '5'],
      )
      t.equal(some(await right(notes.find(database, note.id))).body, '5')
      t.equal(names().filter((name) => name.endsWith('each')).length, 1)
    })

    t.test('updates by a function lose nothing, many at once on few records', async (t) => {
      const { database, notes, fill } = await open(inner)
      const made = await fill(4)
      await all(80, async (index) => {
        const note = some(await right(notes.find(database, at(made, index % 4).id)))
        await right(notes.save(notes.update('count', (count) => count + 1)(note)))
      })
      const found = await Promise.all(made.map(({ id }) => right(notes.find(database, id))))
      t.strictSame(
        found.map((note) => some(note).count),
        [20, 20, 20, 20],
      )
    })

    t.test('what one does wrong, or finds gone, is its own', async (t) => {
      const { database, notes, fill } = await open(inner)
      const made = await fill(7)
      await right(notes.destroy(at(made, 5)))
      const titles = ['a', 'b', 'note 6', 'c', 'd', 'e']
      const results = await Promise.all(
        made.slice(0, 6).map((note, index) => notes.save(notes.set('title', titles[index] ?? '')(note))()),
      )
      t.strictSame(
        results.map((result) => (E.isRight(result) ? result.right.title : result.left._tag)),
        ['a', 'b', 'DriverError', 'c', 'd', 'RecordGone'],
      )
      const third = results[2]
      t.equal(
        third !== undefined && E.isLeft(third) && third.left._tag === 'DriverError' && third.left.sqlState,
        '23505',
      )
      const found = await all(5, (index) => right(notes.find(database, at(made, index).id)))
      t.strictSame(
        found.map((note) => some(note).title),
        ['a', 'b', 'note 2', 'c', 'd'],
      )
    })

    t.test('in a transaction everything is sent one by one, and the outer handle is refused', async (t) => {
      const { database, notes, fill, names } = await open(inner)
      const made = await fill(2)
      names()
      const result = await transact(database, (tx) => async () => {
        const found = await Promise.all(made.map(({ id }) => notes.find(tx, id)()))
        const outside = await notes.find(database, at(made, 0).id)()
        return E.right([found.map(E.isRight), outside] as const)
      })()
      t.strictSame(names(), ['find', 'find'])
      if (E.isLeft(result)) throw result.left
      const [inside, outside] = result.right
      t.strictSame(inside, [true, true])
      t.equal(E.isLeft(outside) && outside.left._tag === 'DriverError' && outside.left.kind, 'outerHandle')
    })

    t.test('a key of several columns, a revision, and names that could be mistaken', async (t) => {
      const schema = freshSchema()
      await rowsOf(inner, `create schema ${schema}`)
      await rowsOf(
        inner,
        `create table ${schema}.place (k text, n int, at text, ctid2 text, revision int default 1, primary key (k, n))`,
      )
      const { database: counted, events } = counting(inner)
      const database = batchedDatabase(counted)
      const places = record({
        table: `${schema}.place`,
        key: ['k', 'n'],
        columns: { k: text, n: int4, at: text, ctid2: nullable(text), revision: generated(int4) },
        revision: 'revision',
      })
      const made = await all(5, (n) =>
        right(
          pipe(
            TE.fromEither(places.build(database, { k: 'quote " and {', n, at: String(n), ctid2: null })),
            TE.chainW(places.save),
          ),
        ),
      )
      const found = await Promise.all(made.map(({ id }) => right(places.find(database, id))))
      t.strictSame(found.map(some), made)
      events.splice(0)
      const saved = await Promise.all(made.map((place) => right(places.save(places.set('at', 'now')(place)))))
      t.strictSame(
        saved.map(({ n, at, revision }) => [n, at, revision]),
        made.map(({ n }) => [n, 'now', 2]),
      )
      t.equal(events.splice(0).length, 1)
      const stale = await Promise.all(
        made.map((place, index) =>
          places.save(places.set('at', 'stale')(index === 2 ? at(saved, 2) : place))(),
        ),
      )
      t.strictSame(
        stale.map((result) => (E.isRight(result) ? result.right.revision : result.left._tag)),
        ['SaveConflict', 'SaveConflict', 3, 'SaveConflict', 'SaveConflict'],
      )
    })

    for (const name of ['place', 'k', 't', 'r', 'n', 'at'])
      t.test(`a table and columns that are called as what its statements use: ${name}`, async (t) => {
        await rowsOf(inner, `create table "${name}" (k0 int primary key, at text, k int, n int default 1)`)
        t.teardown(() => rowsOf(inner, `drop table "${name}"`))
        const { database: counted, events } = counting(inner)
        const database = batchedDatabase(counted)
        const things = record({
          table: name,
          key: 'k0',
          columns: { k0: int4, at: text, k: nullable(int4), n: generated(int4) },
          revision: 'n',
        })
        const made = await all(4, (k0) =>
          right(
            pipe(TE.fromEither(things.build(database, { k0, at: 'then', k: null })), TE.chainW(things.save)),
          ),
        )
        const saving = made.map((thing) => right(things.save(things.set('at', 'now')(thing))))
        t.strictSame(
          (await Promise.all(saving)).map(({ k0, at, n }) => [k0, at, n]),
          [0, 1, 2, 3].map((k0) => [k0, 'now', 2]),
        )
        const finding = made.map(({ id }) => right(things.find(database, id)))
        t.strictSame(
          (await Promise.all(finding)).map((thing) => some(thing).at),
          ['now', 'now', 'now', 'now'],
        )
        t.strictSame(
          events
            .splice(0)
            .slice(4)
            .map(({ query }) => query.name),
          [`${name}.swap.at.each`, `${name}.findMany`],
        )
      })

    t.test('one more than may wait fails at once', async (t) => {
      const { database, notes, fill } = await open(inner, { maxQueueSize: 3 })
      await fill(1)
      const found = await all(5, () => notes.find(database, ok(notes.id('1')))())
      t.strictSame(found.map(E.isRight), [true, true, true, false, false])
      t.equal(
        E.isLeft(found[4] ?? E.right(0)) && (found[4] as E.Left<{ retryable: boolean }>).left.retryable,
        true,
      )
    })

    t.test('where the statement for many cannot be, each is sent by itself', async (t) => {
      const { notes, fill, names, table, schema, database } = await open(inner)
      const made = await fill(3)
      await rowsOf(inner, `create view ${schema}.lately as select distinct * from ${table}`)
      await rowsOf(
        inner,
        `create function ${schema}.change() returns trigger language plpgsql as $$
         begin update ${table} set body = new.body where id = new.id; return new; end $$`,
      )
      await rowsOf(
        inner,
        `create trigger change instead of update on ${schema}.lately for each row execute function ${schema}.change()`,
      )
      const lately = record({
        table: `${schema}.lately`,
        key: 'id',
        columns: { id: int8, title: text, body: nullable(text) },
      })
      const found = await Promise.all(made.map(({ id }) => right(lately.find(database, ok(lately.id(id))))))
      names()
      for (const body of ['first', 'second']) {
        const saved = await Promise.all(
          found.map((note) => right(lately.save(lately.set('body', body)(some(note))))),
        )
        t.strictSame(
          saved.map(({ body }) => body),
          [body, body, body],
        )
      }
      t.equal(names().filter((name) => name.endsWith('each')).length, 1)
      t.strictSame(
        (await Promise.all(made.map(({ id }) => right(notes.find(database, id))))).map(
          (note) => some(note).body,
        ),
        ['second', 'second', 'second'],
      )
    })
  })

t.test('a row that somebody has locked holds up nobody else', async (t) => {
  const { database: inner, close } = await at(drivers, 0).open()
  t.teardown(close)
  const { database, notes, fill, table } = await open(inner)
  const made = await fill(8)
  const others = made.filter(({ title }) => title !== 'note 3')
  const third = at(
    made.filter(({ title }) => title === 'note 3'),
    0,
  )
  const saving = (note: (typeof made)[0], body: string) => right(notes.save(notes.set('body', body)(note)))
  const [locked, released] = [gate(), gate()]
  const holding = right(
    transact(inner, (tx) => async () => {
      await rowsOf(tx, `select from ${table} where title = 'note 3' for update`)
      locked.open()
      await released.passed
      return E.right(undefined)
    }),
  )
  await locked.passed
  let handle = false
  const waiting = saving(third, 'late').then(() => (handle = true))
  for (const body of ['early', 'again']) await Promise.all(others.map((note) => saving(note, body)))
  t.equal(handle, false)
  released.open()
  await holding
  await waiting
  const found = await Promise.all([third, ...others].map(({ id }) => right(notes.find(database, id))))
  t.strictSame(
    found.map((note) => some(note).body),
    ['late', ...others.map(() => 'again')],
  )
})

t.test('two who save the same rows in opposite orders wait for each other never', async (t) => {
  const { database: inner, close } = await at(drivers, 0).open()
  t.teardown(close)
  const { notes, fill, table } = await open(inner)
  const made = await fill(30)
  const two = [batchedDatabase(inner), batchedDatabase(inner)]
  for (let round = 0; round < 10; round += 1)
    await Promise.all(
      two.map((database, which) =>
        all(30, async (index) => {
          const id = at(made, which === 0 ? index : 29 - index).id
          const note = some(await right(notes.find(database, id)))
          await right(notes.save(notes.update('count', (count) => count + 1)(note)))
        }),
      ),
    )
  t.strictSame(await rowsOf(inner, `select min(count) as least, max(count) as most from ${table}`), [
    { least: 20, most: 20 },
  ])
})
