// Tests that a parameter means the same as a quoted literal, and that values are read alike. Both hold on both drivers
// and with any options of the program's pool. The table has a line for each type and value. Each value is tested in
// every possible form of parameter.

import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import * as D from 'io-ts'
import type pg from 'pg'
import type postgres from 'postgres'
import t, { type Test } from 'tap'
import { batchedDatabase } from '../lib/db/batched.js'
import type { Database, Param, Queryable, Row } from '../lib/db/database.js'
import { type PgOptions, pgDatabase } from '../lib/db/pg.js'
import { pgliteDatabase } from '../lib/db/pglite.js'
import { postgresDatabase } from '../lib/db/postgres/index.js'
import type * as K from '../lib/index.js'
import * as R from '../lib/records/index.js'
import { pgPool, quietPools, replaceTypeParsers, rowsOf, serverDrivers } from './support/databases.js'
import { specDatabaseUrl } from './support/postgres-server.js'
import { dropSchemas, freshSchema, left, right } from './support/stores.js'

const { url, stop } = await specDatabaseUrl()

const utc = (text: string) => new Date(text)

/** Each line has a type, a text, other parameters with the same meaning, and the value that is read. */
const table: readonly (readonly [type: string, text: string, others: readonly Param[], read: unknown])[] = [
  ['text', `it's "é" \\x00 \u{1f600}`, [], `it's "é" \\x00 \u{1f600}`],
  ['text', 'true', [true], 'true'],
  ['text', '-0', [-0], '-0'],
  ['text', '9007199254740993', [9007199254740993n], '9007199254740993'],
  ['text', '', [], ''],
  ['varchar(3)', 'abcd', [], 'abc'],
  ['char(4)', 'ab', [], 'ab  '],
  ['name', 'x', [], 'x'],
  ['jsonb', '{"a": [1, "b", null], "__proto__": 1}', [], JSON.parse('{"a": [1, "b", null], "__proto__": 1}')],
  ['jsonb', '"text"', [], 'text'],
  ['jsonb', '1.50', [], 1.5],
  ['jsonb', 'true', [true], true],
  ['jsonb', '17', [17, 17n], 17],
  ['jsonb', 'null', [], null],
  ['json', '{"a":  1}', [], { a: 1 }],
  ['json', '[1]', [], [1]],
  ['json', 'false', [false], false],
  ['boolean', 'true', [true], true],
  ['boolean', 'false', [false], false],
  ['boolean', 'of', [], false],
  ['boolean', ' YES ', [], true],
  ['boolean', '1', [1, 1n], true],
  ['boolean', '0', [0, 0n], false],
  ['int2', '-7', [-7, -7n], -7],
  ['int4', '42', [42, 42n], 42],
  ['int4', '1', [1], 1],
  ['oid', '4294967295', [4294967295], 4294967295],
  ['int8', '9007199254740993', [9007199254740993n], 9007199254740993n],
  ['int8', '5', [5], 5n],
  ['float4', '0.1', [0.1], 0.1],
  ['float8', '0.1', [0.1], 0.1],
  ['float8', '-0', [-0], -0],
  ['float8', '1e+21', [1e21], 1e21],
  ['float8', 'NaN', [Number.NaN], Number.NaN],
  ['float8', '-Infinity', [Number.NEGATIVE_INFINITY], Number.NEGATIVE_INFINITY],
  ['numeric', '1.10', [], '1.10'],
  ['numeric', '12345678901234567890', [12345678901234567890n], '12345678901234567890'],
  ['money', '1.50', [1.5], '$1.50'],
  ['bytea', '\\x00ff', [], Uint8Array.of(0, 255)],
  ['bytea', 'a\\\\b\\001', [], Uint8Array.of(97, 92, 98, 1)],
  ['timestamptz', '2024-02-29 12:34:56.789012+00', [], utc('2024-02-29T12:34:56.789Z')],
  ['timestamptz', '2024-02-29 12:34:56+05:30', [], utc('2024-02-29T07:04:56Z')],
  ['timestamptz', '0044-03-15 00:00:00+00 BC', [], utc('-000043-03-15T00:00:00Z')],
  ['timestamptz', '0099-01-01 00:00:00.5+00', [], utc('0099-01-01T00:00:00.500Z')],
  ['timestamptz', '12345-01-01 00:00:00+00', [], utc('+012345-01-01T00:00:00Z')],
  ['timestamptz', 'infinity', [], Number.POSITIVE_INFINITY],
  ['timestamptz', '-infinity', [], Number.NEGATIVE_INFINITY],
  ['timestamp', '2024-02-29 12:34:56.7', [], new Date(2024, 1, 29, 12, 34, 56, 700)],
  ['date', '2024-02-29', [], utc('2024-02-29T00:00:00Z')],
  ['date', 'infinity', [], Number.POSITIVE_INFINITY],
  ['time', '12:34:56.789012', [], '12:34:56.789012'],
  ['timetz', '12:34:56+02', [], '12:34:56+02'],
  ['interval', '1 day 02:00:00', [], '1 day 02:00:00'],
  ['uuid', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', [], 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'],
  ['inet', '10.0.0.1/8', [], '10.0.0.1/8'],
  ['macaddr', '08:00:2b:01:02:03', [], '08:00:2b:01:02:03'],
  ['bit(3)', '101', [101], '101'],
  ['xml', '<a>b</a>', [], '<a>b</a>'],
  ['point', '(1,2)', [], '(1,2)'],
  ['box', '(3,4),(1,2)', [], '(3,4),(1,2)'],
  ['int4range', '[1,5)', [], '[1,5)'],
  ['tsvector', `'a':1 'b':2`, [], `'a':1 'b':2`],
  ['pg_lsn', '16/B374D848', [], '16/B374D848'],
  ['text[]', '{a,NULL,"NULL","","q\\"\\\\"}', [], ['a', null, 'NULL', '', 'q"\\']],
  ['text[]', '{}', [], []],
  ['int4[]', '{1,NULL,3}', [], [1, null, 3]],
  [
    'int4[]',
    '{{1,2},{3,4}}',
    [],
    [
      [1, 2],
      [3, 4],
    ],
  ],
  ['int4[]', '[0:1]={7,8}', [], [7, 8]],
  ['int8[]', '{9007199254740993}', [], [9007199254740993n]],
  ['boolean[]', '{t,f}', [], [true, false]],
  ['float8[]', '{NaN,-Infinity,0.1}', [], [Number.NaN, Number.NEGATIVE_INFINITY, 0.1]],
  ['jsonb[]', '{"{\\"a\\": 1}",NULL,null,"null"}', [], [{ a: 1 }, null, null, null]],
  ['bytea[]', '{"\\\\x00ff"}', [], [Uint8Array.of(0, 255)]],
  [
    'timestamptz[]',
    '{"2024-02-29 12:00:00+00",infinity}',
    [],
    [utc('2024-02-29T12:00:00Z'), Number.POSITIVE_INFINITY],
  ],
  ['numeric[]', '{1.10}', [], ['1.10']],
  ['uuid[]', '{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}', [], ['a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11']],
  ['box[]', '{(3,4),(1,2);(1,1),(0,0)}', [], '{(3,4),(1,2);(1,1),(0,0)}'],
  ['regclass', 'pg_class', [], 'pg_class'],
  ['mood', 'glad', [], 'glad'],
  ['mood[]', '{glad,NULL}', [], '{glad,NULL}'],
  ['positive', '7', [7, 7n], 7],
  ['pair', '(1,"a b")', [], '(1,"a b")'],
]

