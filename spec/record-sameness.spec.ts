// Tests concurrent saves of columns of every type. The comparison with the value that was read must not use the type's
// own `=`. Some types have no `=` (json, xml, point). For other types different values are equal (citext, numeric,
// interval, box, texts by collation). Each line of the table has a stored value, and a value that another save stores
// meanwhile.

import * as E from 'fp-ts/lib/Either.js'
import * as O from 'fp-ts/lib/Option.js'
import * as D from 'io-ts'
import t, { type Test } from 'tap'
import { batchedDatabase } from '../lib/db/batched.js'
import type { Database } from '../lib/db/database.js'
import * as R from '../lib/records/index.js'
import { drivers, rowsOf } from './support/databases.js'
import { freshSchema, left, right } from './support/stores.js'

interface Kind {
  /** The column's type in the database. */
  readonly type: string
  readonly column: R.Column<unknown>
  /** The texts of the first value, and of the value that replaces it. */
  readonly first: string
  readonly second: string
  /** The update that the program applies to each value. */
  readonly made: (value: never) => unknown
  /** Whether the two values are equal by the type's own `=`. It is `undefined` for a type without `=`. */
  readonly equal?: boolean
}

const kind = <A>(
  type: string,
  column: R.Column<A>,
  first: string,
  second: string,
  made: (value: A) => NoInfer<A>,
  equal?: boolean,
): Kind => ({
  type,
  column: column as R.Column<unknown>,
  first,
  second,
  made,
  ...(equal === undefined ? {} : { equal }),
})

const other = (sql: string) => R.textual(sql, D.string)

/** Makes an update whose result shows which of the two values it got. */
const either = (first: string, one: string, two: string) => (text: string) => (text === first ? one : two)

const Tree = D.type({ n: D.number })

