// Tests tables that change while processes run: a column gets a wider type, or a column is added. The server then
// rejects statements that were prepared before. Records, hand-written SQL and sessions continue to work. In a
// transaction of the program, the error is retryable.

import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as O from 'fp-ts/lib/Option.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import * as D from 'io-ts'
import { raw } from 'sql-template-tag'
import t, { type Test } from 'tap'
import { batchedDatabase } from '../lib/db/batched.js'
import type { Database } from '../lib/db/database.js'
import { pgliteDatabase } from '../lib/db/pglite.js'
import { postgresDatabase } from '../lib/db/postgres/index.js'
import * as S from '../lib/entry/store.js'
import * as K from '../lib/index.js'
import * as R from '../lib/records/index.js'
import {
  quietPools,
  rowsOf,
  type ServerDriver,
  type ServerOptions,
  serverDrivers,
} from './support/databases.js'
import { specDatabaseUrl } from './support/postgres-server.js'
import { dropSchemas, fast, freshSchema, left, right } from './support/stores.js'

const { url, stop } = await specDatabaseUrl()

const opening =
  (driver: ServerDriver) =>
  (t: Test, options: ServerOptions = {}): Database => {
    const database = driver.open(url, { max: 4, timeoutMs: 20_000, ...options })
    t.teardown(() => right(database.close))
    return database
  }

const owner = postgresDatabase(quietPools(url, { max: 1 }), { timeoutMs: 20_000 })

/** Makes a table with narrow columns and this number of rows. */
const narrow = async (rows = 8): Promise<string> => {
  const table = `${freshSchema()}.t`
  await rowsOf(owner, `create schema ${table.replace('.t', '')}`)
  await rowsOf(
    owner,
    `create table ${table} (id int primary key, n int not null default 0, small varchar(20) not null default 'a',
       half real not null default 0.5, amount numeric(6,2) not null default 1, tree json not null default '{"n": 0}',
       at timestamptz(3) not null default now())`,
  )
  await rowsOf(owner, `insert into ${table} (id) select i from generate_series(1, ${String(rows)}) as i`)
  return table
}

/** The changes of the table, in order. No change removes anything that a running process needs. */
const widenings = (table: string): readonly string[] => [
  `alter table ${table} alter n type bigint`,
  `alter table ${table} alter small type varchar(40)`,
  `alter table ${table} add column more text not null default 'x'`,
  `alter table ${table} alter half type double precision`,
  `alter table ${table} alter id type bigint`,
  `alter table ${table} alter small type text`,
  `alter table ${table} alter amount type numeric`,
  `alter table ${table} alter at type timestamptz`,
  `alter table ${table} alter n type numeric`,
]

const as = D.UnknownRecord

const star = (table: string, id: number) => R.sql`select * from ${raw(table)} where id = ${id}`

const recordsOf = (table: string) =>
  R.record({
    table,
    key: 'id',
    columns: {
      id: R.int4,
      n: R.int4,
      small: R.text,
      half: R.float8,
      amount: R.textual('numeric', D.string),
      tree: R.textual('json', D.string),
      at: R.timestamptz,
    },
  })

/** Repeats each task concurrently until the changes are done. Returns the number of runs of each task. */
const under = async (
  changes: () => Promise<void>,
  tasks: readonly (() => Promise<unknown>)[],
): Promise<readonly number[]> => {
  let over = false
  const counts = tasks.map(() => 0)
  const running = tasks.flatMap((task, index) =>
    Array.from({ length: 4 }, async () => {
      // Each task still runs some times after the last change.
      for (let after = 0; after < 4; after += over ? 1 : 0) {
        await task()
        counts[index] = (counts[index] ?? 0) + 1
      }
    }),
  )
  const changing = changes().finally(() => {
    over = true
  })
  await Promise.all([changing, ...running])
  return counts
}

const pauses = () => new Promise((resolve) => setTimeout(resolve, 40))

const pools = {
  prepared: {},
  'not prepared': { prepare: false },
  'one connection': { max: 1 },
}