/** Each line has a type, an invalid parameter, and the SQLSTATE of the server's error. */
const wrong: readonly (readonly [type: string, param: Param, sqlState: string])[] = [
  ['boolean', 'maybe', '22P02'],
  ['boolean', 2, '22P02'],
  ['int4', '1.5', '22P02'],
  ['int4', 1.5, '22P02'],
  ['int4', true, '22P02'],
  ['int4', 2147483648, '22003'],
  ['int8', 1e21, '22P02'],
  ['jsonb', 'text', '22P02'],
  ['jsonb', Number.NaN, '22P02'],
  ['timestamptz', 1700000000000, '22008'],
  ['timestamptz', 'soon', '22007'],
  ['bytea', '\\xz', '22023'],
  ['bytea', 'a\\', '22P02'],
  ['uuid', 'x', '22P02'],
  ['text[]', 'a', '22P02'],
  ['positive', -1, '23514'],
]

const literal = (text: string): string => `'${text.replaceAll("'", "''")}'`

const ask = async (
  queryable: Queryable,
  text: string,
  ...params: readonly Param[]
): Promise<Row | undefined> => (await right(queryable.query({ name: 'spec', text }, params)))[0]

const typesIn = async (database: Database): Promise<string> => {
  const schema = freshSchema()
  for (const text of [
    `create schema ${schema}`,
    `create type ${schema}.mood as enum ('glad', 'sad')`,
    `create domain ${schema}.positive as int4 check (value > 0)`,
    `create type ${schema}.pair as (n int, words text)`,
  ])
    await rowsOf(database, text)
  return schema
}

