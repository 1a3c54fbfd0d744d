// Tests records on both drivers: results, statements, and concurrent requests.

import * as E from 'fp-ts/lib/Either.js'
import { flow, pipe } from 'fp-ts/lib/function.js'
import * as O from 'fp-ts/lib/Option.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import * as D from 'io-ts'
import t, { type Test } from 'tap'
import type { Database } from '../lib/db/database.js'
import * as K from '../lib/index.js'
import * as R from '../lib/records/index.js'
import { counting, drivers, rowsOf } from './support/databases.js'
import { freshSchema, left, right } from './support/stores.js'

/** Returns the right value of an `Either`. A left value fails the test. */
const ok = <A>(either: E.Either<unknown, A>): A => {
  if (E.isLeft(either)) throw either.left as Error
  return either.right
}

const some = <A>(option: O.Option<A>): A => {
  if (O.isNone(option)) throw new Error('nothing was found')
  return option.value
}

const thrownBy = (act: () => unknown): unknown => {
  try {
    return act()
  } catch (error) {
    return error
  }
}

const run = (database: Database, text: string) => rowsOf(database, text)

const Point = D.type({ x: D.number, y: D.number })

/** Makes a table with a column of every type. */
const thingsIn = async (database: Database) => {
  const schema = freshSchema()
  await run(database, `create schema ${schema}`)
  await run(database, `create type ${schema}.mood as enum ('glad', 'so "so"', 'sad,\\')`)
  await run(
    database,
    `create table ${schema}.thing (id bigserial primary key, small int, big int8, half float8, yes boolean, u uuid,
       at timestamptz, point jsonb, bytes bytea, mood ${schema}.mood, price numeric, words text[], bigs int8[], times timestamptz[],
       moods ${schema}.mood[], points jsonb[], blobs bytea[], flags boolean[], "odd ""name" text, "__proto__" text)`,
  )
  const mood = R.enumeration(`${schema}.mood`, ['glad', 'so "so"', 'sad,\\'])
  const things = R.record({
    table: `${schema}.thing`,
    key: 'id',
    columns: {
      id: R.generated(R.int8),
      small: R.int4,
      big: R.int8,
      half: R.float8,
      yes: R.boolean,
      u: R.uuid,
      at: R.timestamptz,
      point: R.jsonb(Point),
      bytes: R.bytea,
      mood: R.nullable(mood),
      price: R.textual('numeric', D.string),
      words: R.array(R.nullable(R.text)),
      bigs: R.array(R.int8),
      times: R.array(R.timestamptz),
      moods: R.array(mood),
      points: R.array(R.jsonb(Point)),
      blobs: R.array(R.bytea),
      flags: R.array(R.boolean),
      odd: R.nullable(R.text),
      ['__proto__']: R.text,
    },
    names: { odd: 'odd "name' },
  })
  return { schema, things }
}

const thing = {
  small: -2147483648,
  big: 9223372036854775807n,
  half: -0,
  yes: false,
  u: '2f6d1a52-8ac5-4b7e-9a37-0d1f6c1f0a11',
  at: new Date('2026-11-22T19:03:29.123Z'),
  point: { x: 1, y: -1e300 },
  bytes: Uint8Array.of(0, 255, 92),
  mood: null,
  price: '12345678901234567890.123456789',
  words: ['', 'NULL', null, 'a"b', 'c\\d', '{x,y}', ' é\n', '\\x00'],
  bigs: [-9223372036854775808n, 0n],
  times: [new Date('0001-01-01T00:00:00.000Z'), new Date('9999-12-31T23:59:59.999Z')],
  moods: ['sad,\\', 'so "so"'] as const,
  points: [{ x: 0, y: 2 }],
  blobs: [Uint8Array.of(), Uint8Array.of(1)],
  flags: [true, false],
  odd: '__proto__',
  ['__proto__']: 'polluted?',
}