const suite = (root: Test, driver: ServerDriver): void => {
  const open = opening(driver)
  for (const [name, options] of Object.entries(pools))
    root.test(`records and SQL of your own, in two pools: ${name}`, async (t) => {
      const table = await narrow()
      const [one, two] = [open(t, options), batchedDatabase(open(t, options))]
      const records = recordsOf(table)
      const load = (handle: Database) => {
        const row = async (id: number) => {
          const found = O.toNullable(await right(records.find(handle, id as never)))
          if (found === null) throw new Error(`${String(id)} is not there`)
          return found
        }
        const anyId = () => 1 + Math.floor(Math.random() * 8)
        return [
          async () => row(anyId()),
          async () => right(records.findMany(handle, [1, 2, 9] as never)),
          async () => right(records.save(records.update('n', (n) => n + 1)(await row(anyId())))),
          async () => {
            const edited = pipe(
              await row(anyId()),
              records.update('n', (n) => n + 1),
              records.set('small', 'b'),
              records.update('tree', (text) => text.replace('0', '7')),
            )
            return right(records.save(edited))
          },
          async () => right(records.refresh(await row(anyId()))),
          async () => right(R.queryMany(handle, as, star(table, anyId()))),
          async () =>
            right(
              handle.query(
                { name: 'returning', text: `update ${table} set n = n + $1 where id = $2 returning *` },
                [1, anyId()],
              ),
            ),
        ]
      }
      const counts = await under(async () => {
        for (const change of widenings(table)) {
          await rowsOf(owner, change)
          await pauses()
        }
      }, [...load(one), ...load(two)])
      t.comment(counts.join(' '))
      const [sum] = await rowsOf(owner, `select sum(n)::float8 as sum from ${table}`)
      const added = [2, 3, 6, 9, 10, 13].reduce((all, index) => all + (counts[index] ?? 0), 0)
      t.strictSame(sum, { sum: added }, 'each update counts once')
    })

  root.test('sessions, whose tables are changed in the same way', async (t) => {
    const schema = freshSchema()
    const stores = [open(t), open(t)].flatMap((database) => {
      const store = S.sessionStore(database, { schema })
      return [store, fast(store)]
    })
    const [first] = stores
    if (first === undefined) throw new Error('there is no store')
    // A store that prepares itself between two changes would rightly reject the tables.
    for (const store of stores) await right(store.prepare)
    const made = await right(K.saveSession(K.sessionSet('n', 0)(K.buildSession(first))))
    const token = K.sessionToken(made)
    const more = K.sessionUpdate('n', (n) => Number(O.toNullable(n)) + 1)
    const tasks = stores.flatMap((store) => {
      const loaded = async () => {
        const found = O.toNullable(await right(K.loadSession(store, token)))
        if (found === null) throw new Error('the session is gone')
        return found
      }
      return [
        loaded,
        async () => right(K.saveSession(more(await loaded()))),
        async () => right(K.refreshSession(await loaded())),
        async () =>
          right(K.destroySession(await right(K.saveSession(K.sessionSet('n', 1)(K.buildSession(store)))))),
      ]
    })
    const changes = [
      `alter table ${schema}.session add column of_ours text`,
      `alter table ${schema}.entry alter key type varchar(4000)`,
      `alter table ${schema}.session alter created_at type timestamptz(3)`,
      `alter table ${schema}.entry add column of_ours int default 1`,
      `alter table ${schema}.session alter revision type numeric`,
      `alter table ${schema}.entry alter key type text`,
      `alter table ${schema}.session alter revision type bigint`,
    ]
    const counts = await under(async () => {
      for (const change of changes) {
        await rowsOf(owner, change)
        await pauses()
      }
    }, tasks)
    t.comment(counts.join(' '))
    const found = O.toNullable(await right(K.loadSession(first, token)))
    const saves = [1, 5, 9, 13].reduce((all, index) => all + (counts[index] ?? 0), 0)
    t.equal(found?.store.get('n'), saves)
  })

  root.test('in a transaction: one error that says so, and every connection is right again', async (t) => {
    const table = await narrow()
    const database = open(t)
    const inside = (handle: Database) => R.queryMany(handle, as, star(table, 1))
    const many = () => Promise.all(Array.from({ length: 12 }, () => R.transact(database, inside)()))
    t.ok((await many()).every(E.isRight))
    t.ok((await many()).every(E.isRight))
    await rowsOf(owner, `alter table ${table} alter n type bigint`)
    const twice = R.transact(database, (tx) =>
      pipe(
        inside(tx),
        TE.chain(() => inside(tx)),
      ),
    )
    const error = await left(twice)
    t.match(error, { _tag: 'DriverError', sqlState: '0A000', retryable: true, message: /nothing was done/ })
    for (const result of await many()) t.match(result, { _tag: 'Right', right: [{ n: 0n }] })
    t.strictSame(await right(twice), [...(await right(inside(owner)))])

    await rowsOf(owner, `alter table ${table} alter n type numeric`)
    const together = await R.transact(database, (tx) => async () => {
      const results = await Promise.all([inside(tx)(), inside(tx)(), inside(tx)()])
      return results.find(E.isLeft) ?? E.right('done')
    })()
    t.match(
      together,
      { _tag: 'Left', left: { sqlState: '0A000', retryable: true } },
      'also of statements that go together',
    )
    t.strictSame((await right(R.transact(database, inside)))[0]?.['n'], '0')
  })

  root.test('many at once on one connection: none of them hangs', async (t) => {
    const table = await narrow()
    const database = open(t, { max: 1 })
    const many = () =>
      Promise.all(
        Array.from({ length: 40 }, (_, index) =>
          right(R.queryOne(database, as, star(table, 1 + (index % 8)))),
        ),
      )
    await many()
    for (const type of ['bigint', 'numeric', 'bigint', 'int']) {
      await rowsOf(owner, `alter table ${table} alter n type ${type}`)
      const found = await many()
      t.ok(found.every((row) => O.isSome(row) && Number(row.value['n']) === 0))
    }
  })

  root.test('a connection that forgot its statements, once or all the time', async (t) => {
    const database = open(t, { max: 2 })
    const echo = (n: number) => database.query({ name: 'echo', text: 'select $1::int as n' }, [n])
    const forget = () => right(database.query({ name: 'discard', text: 'discard all' }, []))
    const echoes = (handle: Database) => handle.query({ name: 'echo', text: 'select $1::int as n' }, [7])
    await Promise.all(Array.from({ length: 9 }, () => right(R.transact(database, echoes))))
    await Promise.all([forget(), forget()])
    const inside = await Promise.all(Array.from({ length: 9 }, () => R.transact(database, echoes)()))
    for (const result of inside.filter(E.isLeft)) t.match(result.left, { sqlState: '26000', retryable: true })
    for (let round = 0; round < 30; round += 1) {
      const rows = await Promise.all(Array.from({ length: 10 }, (_, n) => right(echo(n))))
      t.strictSame(
        rows.flat(),
        Array.from({ length: 10 }, (_, n) => ({ n })),
      )
      await Promise.all([forget(), forget()])
    }
    const [kept] = await right(
      database.query({ name: 'count', text: 'select count(*)::int as n from pg_prepared_statements' }, []),
    )
    t.strictSame(kept, { n: 0 }, 'it is not prepared any more')
  })

  root.test('an update that failed so is done once', async (t) => {
    const table = await narrow(1)
    const database = open(t, { max: 3 })
    const text = `update ${table} set n = n + $1, tree = $2 returning *`
    const more = () =>
      Promise.all(
        Array.from({ length: 9 }, () => right(database.query({ name: 'more', text }, [1, '{"n": "x"}']))),
      )
    await more()
    await more()
    await rowsOf(owner, `alter table ${table} alter n type bigint`)
    await more()
    const [row] = await rowsOf(owner, `select n, tree::text as tree from ${table}`)
    t.strictSame(row, { n: 27n, tree: '{"n": "x"}' })
  })
}

for (const driver of serverDrivers)
  t.test(driver.name, async (t) => {
    suite(t, driver)
  })

t.test('PGlite', async (t) => {
  const database = pgliteDatabase()
  t.teardown(() => right(database.close))
  await rowsOf(
    database,
    'create table t (id int primary key, n int, small varchar(5), half real, amount numeric(6,2), tree json, at timestamptz(3))',
  )
  await rowsOf(database, `insert into t values (1, 0, 'a', 0.5, 1, '{"n": 0}', now())`)
  const records = recordsOf('t')
  for (const change of [undefined, ...widenings('t')]) {
    if (change !== undefined) await rowsOf(database, change)
    const found = O.toNullable(await right(records.find(database, 1 as never)))
    if (found === null) throw new Error('it is not there')
    const saved = await right(records.save(records.update('n', (n) => n + 1)(found)))
    t.equal(saved.n, found.n + 1)
    const [row] = await right(R.queryMany(database, as, star('t', 1)))
    t.equal(Number(row?.['n']), saved.n)
  }
})

t.teardown(async () => {
  await dropSchemas(owner)
  await right(owner.close)
  await stop()
})