const own = /^(mood|positive|pair)\b/

const each = async (t: Test, database: Queryable, schema: string): Promise<void> => {
  const typeOf = (name: string): string => (own.test(name) ? `${schema}.${name}` : name)
  for (const [name, text, others, read] of table) {
    const type = typeOf(name)
    const meant = await ask(
      database,
      `select ${literal(text)}::${type} as v, (${literal(text)}::${type})::text as w`,
    )
    t.strictSame(meant?.['v'], read, `${name} ${text}: what is read`)
    if (read instanceof Uint8Array) t.equal(Object.getPrototypeOf(meant?.['v']), Uint8Array.prototype)
    for (const param of [text, ...others]) {
      const found = await ask(database, `select $1::${type} as v, ($2::${type})::text as w`, param, param)
      t.strictSame(found, meant, `${name} ${text} as ${typeof param} ${String(param)}`)
    }
    t.strictSame(await ask(database, `select $1::${type} as v`, null), { v: null }, `${name}: null`)
  }
  for (const [name, param, sqlState] of wrong) {
    const error = await left(
      TE.tryCatch(
        async () => {
          const result = await (database as Database).query(
            { name: 'spec', text: `select $1::${typeOf(name)} as v` },
            [param],
          )()
          if (E.isLeft(result)) throw result.left
          return result.right
        },
        (error) => error as K.DriverError,
      ),
    )
    t.strictSame([error.sqlState, error.retryable], [sqlState, false], `${name}: ${String(param)}`)
  }
}

const untyped = async (t: Test, database: Database, schema: string): Promise<void> => {
  for (const param of ['1', 1, 1n])
    t.strictSame(await ask(database, 'select 1 = $1 as same', param), { same: true })
  for (const [param, v] of [
    ['a', 'a'],
    [1.5, '1.5'],
    [2n ** 60n, String(2n ** 60n)],
    [true, 'true'],
    [null, null],
  ] as const)
    t.strictSame(await ask(database, 'select $1 as v', param), { v }, `of no type: ${String(param)}`)
  t.strictSame(await ask(database, 'select true and $1 as v', 'off'), { v: false })
  t.strictSame(await ask(database, 'select 2 = any($1) as v', '{1,2}'), { v: true })
  t.strictSame(await ask(database, 'select coalesce($1, 7) as v', null), { v: 7 })
  t.strictSame(await ask(database, `select now() - $1::interval < now() as v`, '1 second'), { v: true })
  // Here the type comes from the column of an insert. The statement also runs with null parameters.
  const columns = table.map(
    ([name], index) => `c${String(index)} ${own.test(name) ? `${schema}.${name}` : name}`,
  )
  await rowsOf(database, `create table ${schema}.t (${columns.join(', ')})`)
  const places = columns.map((_, index) => `$${String(index + 1)}`).join(', ')
  const texts = columns.map((_, index) => `c${String(index)}::text`).join(" || '|' || ")
  const fitting = table.map(([name, text]) => (name === 'varchar(3)' ? 'abc' : text))
  const insert = `insert into ${schema}.t values (${places}) returning ${texts} as v`
  const literals = `insert into ${schema}.t values (${fitting.map(literal).join(', ')}) returning ${texts} as v`
  const meant = await ask(database, literals)
  t.ok(typeof meant?.['v'] === 'string')
  t.strictSame(await ask(database, insert, ...fitting), meant)
  t.strictSame(await ask(database, insert, ...fitting.map(() => null)), { v: null })
  t.strictSame(await ask(database, insert, ...fitting), meant)
}