const decodingSpec = (t: Test, database: Database): void => {
  t.test('every type of column goes in and comes back as its codec says', async (t) => {
    const { things, schema } = await thingsIn(database)
    const built = ok(things.build(database, thing))
    const saved = await right(things.save(built))
    t.equal(saved.id, 1n)
    t.strictSame(saved, { id: 1n, ...thing })
    t.ok(Object.hasOwn(saved, '__proto__') && Object.getPrototypeOf(saved) === Object.prototype)
    const found = some(await right(things.find(database, saved.id)))
    t.strictSame(found, { id: 1n, ...thing })
    t.equal(found.handle, database)
    t.equal(Object.getPrototypeOf(found.bytes), Uint8Array.prototype)
    const [first] = await right(
      R.queryMany(database, things, R.sql`select ${things.rowOf('t')} from ${part(`${schema}.thing`)} t`),
    )
    t.strictSame(first, { id: 1n, ...thing })
    const elsewhere = R.transact(database, (tx) => async () => {
      const here = `set local timezone to 'Asia/Kathmandu'; `
      await run(tx, here)
      await run(tx, `set local datestyle to 'German, DMY'`)
      await run(tx, 'set local bytea_output to escape')
      return things.find(tx, saved.id)()
    })
    t.strictSame(some(await right(elsewhere)), { id: 1n, ...thing })
    const empty = { ...thing, words: [], bigs: [], times: [], moods: [], points: [], blobs: [], flags: [] }
    const emptied = await right(things.save(ok(things.build(database, empty))))
    t.strictSame(emptied, { id: 2n, ...empty })
  })

  t.test(
    'what cannot be stored is refused with the name of its column, at the build and at the edit',
    async (t) => {
      const { things } = await thingsIn(database)
      const wrong: readonly (readonly [keyof typeof thing, unknown])[] = [
        ['small', 2147483648],
        ['small', 1.5],
        ['small', '1'],
        ['small', undefined],
        ['small', null],
        ['big', 9223372036854775808n],
        ['big', 1],
        ['half', '1'],
        ['yes', 'true'],
        ['u', 'no uuid'],
        ['at', new Date(Number.NaN)],
        ['at', new Date(8.64e15)],
        ['at', '2026-01-01'],
        ['point', { x: Number.NaN, y: 1 }],
        ['point', { x: 1 }],
        ['bytes', [1]],
        ['mood', 'angry'],
        ['price', 1],
        ['words', ['a\u0000']],
        ['words', ['\ud800']],
        ['words', 'text'],
        ['words', Array(1)],
        ['bigs', [null]],
        ['odd', 'a\u0000'],
        ['odd', undefined],
        ['__proto__', 7],
      ]
      const saved = await right(things.save(ok(things.build(database, thing))))
      for (const [column, value] of wrong) {
        const given: object = Object.fromEntries([
          ...Object.entries(thing).filter(([name]) => name !== column),
          [column, value],
        ])
        t.match(
          things.build(database, given as typeof thing),
          { _tag: 'Left', left: { _tag: 'EncodeError', key: column } },
          column,
        )
        t.match(
          thrownBy(() => things.set(column, value as never)(saved)),
          { _tag: 'EncodeError', key: column },
        )
        t.match(
          thrownBy(() => things.update(column, () => value as never)(saved)),
          { _tag: 'EncodeError', key: column },
        )
      }
      const less = Object.fromEntries(Object.entries(thing).filter(([name]) => name !== 'small'))
      t.match(things.build(database, less as never), { left: { _tag: 'EncodeError', key: 'small' } })
      const more = { ...thing, admin: true }
      t.match(things.build(database, more), { left: { _tag: 'EncodeError', key: 'admin' } })
      t.match(things.build(database, { ...thing, id: 7n } as typeof thing), { left: { key: 'id' } })
      for (const column of ['id', 'admin', 'constructor', '__proto__x'])
        t.match(
          thrownBy(() => things.set(column as 'odd', 'x')(saved)),
          { _tag: 'EncodeError', key: column },
        )
      t.match(things.id('x'), { _tag: 'Left', left: { key: 'id' } })
      t.strictSame(things.id('12'), E.right(12n))
      t.match(await left(things.find(database, 'x' as never)), { _tag: 'EncodeError', key: 'id' })
    },
  )

  t.test('a row that does not fit is a DecodeError that names the column, and counts the row', async (t) => {
    const { things, schema } = await thingsIn(database)
    const saved = await right(things.save(ok(things.build(database, thing))))
    await right(things.save(ok(things.build(database, thing))))
    const spoiled = [
      [`point = '{"x": 1}'`, 'point'],
      [`at = 'infinity'`, 'at'],
      [`at = '0044-03-15 BC'`, 'at'],
      ['small = null', 'small'],
      [`times = '{infinity}'`, 'times'],
      [`bigs = '{{1},{2}}'`, 'bigs'],
      [`bigs = '{1,null}'`, 'bigs'],
    ] as const
    for (const [spoil, column] of spoiled) {
      const result = await left(
        R.transact(database, (tx) => async () => {
          await right(
            tx.query({ name: 'spoil', text: `update ${schema}.thing set ${spoil} where id = 2` }, []),
          )
          const id = ok(things.id('2'))
          t.match(await left(things.find(tx, id)), { _tag: 'DecodeError', key: column }, spoil)
          return R.queryMany(
            tx,
            things,
            R.sql`select ${things.row} from ${part(`${schema}.thing`)} order by 1`,
          )()
        }),
      )
      t.match(result, { _tag: 'DecodeError', key: column, row: 1 }, spoil)
    }
    t.match(await left(R.queryMany(database, things, R.sql`select * from ${part(`${schema}.thing`)}`)), {
      _tag: 'DecodeError',
      key: 'id',
      row: 0,
    })
    const codec = D.type({ n: D.number, s: D.string })
    const mixed = R.sql`select 1 as n, case n when 3 then null else 'x' end as s from generate_series(1, 3) as n`
    t.match(await left(R.queryMany(database, codec, mixed)), { _tag: 'DecodeError', key: 's', row: 2 })
    t.match(await right(R.queryOne(database, codec, mixed)), O.some({ n: 1, s: 'x' }))
    t.match(await right(R.queryOne(database, codec, R.sql`select 1 where false`)), O.none)
    const throwing = new D.Type<number>(
      'throwing',
      D.number.is,
      () => {
        throw new Error('mine')
      },
      D.identity,
    )
    t.match(await left(R.queryMany(database, throwing, R.sql`select 1`)), {
      _tag: 'DecodeError',
      key: 'row',
      row: 0,
    })
    t.equal(saved.id, 1n)
  })
}