const kinds: readonly Kind[] = [
  // Without `=`
  kind('json', other('json'), '{"n": 1}', '{"n":  1}', (text) => text.replace('1', '12')),
  kind('json', { ...R.jsonb(Tree), sql: 'json' }, '{"n": 1}', '{"n": 2}', ({ n }) => ({ n: n * 10 })),
  kind('xml', other('xml'), '<a/>', '<a></a>', (text) => `${text}<b/>`),
  kind('point', other('point'), '(1,2)', '(1,2.0000000001)', either('(1,2)', '(3,3)', '(4,4)')),
  kind('json[]', R.array(other('json')), '{1}', '{"1 "}', (items) => [...items, '2']),
  kind('point[]', R.array(other('point')), '{"(1,2)"}', '{"(2,1)"}', (items) => [...items, '(0,0)']),
  kind('leaf', other('leaf'), '(1,{})', '(1,"{ }")', (text) => text.replace('1', '12')),
  kind('tree', other('tree'), '{"n": 1}', '{"n": 1 }', (text) => text.replace('1', '12')),
  // Different values that are equal by the type's `=`
  kind('numeric', other('numeric'), '1.0', '1.00', (text) => `${text}5`, true),
  kind('numeric[]', R.array(other('numeric')), '{1.0}', '{1.00}', ([one]) => [`${String(one)}5`], true),
  kind('numrange', other('numrange'), '[1.0,2)', '[1.00,2)', (text) => text.replace('2', '3'), true),
  kind('priced', other('priced'), '(1.0)', '(1.00)', (text) => text.replace(')', '5)'), true),
  kind('float8', R.float8, '0', '-0', (n) => (Object.is(n, -0) ? 2 : 1), true),
  kind('float4', R.float8, '0', '-0', (n) => (Object.is(n, -0) ? 2 : 1), true),
  kind('interval', other('interval'), '1 day', '24:00:00', either('1 day', '2 days', '02:00:00'), true),
  kind('jsonb', other('jsonb'), '{"n": 1.0}', '{"n": 1.00}', (text) => text.replace('}', ', "z": 2}'), true),
  kind(
    'box',
    other('box'),
    '(1,1),(0,0)',
    '(2,1),(1,1)',
    either('(1,1),(0,0)', '(3,3),(3,3)', '(4,4),(4,4)'),
  ),
  kind(
    'box',
    other('box'),
    '(2,1),(0,0)',
    '(1,2),(0,0)',
    either('(2,1),(0,0)', '(3,3),(3,3)', '(4,4),(4,4)'),
    true,
  ),
  kind(
    'circle',
    other('circle'),
    '<(0,0),1>',
    '<(5,5),1>',
    either('<(0,0),1>', '<(0,0),3>', '<(0,0),4>'),
    true,
  ),
  kind('path', other('path'), '((0,0),(1,1))', '((0,0),(2,2))', (text) => text.replace('((0', '((9'), true),
  kind('text collate loosely', R.text, 'straße', 'STRASSE', (text) => `${text}!`, true),
  kind('varchar(20) collate loosely', other('varchar(20)'), 'a', 'A', (text) => `${text}!`, true),
  kind('text[] collate loosely', R.array(R.text), '{a}', '{A}', (items) => [...items, 'b'], true),
  kind('loose', other('loose'), 'a', 'A', (text) => `${text}!`, true),
  kind(
    'inet',
    other('inet'),
    '10.0.0.1',
    '10.0.0.1/8',
    either('10.0.0.1/32', '10.0.0.2/32', '10.0.0.3/32'),
    false,
  ),
  // Different values that are also different by the type's `=`
  kind('text', R.text, 'a', 'a ', (text) => `${text}|`, false),
  kind('char(4)', R.text, 'a', 'b', (text) => `${text.trim()}c`, false),
  kind('float8', R.float8, 'NaN', 'Infinity', (n) => (Number.isNaN(n) ? 1 : 2), false),
  kind('int4', R.int4, '1', '2', (n) => n * 10, false),
  kind('int8', R.int8, '9007199254740993', '9007199254740992', (n) => n + 10n, false),
  kind('int2', R.int4, '1', '2', (n) => n * 10, false),
  kind('boolean', R.nullable(R.boolean), 'true', 'false', (is) => (is === true ? null : true), false),
  kind('bytea', R.bytea, '\\x01', '\\x0100', (bytes) => Uint8Array.of(7, bytes.length), false),
  kind(
    'uuid',
    R.uuid,
    '00000000-0000-4000-8000-000000000001',
    '00000000-0000-4000-8000-000000000002',
    (id) => id.replace('4', '5'),
    false,
  ),
  kind(
    'timestamptz',
    R.timestamptz,
    '2024-01-01 00:00:00.001+00',
    '2024-01-01 00:00:00.002+00',
    (at) => new Date(at.getTime() + 1000),
    false,
  ),
  kind(
    'timestamptz[]',
    R.array(R.timestamptz),
    '{2024-01-01 00:00:00.001+00}',
    '{2024-01-01 00:00:00.002+00}',
    (all) => [...all, ...all],
    false,
  ),
  kind(
    'mood',
    R.enumeration('mood', ['glad', 'sad', 'both', 'none']),
    'glad',
    'sad',
    (mood) => (mood === 'glad' ? 'both' : 'none'),
    false,
  ),
  kind(
    'mood[]',
    R.array(R.enumeration('mood', ['glad', 'sad'])),
    '{glad}',
    '{sad}',
    (all) => [...all, 'sad' as const],
    false,
  ),
  kind('jsonb', R.jsonb(Tree), '{"n": 1}', '{"n": 2}', ({ n }) => ({ n: n * 10 }), false),
  kind('int4[]', R.array(R.nullable(R.int4)), '{1,NULL}', '{NULL,1}', (all) => [...all, 7], false),
  kind('money', other('money'), '1', '2', (text) => text.replace('.00', '.50'), false),
  kind('bit(3)', other('bit(3)'), '101', '110', either('101', '111', '000'), false),
  kind('tsvector', other('tsvector'), `'a':1`, `'a':2`, (text) => `${text} 'b':7`, false),
  kind('polygon', other('polygon'), '((0,0),(1,1))', '((0,0),(2,2))', (text) => text.replace('((0', '((9')),
]

const citext = kind('citext', other('citext'), 'a', 'A', (text) => `${text}!`, true)

/** Creates the types of the table in a new schema. */
const typesIn = async (database: Database): Promise<string> => {
  const schema = freshSchema()
  for (const text of [
    `create schema ${schema}`,
    `create collation ${schema}.loosely (provider = icu, locale = 'und-u-ks-level1', deterministic = false)`,
    `create type ${schema}.mood as enum ('glad', 'sad', 'both', 'none')`,
    `create type ${schema}.leaf as (n int, j json)`,
    `create type ${schema}.priced as (price numeric)`,
    `create domain ${schema}.tree as json`,
    `create domain ${schema}.loose as text collate ${schema}.loosely`,
  ])
    await rowsOf(database, text)
  return schema
}