const suite = async (t: Test, database: Database): Promise<void> => {
  const schema = await typesIn(database)
  await each(t, database, schema)
  await untyped(t, database, schema)
  t.test('what is no parameter is refused, with its place', async (t) => {
    for (const bad of [undefined, new Date(0), Uint8Array.of(1), [1], { a: 1 }, () => 1, Symbol('x')]) {
      const error = await left(
        database.query({ name: 'spec', text: 'select $1::text, $2::text' }, ['a', bad as never]),
      )
      t.match(error, { _tag: 'DriverError', retryable: false, message: /^spec: parameter \$2: / })
    }
  })
  t.test('a query is one statement', async (t) => {
    const error = await left(database.query({ name: 'spec', text: 'select 1; select 2' }, []))
    t.equal(error.sqlState, '42601')
    t.strictSame(await ask(database, 'select 1 as one;'), { one: 1 })
  })
  t.test('sql and param, alone and in a transaction', async (t) => {
    const as = D.UnknownRecord
    const json = '{"a": 1}'
    const text = R.sql`select ${json}::jsonb as j, ${'true'}::bool as b, ${R.param(R.int8, 7n)} as n`
    const asked = (handle: Database) => R.queryOne(handle, as, text)
    const found = { _tag: 'Some', value: { j: { a: 1 }, b: true, n: 7n } }
    t.strictSame({ ...(await right(asked(database))) }, found)
    t.strictSame({ ...(await right(R.transact(database, asked))) }, found)
    const streamed = R.queryStream(
      database,
      as,
      text,
      (rows) => async (): Promise<E.Either<unknown, unknown>> => {
        for await (const row of rows) return row
        return E.left('none')
      },
    )
    t.strictSame(await right(streamed), found.value)
  })
  t.test('in a transaction and its savepoints', async (t) => {
    const both = R.transact(database, (tx) =>
      pipe(
        tx.query({ name: 'spec', text: `select $1::jsonb as j, $2::timestamptz::text as at` }, [json, at]),
        TE.chainW((outer) =>
          R.transact(tx, (inner) =>
            pipe(
              inner.query({ name: 'spec', text: `select $1::jsonb as j, $2::timestamptz::text as at` }, [
                json,
                at,
              ]),
              TE.map((rows) => [...outer, ...rows]),
            ),
          ),
        ),
      ),
    )
    const [json, at] = ['{"a": 1}', '2024-02-29 12:34:56.789012+00']
    const meant = await ask(
      database,
      `select ${literal(json)}::jsonb as j, ${literal(at)}::timestamptz::text as at`,
    )
    t.strictSame(await right(both), [meant, meant])
  })
}

/** Types of the program's pool that convert every value wrongly. */
const types = Object.fromEntries(
  Object.entries({
    text: [25, [25, 1043, 1042, 19]],
    number: [0, [21, 23, 26, 700, 701]],
    bigint: [20, [20]],
    json: [114, [114, 3802]],
    boolean: [16, [16]],
    date: [1184, [1082, 1114, 1184]],
    bytea: [17, [17]],
    arrays: [1009, [1009, 1007, 1016, 3807]],
  } as const).map(([name, [to, from]]) => [
    name,
    { to, from: [...from], serialize: () => 'serialized', parse: () => 'parsed' },
  ]),
) as never