/** Makes a part of a statement from a text. */
const part = (text: string) => R.sql(Object.assign([text], { raw: [text] }))

const notesIn = async (database: Database) => {
  const schema = freshSchema()
  await run(database, `create schema ${schema}`)
  const columns = 'title text not null, body text, word_count int not null default 0, tags text[] not null'
  await run(
    database,
    `create table ${schema}.note (id uuid primary key default gen_random_uuid(), ${columns})`,
  )
  await run(
    database,
    `create table ${schema}.counted (id uuid primary key default gen_random_uuid(), ${columns}, revision int8 not null default 1)`,
  )
  const shared = {
    id: R.generated(R.uuid),
    title: R.text,
    body: R.nullable(R.text),
    wordCount: R.generated(R.int4),
    tags: R.array(R.text),
  }
  const notes = R.record({ table: `${schema}.note`, key: 'id', columns: shared })
  const counted = R.record({
    table: `${schema}.counted`,
    key: 'id',
    columns: { ...shared, revision: R.generated(R.int8) },
    revision: 'revision',
  })
  // Records with and without a revision column, for tests of both.
  const both = [notes, counted as unknown as typeof notes] as const
  return { schema, notes, counted, both }
}

const given = { title: 'Tea', body: null, tags: [] }

const savingSpec = (t: Test, plain: Database): void => {
  t.test('a record is a frozen handle, id and columns; editing is pure', async (t) => {
    const { notes } = await notesIn(plain)
    const built = ok(notes.build(plain, given))
    t.strictSame(built, given)
    t.equal(built.handle, plain)
    t.notOk('id' in built)
    const note = await right(notes.save(built))
    t.strictSame(Object.keys(note), ['id', 'title', 'body', 'wordCount', 'tags'])
    t.ok(Object.isFrozen(note) && Object.isFrozen(note.tags))
    const milk = pipe(
      note,
      notes.set('title', 'Milk'),
      notes.update('wordCount', (n) => n + 1),
    )
    t.strictSame([note.title, note.wordCount, milk.title, milk.wordCount], ['Tea', 0, 'Milk', 1])
    t.equal(notes.set('title', 'Tea')(note), note)
    t.equal(notes.set('tags', [])(note), note)
    t.throws(() => notes.set('title', 'x')({ ...note }), TypeError)
    const { counted } = await notesIn(plain)
    t.throws(() => counted.set('title', 'x')(note), TypeError)
    const tags = ['a']
    const tagged = notes.set('tags', tags)(note)
    tags.push('b')
    t.strictSame(tagged.tags, ['a'])
  })

  t.test(
    'statements: one to insert, none for nothing, one for what was edited, of the edited columns alone',
    async (t) => {
      const { database, events } = counting(plain)
      const { notes, schema } = await notesIn(plain)
      const names = () => events.splice(0).map(({ query }) => query.name.slice(schema.length + 1))
      const note = await right(notes.save(ok(notes.build(database, given))))
      t.strictSame(names(), ['note.insert'])
      t.equal(await right(notes.save(note)), note)
      t.strictSame(names(), [])
      const milk = await right(notes.save(notes.set('title', 'Milk')(note)))
      t.strictSame(names(), ['note.set.title'])
      await right(notes.save(notes.update('wordCount', (n) => n + 1)(note)))
      t.strictSame(names(), ['note.swap.wordCount'])
      const both = flow(notes.set('title', 'Beer'), notes.set('body', 'x'))
      t.match(await right(notes.save(both(milk))), { title: 'Beer', body: 'x', wordCount: 1 })
      t.strictSame(names(), ['note.setAny'])
      const texts = new Set(Object.values(notes.statements).map(({ text }) => text))
      await right(notes.save(both(note)))
      for (const { query } of events) t.ok(texts.has(query.text), query.name)
    },
  )

  t.test('requests that edit different columns keep both; a save gives what the others saved', async (t) => {
    const { both } = await notesIn(plain)
    for (const record of both) {
      const note = await right(record.save(ok(record.build(plain, given))))
      await right(record.save(record.set('title', 'Milk')(note)))
      t.match(await right(record.save(record.set('body', 'white')(note))), {
        title: 'Milk',
        body: 'white',
      })
      await right(
        record.save(
          pipe(
            note,
            record.set('tags', ['x']),
            record.update('wordCount', (n) => n + 2),
          ),
        ),
      )
      t.match(some(await right(record.find(plain, note.id))), {
        title: 'Milk',
        body: 'white',
        tags: ['x'],
        wordCount: 2,
      })
    }
  })

  t.test(
    'an update is replayed on the present value, with a revision or without, and of many at once none is lost',
    async (t) => {
      const { both } = await notesIn(plain)
      for (const record of both) {
        const note = await right(record.save(ok(record.build(plain, given))))
        const increment = record.update('wordCount', (n) => n + 1)
        await Promise.all(Array.from({ length: 20 }, () => right(record.save(increment(note)))))
        await right(
          record.save(
            pipe(
              note,
              increment,
              increment,
              record.update('tags', (tags) => [...tags, 'x']),
            ),
          ),
        )
        t.match(some(await right(record.find(plain, note.id))), { wordCount: 22, tags: ['x'] })
      }
    },
  )

  t.test(
    'a stale set is a conflict where there is a revision, for that column only; else the later one wins',
    async (t) => {
      const { notes, counted } = await notesIn(plain)
      const note = await right(counted.save(ok(counted.build(plain, given))))
      const milk = await right(counted.save(counted.set('title', 'Milk')(note)))
      t.strictSame([note.revision, milk.revision], [1n, 2n])
      const stale = pipe(note, counted.set('body', 'x'), counted.set('title', 'Beer'))
      t.match(await left(counted.save(stale)), { _tag: 'SaveConflict', id: note.id, what: 'title' })
      t.match(some(await right(counted.find(plain, note.id))), { title: 'Milk', body: null, revision: 2n })
      const fresh = await right(counted.refresh(stale))
      t.match(await right(counted.save(fresh)), { title: 'Beer', body: 'x', revision: 3n })
      const blind = await right(notes.save(ok(notes.build(plain, given))))
      await right(notes.save(notes.set('title', 'Milk')(blind)))
      t.match(await right(notes.save(notes.set('title', 'Beer')(blind))), { title: 'Beer' })
    },
  )

  t.test('what an update throws comes out, and nothing is stored', async (t) => {
    const { notes } = await notesIn(plain)
    const note = await right(notes.save(ok(notes.build(plain, given))))
    const thrown = new Error('mine')
    const once = notes.update('wordCount', (n) => {
      if (n > 0) throw thrown
      return n + 1
    })(note)
    const large = notes.update('wordCount', (n) => (n > 0 ? 2 ** 31 : 1))(note)
    await right(notes.save(notes.set('wordCount', 5)(note)))
    await t.rejects(notes.save(once)(), thrown)
    t.match(await left(notes.save(large)), { _tag: 'EncodeError', key: 'wordCount' })
    t.equal(some(await right(notes.find(plain, note.id))).wordCount, 5)
  })

  t.test(
    'what has gone is told: by find as none, by save and refresh as RecordGone; destroying is idempotent',
    async (t) => {
      const { both } = await notesIn(plain)
      for (const record of both) {
        const note = await right(record.save(ok(record.build(plain, given))))
        await right(record.destroy(note))
        await right(record.destroy(note))
        t.match(await right(record.find(plain, note.id)), O.none)
        for (const edit of [record.set('title', 'x'), record.update('wordCount', (n) => n + 1)])
          t.match(await left(record.save(edit(note))), { _tag: 'RecordGone', id: note.id })
        t.match(await left(record.refresh(note)), { _tag: 'RecordGone' })
      }
      t.equal(K.isSessionError(new R.RecordGone('x', '1')), false)
      t.equal(R.isRecordError(new R.RecordGone('x', '1')), true)
      t.equal(R.isRecordError(new K.SessionGone('x')), false)
    },
  )
}