const own = /\b(loosely|mood|leaf|priced|tree|loose)\b/

const qualified = (schema: string, type: string): string => type.replace(own, `${schema}.$1`)

const literal = (text: string): string => `'${text.replaceAll("'", "''")}'`

let tables = 0

/** Makes a table with a row and a column `v` of this kind, and its records with and without a revision column. */
const tableOf = async (database: Database, schema: string, { type, column, first }: Kind) => {
  tables += 1
  const table = `${schema}.t${String(tables)}`
  await rowsOf(
    database,
    `create table ${table} (id int primary key, v ${qualified(schema, type)}, w text not null default '', x int not null default 0,
     revision int not null default 0)`,
  )
  await rowsOf(database, `insert into ${table} (id, v) values (1, ${literal(first)})`)
  const columns = {
    id: R.int4,
    v: Object.freeze({ ...column, sql: qualified(schema, column.sql) }),
    w: R.text,
    x: R.generated(R.int4),
  }
  const plain = R.record({ table, key: 'id', columns })
  const revised = R.record({
    table,
    key: 'id',
    columns: { ...columns, revision: R.generated(R.int4) },
    revision: 'revision',
  })
  const id = E.getOrElseW((error: Error) => {
    throw error
  })(plain.id(1))
  const found = async <A>(
    definition: { find: typeof plain.find } | { find: typeof revised.find },
    handle: Database,
  ) => {
    const row = O.toNullable(await right(definition.find(handle, id)))
    if (row === null) throw new Error('there is no row')
    return row as A
  }
  const store = (text: string, more = '') =>
    rowsOf(database, `update ${table} set v = ${literal(text)}${more}`)
  return { table, plain, revised, found, store }
}

type Plain = Awaited<ReturnType<typeof tableOf>>['plain']
type Revised = Awaited<ReturnType<typeof tableOf>>['revised']
type PlainRow = Parameters<Plain['refresh']>[0]
type RevisedRow = Parameters<Revised['refresh']>[0]

const eachKind = (t: Test, database: Database, schema: string, kind: Kind): void => {
  const { type, column, first, second, equal } = kind
  const made = kind.made as (value: unknown) => unknown
  t.test(`${type}: ${first}, then ${second}`, async (t) => {
    const { table, plain, revised, found, store } = await tableOf(database, schema, kind)
    const batched = batchedDatabase(database)
    const inRow = async () => (await found<PlainRow>(plain, database)).v
    if (equal !== undefined && !/\bcollate\b|loose/.test(type)) {
      const of = qualified(schema, type)
      const [same] = await rowsOf(
        database,
        `select ${literal(first)}::${of} = ${literal(second)}::${of} as same`,
      )
      t.equal(same?.['same'], equal, 'the type is as loose as the table says')
    }
    const present = await inRow()
    await store(second)
    const decoded = { first: present, second: await inRow() }
    t.notSame(made(decoded.first), made(decoded.second), 'it shows which one was updated')

    for (const [name, handle] of [
      ['alone', database],
      ['batched', batched],
    ] as const) {
      await store(first)
      const row = await found<PlainRow>(plain, handle)
      t.strictSame(
        (await right(plain.save(plain.update('v', made)(row)))).v,
        made(decoded.first),
        `an update: ${name}`,
      )
      t.strictSame(await inRow(), made(decoded.first))

      for (const more of [false, true]) {
        await store(first)
        const before = await found<PlainRow>(plain, handle)
        await store(second)
        const edited = plain.update('v', made)(before)
        const saved = await right(plain.save(more ? plain.set('w', 'too')(edited) : edited))
        t.strictSame(
          saved.v,
          made(decoded.second),
          `done on what is there now: ${name}, ${more ? 'two columns' : 'one'}`,
        )
        t.strictSame(await inRow(), made(decoded.second))
      }
    }

    await store(first)
    const [one, two] = [await found<PlainRow>(plain, database), await found<PlainRow>(plain, batched)]
    await Promise.all([
      right(plain.save(plain.update('x', (x) => x + 1)(one))),
      right(plain.save(plain.update('x', (x) => x + 10)(two))),
    ])
    await rowsOf(database, `update ${table} set v = null`)
    const [nothing] = await rowsOf(database, `select x, v is null as nothing from ${table}`)
    t.strictSame(nothing, { x: 11, nothing: true })
    const nullable = R.record({
      table,
      key: 'id',
      columns: { id: R.int4, v: R.nullable({ ...column, sql: qualified(schema, column.sql) }) },
    })
    const none = O.toNullable(await right(nullable.find(database, 1 as never)))
    if (none === null) throw new Error('there is no row')
    const filled = nullable.update('v', (v) => (v === null ? decoded.first : made(v)))
    t.strictSame((await right(nullable.save(filled(none)))).v, decoded.first, 'from null')
    t.strictSame(
      (await right(nullable.save(filled(none)))).v,
      made(decoded.first),
      'from null, which it is no more',
    )

    await store(first, ', revision = 1')
    const mine = await found<RevisedRow>(revised, database)
    await store(second, ', revision = revision + 1')
    t.match(await left(revised.save(revised.set('v', made(decoded.first))(mine))), {
      _tag: 'SaveConflict',
      what: 'v',
    })
    t.strictSame(
      (await right(revised.save(revised.update('v', made)(mine)))).v,
      made(decoded.second),
      'an update is done again',
    )

    await store(first)
    const untouched = await found<RevisedRow>(revised, database)
    await right(revised.save(revised.set('w', 'mine')(await found<RevisedRow>(revised, database))))
    const kept = await right(revised.save(revised.set('v', made(decoded.first))(untouched)))
    t.strictSame([kept.v, kept.w], [made(decoded.first), 'mine'], 'another column is no conflict')
    t.strictSame(await right(revised.save(revised.set('x', 5)(untouched))).then(({ v, w, x }) => [v, w, x]), [
      made(decoded.first),
      'mine',
      5,
    ])
  })
}