const pools: Readonly<Record<string, postgres.Options<Record<string, never>>>> = {
  'a pool as advised': {},
  'a pool that does not prepare': { prepare: false },
  'a pool that asks for types': { fetch_types: true },
  'a pool with types of its own': { types },
  'a pool with types of its own that does not prepare': { types, prepare: false },
  'a pool that changes values': {
    transform: {
      undefined: null,
      value: { from: () => 'changed' },
      row: { from: (row: object) => ({ ...row }) },
    },
  },
}

for (const [name, options] of Object.entries(pools))
  t.test(`postgres.js: ${name}`, async (t) => {
    const database = postgresDatabase(quietPools(url, { max: 2, ...options }))
    t.teardown(() => right(database.close))
    await suite(t, database)
  })

for (const { name, open } of serverDrivers)
  t.test(`${name}: batched`, async (t) => {
    const database = batchedDatabase(open(url, { max: 2 }))
    t.teardown(() => right(database.close))
    await suite(t, database)
  })

const parsed = { getTypeParser: () => () => 'parsed' }

const pgPools: Readonly<Record<string, readonly [pg.PoolConfig, PgOptions?]>> = {
  'a pool as advised': [{}],
  'a pool of one client': [{ max: 1 }],
  'a pool that does not prepare': [{}, { prepare: false }],
  'a pool with types of its own': [{ types: parsed }],
  'a pool with types of its own that does not prepare': [{ types: parsed }, { prepare: false }],
  'a pool that wants binary values': [{ binary: true } as pg.PoolConfig],
}

for (const [name, [options, own]] of Object.entries(pgPools))
  t.test(`node-postgres: ${name}`, async (t) => {
    const database = pgDatabase(pgPool(url, { max: 2, ...options }), own)
    t.teardown(() => right(database.close))
    await suite(t, database)
  })

t.test('node-postgres: type parsers of the process', async (t) => {
  const restore = replaceTypeParsers(() => 'parsed')
  const database = pgDatabase(pgPool(url, { max: 2 }))
  t.teardown(async () => {
    restore()
    await right(database.close)
  })
  await suite(t, database)
})

t.test('PGlite', async (t) => {
  const database = pgliteDatabase()
  t.teardown(() => right(database.close))
  await suite(t, database)
})

t.test('a statement whose arrays are batched gets the same parameters as a lone one', async (t) => {
  for (const database of [...serverDrivers.map(({ open }) => open(url)), pgliteDatabase()]) {
    const batched = batchedDatabase(database)
    const alone = 'select $1::float8::text as a, $2::boolean as b, $3::text as c'
    const each = {
      name: 'each',
      text: `select n::float8 as "00 ordinal", a::text as a, b, c
             from unnest($1::text::float8[], $2::text::boolean[], $3::text::text[]) with ordinality as u (a, b, c, n)`,
    }
    const query = { name: 'one', text: alone, each }
    const params: readonly (readonly Param[])[] = [
      [-0, true, '{"'],
      [0.1, false, null],
      [Number.NaN, null, 'null'],
    ]
    const found = await Promise.all(params.map((one) => right(batched.query(query, one))))
    const lone = await Promise.all(
      params.map((one) => right(database.query({ name: 'one', text: alone }, one))),
    )
    t.strictSame(
      found.map(([row]) => [row?.['a'], row?.['b'], row?.['c']]),
      lone.map(([row]) => [row?.['a'], row?.['b'], row?.['c']]),
    )
    t.strictSame(
      lone.map(([row]) => row?.['a']),
      ['-0', '0.1', 'NaN'],
    )
    await right(database.close)
  }
})

t.teardown(async () => {
  const database = postgresDatabase(quietPools(url))
  await dropSchemas(database)
  await right(database.close)
  await stop()
})