const relationSpec = (t: Test, plain: Database): void => {
  t.test(
    'relations: one parent, many by one statement, through a table between; composite keys',
    async (t) => {
      const schema = freshSchema()
      await run(plain, `create schema ${schema}`)
      await run(
        plain,
        `create table ${schema}.author (id int generated always as identity primary key, name text)`,
      )
      await run(
        plain,
        `create table ${schema}.book (id bigserial primary key, author_id int references ${schema}.author, title text)`,
      )
      await run(plain, `create table ${schema}.shelf (name text primary key)`)
      await run(
        plain,
        `create table ${schema}.place (book_id int8 references ${schema}.book, shelf_name text references ${schema}.shelf, at int default 0, primary key (book_id, shelf_name))`,
      )
      const authors = R.record({
        table: `${schema}.author`,
        key: 'id',
        columns: { id: R.generated(R.int4), name: R.text },
      })
      const books = R.record({
        table: `${schema}.book`,
        key: 'id',
        columns: { id: R.generated(R.int8), authorId: R.nullable(authors.reference), title: R.text },
      })
      const shelves = R.record({ table: `${schema}.shelf`, key: 'name', columns: { name: R.text } })
      const places = R.record({
        table: `${schema}.place`,
        key: ['bookId', 'shelfName'],
        columns: { bookId: books.reference, shelfName: shelves.reference, at: R.generated(R.int4) },
      })
      const booksOf = books.hasMany('authorId')
      const shelvesOf = shelves.hasManyThrough(places, 'bookId', 'shelfName')
      const { database, events } = counting(plain)
      const author = (name: string) => right(authors.save(ok(authors.build(database, { name }))))
      const book = (authorId: number | null, title: string) =>
        right(books.save(ok(books.build(database, { authorId: authorId as never, title }))))
      const [ada, bob, eve] = [await author('Ada'), await author('Bob'), await author('Eve')]
      const [a, b, c] = [await book(ada.id, 'A'), await book(ada.id, 'B'), await book(bob.id, 'C')]
      await book(null, 'Nobody’s')
      const shelf = await right(shelves.save(ok(shelves.build(database, { name: 'top' }))))
      const place = await right(
        places.save(ok(places.build(database, { bookId: a.id, shelfName: shelf.id }))),
      )
      t.strictSame(place.id, { bookId: a.id, shelfName: 'top' })
      t.match(await right(places.save(places.set('at', 7)(place))), { at: 7 })
      t.match(some(await right(places.find(database, place.id))), { at: 7 })
      const mine = ok(places.id({ bookId: '1', shelfName: 'top' }))
      t.strictSame((await right(places.findMany(database, [mine, place.id]))).map(O.isSome), [true, true])
      events.length = 0
      t.strictSame(
        (await right(booksOf(ada))).map(({ title }) => title),
        ['A', 'B'],
      )
      const each = await right(booksOf.preload([eve, ada, bob, ada]))
      t.strictSame(
        each.map(([{ name }, found]) => [name, ...found.map(({ title }) => title)]),
        [['Eve'], ['Ada', 'A', 'B'], ['Bob', 'C'], ['Ada', 'A', 'B']],
      )
      t.strictSame(await right(booksOf.preload([])), [])
      t.strictSame(
        (await right(shelvesOf.preload([a, b]))).map(([, found]) => found.length),
        [1, 0],
      )
      const found = await right(books.findMany(database, [c.id, ok(books.id('99')), a.id, c.id]))
      t.strictSame(found.map(O.map(({ title }) => title)), [O.some('C'), O.none, O.some('A'), O.some('C')])
      t.strictSame(await right(books.findMany(database, [])), [])
      t.equal(events.length, 4)
      await right(places.destroy(place))
      t.match(await right(places.find(database, place.id)), O.none)
      t.match(await left(books.save(books.set('authorId', ok(authors.id('99')))(a))), { kind: 'foreignKey' })
    },
  )
}