for (const driver of drivers)
  t.test(driver.name, async (t) => {
    const { database, close } = await driver.open()
    t.teardown(close)
    const schema = await typesIn(database)
    for (const one of kinds) eachKind(t, database, schema, one)

    if (driver.name === 'postgres.js') {
      await rowsOf(database, `create extension if not exists citext`)
      eachKind(t, database, schema, citext)
    }

    t.test('many at once on one value without an `=`: each counts', async (t) => {
      const counted = {
        ...kind('json', { ...R.jsonb(Tree), sql: 'json' }, '{"n": 0}', '{"n": 0}', (value) => value),
      }
      const { plain, found } = await tableOf(database, schema, counted)
      const row = await found<PlainRow>(plain, database)
      const batched = batchedDatabase(database)
      const more = plain.update('v', (value) => ({ n: (value as { n: number }).n + 1 }))
      await Promise.all(
        Array.from({ length: 20 }, (_, index) =>
          right(plain.save(more(index % 2 === 0 ? row : R.withHandle(batched)(row)))),
        ),
      )
      t.strictSame((await found<PlainRow>(plain, database)).v, { n: 20 })
    })

    t.test('a time whose microseconds were not read is left as it is', async (t) => {
      const at = kind(
        'timestamptz',
        R.timestamptz,
        '2024-01-01 00:00:00.001002+00',
        '2024-01-01 00:00:00.001003+00',
        (value) => value,
      )
      const { table, revised, found } = await tableOf(database, schema, at)
      const row = await found<RevisedRow>(revised, database)
      await right(revised.save(revised.set('w', 'x')(row)))
      const [stored] = await rowsOf(
        database,
        `select (extract(microseconds from v))::int as micros from ${table}`,
      )
      t.strictSame(stored, { micros: 1002 })
    })

    t.test('settings that change how values are written make no conflict by themselves', async (t) => {
      const { plain, found } = await tableOf(
        database,
        schema,
        kind(
          'timestamptz',
          other('timestamptz'),
          '2024-01-01 00:00:00+00',
          '2024-01-02 00:00:00+00',
          (value) => value,
        ),
      )
      const row = await found<PlainRow>(plain, database)
      const saved = await right(
        R.transact(database, (tx) => async () => {
          await right(tx.query({ name: 'zone', text: `set local timezone to 'Asia/Kolkata'` }, []))
          return plain.save(
            plain.update('v', (text) => String(text).replace('2024', '2025'))(R.withHandle(tx)(row)),
          )()
        }),
      )
      t.equal(new Date(String(saved.v)).getTime(), Date.UTC(2025, 0, 1))
    })
  })