const streamSpec = (t: Test, plain: Database): void => {
  const Row = D.type({ n: D.number })
  const numbers = R.sql`-- numbers.all
    select n from generate_series(1, ${100_000}::int) as n`

  t.test('a stream holds a hundred rows at once and ends its transaction with its consumer', async (t) => {
    const { database, events } = counting(plain)
    const sum =
      (rows: AsyncIterable<E.Either<unknown, { readonly n: number }>>, least: number) => async () => {
        let total = 0
        for await (const row of rows) {
          total += ok(row).n
          if (ok(row).n >= least) break
        }
        return E.right(total)
      }
    t.equal(await right(R.queryStream(database, Row, numbers, (rows) => sum(rows, 250))), (250 * 251) / 2)
    t.strictSame(
      events.map(({ query }) => query.name),
      ['numbers.all', ...Array.from({ length: 3 }, () => 'numbers.all.fetch'), 'numbers.all.close'],
    )
    t.ok(events.every(({ rows }) => (rows?.length ?? 0) <= 100))
    const all = (rows: AsyncIterable<E.Either<unknown, { readonly n: number }>>) =>
      sum(rows, Number.POSITIVE_INFINITY)
    const thousand = R.sql`select n from generate_series(1, 1000) as n`
    t.equal(await right(R.queryStream(database, Row, thousand, all)), (1000 * 1001) / 2)
    t.strictSame(await run(database, "select name from pg_cursors where name like 'keyrow%'"), [])
    const thrown = new Error('mine')
    const throwing = R.queryStream(database, Row, numbers, (rows) => async () => {
      for await (const row of rows) if (E.isRight(row)) throw thrown
      return E.right(1)
    })
    await t.rejects(throwing(), thrown)
    t.equal(await left(R.queryStream(database, Row, numbers, () => TE.left('no'))), 'no')
    let kept: AsyncIterable<E.Either<unknown, unknown>> | undefined
    await right(R.queryStream(database, Row, numbers, (rows) => TE.fromIO(() => (kept = rows))))
    for await (const late of kept ?? []) t.match(late, { left: { kind: 'transactionOver' } })
  })

  t.test('a stream in a stream, records of a stream, and a failure in the midst', async (t) => {
    const { notes, schema } = await notesIn(plain)
    await run(
      plain,
      `insert into ${schema}.note (title, tags) select 'n' || n, '{}' from generate_series(1, 150) n`,
    )
    const every = R.sql`select ${notes.row} from ${part(`${schema}.note`)}`
    const shout = R.queryStream(plain, notes, every, (rows, tx) => async () => {
      for await (const row of rows) {
        const inner = R.queryStream(tx, Row, numbers, (more) => async () => {
          for await (const first of more) return E.right(ok(first).n)
          return E.right(0)
        })
        t.equal(await right(inner), 1)
        await right(notes.save(notes.set('body', 'loud')(ok(row))))
        t.match(await notes.find(plain, ok(row).id)(), { left: { kind: 'outerHandle' } })
      }
      return E.right(undefined)
    })
    await right(shout)
    t.strictSame(await run(plain, `select count(*)::int as n from ${schema}.note where body = 'loud'`), [
      { n: 150 },
    ])
    const failing = R.sql`select 10 / (3 - n) as n from generate_series(1, 5) as n`
    const seen: unknown[] = []
    const outcome = await R.queryStream(plain, Row, failing, (rows) => async () => {
      for await (const row of rows) seen.push(row._tag)
      return E.right('done')
    })()
    t.match(outcome, { _tag: 'Left', left: { sqlState: '22012' } })
    t.strictSame(seen, ['Left'])
    const odd = R.sql`select case n when 2 then null else n end as n from generate_series(1, 5) as n`
    const rows: unknown[] = []
    await right(
      R.queryStream(plain, Row, odd, (found) => async () => {
        for await (const row of found) rows.push(row)
        return E.right(undefined)
      }),
    )
    t.match(rows, [E.right({ n: 1 }), { left: { _tag: 'DecodeError', key: 'n', row: 1 } }])
  })
}

for (const driver of drivers)
  t.test(driver.name, async (t) => {
    const { database, close } = await driver.open()
    t.teardown(close)
    decodingSpec(t, database)
    savingSpec(t, database)
    relationSpec(t, database)
    streamSpec(t, database)
  })
