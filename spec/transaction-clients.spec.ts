// Tests the real Drizzle and Kysely in a transaction of keyrow, on node-postgres and on postgres.js.

import { once } from 'node:events'
import { sql as drizzleSql } from 'drizzle-orm'
import { drizzle as drizzlePg } from 'drizzle-orm/node-postgres'
import { bigserial, integer, jsonb, pgSchema, text, timestamp } from 'drizzle-orm/pg-core'
import { drizzle as drizzlePostgres } from 'drizzle-orm/postgres-js'
import { Kysely, sql as kyselySql, PostgresDialect, type PostgresPool } from 'kysely'
import { PostgresJSDialect } from 'kysely-postgres-js'
import pg from 'pg'
import Cursor from 'pg-cursor'
import type { Sql } from 'postgres'
import t, { type Test } from 'tap'
import { DriverError } from '../lib/core/errors.js'
import { pgliteDatabase } from '../lib/db/pglite.js'
import {
  buildSession,
  type Database,
  loadSession,
  type Session,
  saveSession,
  sessionSet,
  sessionToken,
  transact,
  transactionClient,
  updateCurrentSession,
  withHandle,
  withSession,
} from '../lib/promise/index.js'
import { sessionStore } from '../lib/sql/store.js'
import { quietPool, rowsOf, serverDrivers } from './support/databases.js'
import { specDatabaseUrl } from './support/postgres-server.js'
import { dropSchemas, freshSchema, right } from './support/stores.js'

interface Order {
  readonly id: bigint | number | string
  readonly sku: string
  readonly amount: number
  readonly detail: unknown
  readonly at: Date
}

/** What the specs do through a library, on its own handle. */
interface Orders {
  readonly insert: (sku: string, amount?: number) => Promise<unknown>
  readonly all: () => Promise<readonly Order[]>
  /** Runs a transaction of the library itself. */
  readonly transaction: <A>(body: (inner: Orders) => Promise<A>, isolation?: 'serializable') => Promise<A>
  /** Sends a statement as text. */
  readonly send: (text: string) => Promise<unknown>
  /** Sends a statement that fails, in a way that may hide its failure. */
  readonly fail: () => Promise<unknown>
}

interface Library {
  readonly name: string
  readonly driver: (typeof serverDrivers)[number]['name']
  readonly open: (tx: Database, schema: string) => Orders
}

const DETAIL = { gift: [true, null, 'Ünï'], note: 'say "hi"' }
const AT = new Date('2026-02-03T04:05:06.789Z')

const drizzleOrders = (db: Omit<ReturnType<typeof drizzlePg>, '$client'>, schema: string): Orders => {
  const orders = pgSchema(schema).table('orders', {
    id: bigserial('id', { mode: 'bigint' }).primaryKey(),
    sku: text('sku').notNull(),
    amount: integer('amount').notNull(),
    detail: jsonb('detail').notNull(),
    at: timestamp('at', { withTimezone: true }).notNull(),
  })
  const on = (handle: Pick<typeof db, 'insert' | 'select' | 'transaction' | 'execute'>): Orders => ({
    insert: (sku, amount = 1) => handle.insert(orders).values({ sku, amount, detail: DETAIL, at: AT }),
    all: () => handle.select().from(orders).orderBy(orders.id),
    transaction: (body, isolationLevel) =>
      handle.transaction((inner) => body(on(inner)), isolationLevel && { isolationLevel }),
    send: (statement) => handle.execute(drizzleSql.raw(statement)),
    fail: () => handle.execute(drizzleSql`select 1 / 0`),
  })
  return on(db)
}

interface Tables {
  readonly [table: `${string}.orders`]: {
    readonly id: never
    readonly sku: string
    readonly amount: number
    readonly detail: string
    readonly at: Date
  }
}

const kyselyOrders = (db: Kysely<Tables>, schema: string, detail: unknown): Orders => {
  const table = `${schema}.orders` as const
  const on = (handle: Kysely<Tables>): Orders => ({
    insert: (sku, amount = 1) =>
      handle
        .insertInto(table)
        .values({ sku, amount, detail, at: AT } as never)
        .execute(),
    all: () => handle.selectFrom(table).selectAll().orderBy('id').execute(),
    transaction: (body, isolation) =>
      (isolation === undefined
        ? handle.transaction()
        : handle.transaction().setIsolationLevel(isolation)
      ).execute((inner) => body(on(inner))),
    send: (statement) => kyselySql.raw(statement).execute(handle),
    fail: async () => {
      const stream = handle
        .selectFrom(table)
        .select(kyselySql<number>`1 / (amount - amount)`.as('n'))
        .stream()
      for await (const row of stream) throw new Error(`there is a row: ${String(row.n)}`)
    },
  })
  return on(db)
}

const libraries: readonly Library[] = [
  {
    name: 'Drizzle on node-postgres',
    driver: 'node-postgres',
    open: (tx, schema) => drizzleOrders(drizzlePg({ client: transactionClient<pg.PoolClient>(tx) }), schema),
  },
  {
    name: 'Drizzle on postgres.js',
    driver: 'postgres.js',
    open: (tx, schema) =>
      drizzleOrders(drizzlePostgres({ client: transactionClient<Sql>(tx) }) as never, schema),
  },
  {
    name: 'Kysely on node-postgres',
    driver: 'node-postgres',
    open: (tx, schema) =>
      kyselyOrders(
        new Kysely({
          dialect: new PostgresDialect({ pool: transactionClient<PostgresPool>(tx), cursor: Cursor }),
        }),
        schema,
        JSON.stringify(DETAIL),
      ),
  },
  {
    name: 'Kysely on postgres.js',
    driver: 'postgres.js',
    open: (tx, schema) =>
      kyselyOrders(
        new Kysely({ dialect: new PostgresJSDialect({ postgres: transactionClient<Sql>(tx) }) }),
        schema,
        DETAIL,
      ),
  },
]

const { url, stop } = await specDatabaseUrl()
const opened: Database[] = []
// Drizzle changes the options of the pool, so each library has its own.
const open = (driver: Library['driver']): Database => {
  const database = serverDrivers.find(({ name }) => name === driver)?.open(url) as Database
  opened.push(database)
  return database
}
t.teardown(async () => {
  await dropSchemas(open('postgres.js'))
  for (const database of opened) await right(database.close)
  await stop()
})

const failure = async (promise: Promise<unknown>): Promise<unknown> => {
  const outcome = await promise.then(
    (value) => ({ value }),
    (error: unknown) => ({ error }),
  )
  if (!('error' in outcome)) throw new Error(`It resolved: ${String(outcome.value)}`)
  return outcome.error
}

/** Returns keyrow's error, which Drizzle wraps. */
const driverErrorOf = (error: unknown): unknown =>
  error instanceof DriverError ? error : (error as Error).cause

const shop = async (database: Database) => {
  const schema = freshSchema()
  const store = sessionStore(database, { schema })
  await right(store.prepare)
  await rowsOf(
    database,
    `create table ${schema}.orders (id bigserial primary key, sku text not null unique,
       amount int not null check (amount > 0), detail jsonb not null, at timestamptz not null)`,
  )
  const skus = async () =>
    (await rowsOf(database, `select sku from ${schema}.orders order by id`)).map(({ sku }) => sku)
  const session = await saveSession(sessionSet('cart', ['tea'])(buildSession(store)))
  const values = async () => (await loadSession(store, sessionToken(session)))?.store.toObject()
  return { schema, session, skus, values }
}

const checkOut = (session: Session, tx: Database): Promise<Session> =>
  saveSession(sessionSet('cart', [])(withHandle(tx)(session)))

const spec = (t: Test, library: Library): void => {
  const database = open(library.driver)
  const made = async () => {
    const opened = await shop(database)
    const order = <A>(body: (orders: Orders, tx: Database) => Promise<A>): Promise<A> =>
      transact(database, (tx) => body(library.open(tx, opened.schema), tx))
    return { ...opened, order }
  }

  t.test('an order and the session are stored together, with the values of the library', async (t) => {
    const { session, skus, values, order } = await made()
    const rows = await order(async (orders, tx) => {
      await orders.insert('tea', 2)
      await checkOut(session, tx)
      t.strictSame(await skus().catch(() => []), [], 'another handle waits, or is refused')
      return orders.all()
    })
    t.match(rows, [{ sku: 'tea', amount: 2, detail: DETAIL, at: AT }])
    t.equal(String(rows[0]?.id), '1')
    t.strictSame([await skus(), await values()], [['tea'], { cart: [] }])
  })

  t.test('neither is stored, wherever it fails', async (t) => {
    const { session, skus, values, order } = await made()
    const halt = new Error('halt')
    const bodies: readonly ((orders: Orders, tx: Database) => Promise<unknown>)[] = [
      async (orders, tx) => {
        await orders.insert('tea')
        await checkOut(session, tx)
        throw halt
      },
      async (orders, tx) => {
        await checkOut(session, tx)
        await orders.insert('tea', 0)
      },
    ]
    t.equal(await failure(order(bodies[0] as never)), halt)
    t.ok((await failure(order(bodies[1] as never))) instanceof Error)
    t.strictSame([await skus(), await values()], [[], { cart: ['tea'] }])
  })

  t.test('a failed statement that the program catches fails the transaction with its error', async (t) => {
    const { session, skus, values, order } = await made()
    const caught = order(async (orders, tx) => {
      await orders.insert('milk')
      await orders.insert('tea', 0).catch(() => undefined)
      await orders.insert('bread').catch(() => undefined)
      await checkOut(session, tx).catch(() => undefined)
      return 'done'
    })
    t.match(await failure(caught), { _tag: 'DriverError', kind: 'check', effect: 'none' })
    const current = withSession(session, () =>
      order(async (orders) => {
        await updateCurrentSession(sessionSet('cart', []))
        await orders.insert('tea', 0).catch(() => undefined)
      }),
    )
    t.match(await failure(current), { _tag: 'DriverError', kind: 'check' })
    t.strictSame([await skus(), await values()], [[], { cart: ['tea'] }])
  })

  t.test('the current session belongs to the transaction', async (t) => {
    const { session, skus, values, order } = await made()
    await withSession(session, () =>
      order(async (orders) => {
        await orders.insert('tea')
        await updateCurrentSession(sessionSet('cart', []))
      }),
    )
    t.strictSame([await skus(), await values()], [['tea'], { cart: [] }])
  })

  t.test('a transaction of the library is refused, and transact makes a savepoint', async (t) => {
    const { schema, session, skus, values, order } = await made()
    const halt = new Error('halt')
    await withSession(session, () =>
      order(async (orders, tx) => {
        await orders.insert('milk')
        for (const isolation of [undefined, 'serializable'] as const)
          t.match(
            driverErrorOf(await failure(orders.transaction((inner) => inner.insert('jam'), isolation))),
            {
              kind: 'outerHandle',
            },
          )
        const undone = transact(tx, async (tx2) => {
          await library.open(tx2, schema).insert('jam')
          await updateCurrentSession(sessionSet('cart', ['lost']))
          throw halt
        })
        t.equal(await failure(undone), halt)
        const failed = transact(tx, async (tx2) => {
          const inner = library.open(tx2, schema)
          await inner.insert('jam', 0).catch(() => undefined)
        })
        t.match(await failure(failed), { kind: 'check' })
        await transact(tx, async (tx2) => {
          await library.open(tx2, schema).insert('tea')
          await updateCurrentSession(sessionSet('cart', []))
        })
        await orders.insert('bread')
      }),
    )
    t.strictSame([await skus(), await values()], [['milk', 'tea', 'bread'], { cart: [] }])
  })

  t.test('a failed transaction of keyrow never resolves, whatever the library hides', async (t) => {
    const { session, skus, values, order } = await made()
    const hidden = order(async (orders, tx) => {
      await orders.insert('tea')
      await orders.fail().catch(() => undefined)
      await checkOut(session, tx).catch(() => undefined)
      return 'fine'
    })
    t.match(await failure(hidden), { _tag: 'DriverError', effect: 'none' })
    t.strictSame([await skus(), await values()], [[], { cart: ['tea'] }])
  })

  t.test('the library cannot end the transaction', async (t) => {
    const { skus, order } = await made()
    for (const text of [
      'commit',
      'COMMIT WORK;',
      'end',
      'rollback',
      ' abort ',
      'commit and chain',
      '/* a */ commit',
      '-- a\ncommit',
      'begin',
      'START TRANSACTION',
      'savepoint a',
      'release a',
      'rollback to a',
      "prepare transaction 'a'",
    ]) {
      const halt = new Error(text)
      const run = order(async (orders) => {
        await orders.insert('tea')
        const refused = await failure(orders.send(text))
        t.match(driverErrorOf(refused), { kind: 'outerHandle' })
        await orders.insert('milk')
        throw halt
      })
      t.equal(await failure(run), halt, text)
    }
    t.strictSame(await skus(), [])
  })

  t.test(
    'a handle of the library is refused after the end, and while a savepoint of keyrow is open',
    async (t) => {
      const { schema, skus, order } = await made()
      let late: Orders | undefined
      await order(async (orders, tx) => {
        late = orders
        await orders.insert('tea')
        await transact(tx, async (tx2) => {
          const outer = await failure(orders.insert('outer'))
          t.match(driverErrorOf(outer), { kind: 'outerHandle' })
          await library.open(tx2, schema).insert('milk')
        })
        const halt = new Error('halt')
        const undone = transact(tx, async (tx2) => {
          await library.open(tx2, schema).insert('jam')
          throw halt
        })
        t.equal(await failure(undone), halt)
        const failed = transact(tx, async (tx2) => {
          await library
            .open(tx2, schema)
            .insert('jam', 0)
            .catch(() => undefined)
        })
        t.match(await failure(failed), { kind: 'check' })
      })
      const refused = await failure((late as Orders).insert('late'))
      t.match(driverErrorOf(refused), {
        kind: 'transactionOver',
      })
      t.strictSame(await skus(), ['tea', 'milk'])
    },
  )

  t.test(
    'a lost connection ends the transaction, and no statement of the library is sent elsewhere',
    async (t) => {
      const { schema, skus, order } = await made()
      const cut = order(async (orders) => {
        await orders.insert('tea')
        await orders.send('select pg_terminate_backend(pg_backend_pid())').catch(() => undefined)
        for (const sku of ['milk', 'bread']) t.ok((await failure(orders.insert(sku))) instanceof Error)
      })
      t.match(await failure(cut), { _tag: 'DriverError' })
      t.strictSame(await skus(), [])
      t.equal((await rowsOf(database, `select count(*)::int4 as n from ${schema}.orders`))[0]?.['n'], 0)
    },
  )

  t.test('twenty orders at once', async (t) => {
    const { skus, order } = await made()
    const ids = Array.from({ length: 20 }, (_, index) => index)
    await Promise.all(
      ids.map((id) =>
        order(async (orders) => {
          await Promise.all([orders.insert(`a${String(id)}`), orders.insert(`b${String(id)}`)])
          if (id % 2 === 1) throw new Error('halt')
        }).catch(() => undefined),
      ),
    )
    const wanted = ids.filter((id) => id % 2 === 0).flatMap((id) => [`a${String(id)}`, `b${String(id)}`])
    t.strictSame([...(await skus())].sort(), wanted.sort())
  })
}

for (const library of libraries)
  t.test(library.name, (t) => {
    spec(t, library)
    t.end()
  })

t.test('a callback and a query object of node-postgres run in the transaction', async (t) => {
  const database = open('node-postgres')
  const inserting = transact(database, async (tx) => {
    const client = transactionClient<pg.PoolClient>(tx)
    await client.query('create temporary table here (n int) on commit drop')
    const inserted = await new Promise<number | null>((resolve, reject) => {
      client.query('insert into here values ($1), ($2)', [1, 2], (error: Error | undefined, result) => {
        if (error === undefined) resolve(result.rowCount)
        else reject(error)
      })
    })
    const query = client.query(new pg.Query<{ n: number }>('select n from here order by n'))
    const rows: unknown[] = []
    query.on('row', (row) => void rows.push(row))
    await once(query, 'end')
    t.strictSame([inserted, rows], [2, [{ n: 1 }, { n: 2 }]])
    const failed = await new Promise((resolve) => {
      client.query('select 1 from nowhere', [], resolve)
    })
    t.match(failed, { code: '42P01' })
  })
  t.match(await failure(inserting), { _tag: 'DriverError', sqlState: '42P01' })
})

const plainTable = async (database: Database): Promise<string> => {
  const name = `${freshSchema()}.here`
  await rowsOf(database, `create schema ${name.split('.')[0] ?? ''}`)
  await rowsOf(database, `create table ${name} (n int)`)
  return name
}

const count = async (database: Database, table: string): Promise<unknown> =>
  (await rowsOf(database, `select count(*)::int4 as n from ${table}`))[0]?.['n']

t.test('node-postgres: no object of the library leaves the transaction', async (t) => {
  const database = open('node-postgres')
  const table = await plainTable(database)
  const inserting = transact(database, async (tx) => {
    const client = transactionClient<pg.PoolClient>(tx)
    t.throws(() => client.query(new pg.Query('commit')), /cannot be sent in a transaction/)
    await client.query(`insert into ${table} values (1)`)
    const query = client.query(new pg.Query(`select count(*) as n from ${table}`))
    const [row] = (await once(query, 'row')) as unknown as readonly [{ readonly n: string }]
    t.equal(row.n, '1', 'statements run in their order')
    const pool = transactionClient<pg.Pool>(tx)
    const same = await new Promise<pg.PoolClient | undefined>((resolve) => {
      pool.connect((_error, given, release) => {
        release()
        resolve(given)
      })
    })
    await same?.query(`insert into ${table} values (2)`)
    await new Promise<void>((resolve) => {
      pool.end(resolve)
    })
    await client.query('select 1; commit')
    await client.query(`insert into ${table} values (3)`)
  })
  t.match(await failure(inserting), { message: /has ended the transaction/, effect: 'unknown' })
})

t.test(
  'node-postgres: a statement of keyrow waits for the library no longer than its deadline',
  async (t) => {
    const { url: own, stop: end } = await specDatabaseUrl()
    const driver = serverDrivers.find(({ name }) => name === 'node-postgres')
    const database = driver?.open(own, { timeoutMs: 300 }) as Database
    t.teardown(async () => {
      await right(database.close)
      await end()
    })
    const slow = transact(database, async (tx) => {
      void transactionClient<pg.PoolClient>(tx)
        .query('select pg_sleep(30)')
        .catch(() => undefined)
      await right(tx.query({ name: 'spec', text: 'select 1' }, []))
    })
    t.match(await failure(slow), { _tag: 'DriverError', kind: 'timeout', effect: 'none' })
    t.strictSame(
      (
        await rowsOf(
          database,
          `select 1 from pg_stat_activity where query like 'select pg_sleep%' and state = 'active'`,
        )
      ).length,
      0,
      'the statement of the library is cancelled',
    )
  },
)

t.test('node-postgres: a query object behind a lost connection learns of it', async (t) => {
  const database = open('node-postgres')
  const cut = transact(database, async (tx) => {
    const client = transactionClient<pg.PoolClient>(tx)
    client.query('select pg_terminate_backend(pg_backend_pid())').catch(() => undefined)
    const query = client.query(new pg.Query('select 1'))
    const cursor = client.query(new Cursor('select 1'))
    t.ok((await failure(once(query, 'end'))) instanceof Error)
    t.ok((await failure(cursor.read(1))) instanceof Error)
  })
  t.match(await failure(cut), { _tag: 'DriverError' })
})

t.test('postgres.js: no statement leaves the transaction', async (t) => {
  const database = open('postgres.js')
  const table = await plainTable(database)
  let late: PromiseLike<unknown> | undefined
  await transact(database, async (tx) => {
    const sql = transactionClient<Sql>(tx)
    await sql`insert into ${sql(table)} values (${1})`
    await sql.unsafe(`insert into ${table} values ($1)`, [2])
    late = sql`insert into ${sql(table)} values (3)`
    t.throws(() => sql`commit`, /cannot be sent in a transaction/)
    await t.rejects(
      sql.begin(() => undefined),
      /cannot be sent in a transaction/,
    )
    t.throws(() => sql.file('nothing.sql'), /cannot be sent in a transaction/)
    await sql.notify('here', 'there')
    await sql`create temporary table words ("end" text, "commit" text) on commit drop`
    await sql`insert into words (${sql('end')}) values ('begin')`
    const found = await sql`select ${sql('end')} from words where "end" in ${sql(['begin', 'rollback'])}`
    t.strictSame([...found], [{ end: 'begin' }], 'names and values may be words of commands')
  })
  t.match(await failure(Promise.resolve(late)), { kind: 'transactionOver' })
  t.equal(await count(database, table), 2)
  const ended = transact(database, async (tx) => {
    await transactionClient<Sql>(tx).unsafe('select 1; commit')
  })
  t.match(await failure(ended), { message: /has ended the transaction/, effect: 'unknown' })
})

t.test('postgres.js: a notification is sent by the commit only', async (t) => {
  const database = open('postgres.js')
  const heard: string[] = []
  const listener = quietPool(url, { max: 1 })
  t.teardown(() => listener.end())
  await listener.listen('spec_here', (payload) => void heard.push(payload))
  const notify = (payload: string) => (tx: Database) =>
    transactionClient<Sql>(tx).notify('spec_here', payload)
  const halt = new Error('halt')
  const undone = transact(database, async (tx) => {
    await notify('undone')(tx)
    throw halt
  })
  t.equal(await failure(undone), halt)
  await transact(database, notify('done'))
  await transact(database, notify('last'))
  while (!heard.includes('last')) await new Promise((resolve) => setTimeout(resolve, 5))
  t.strictSame(heard, ['done', 'last'])
})

t.test('what is no transaction, or has no client, is refused', async (t) => {
  t.throws(() => transactionClient<object>(open('node-postgres')), TypeError)
  const pglite = pgliteDatabase()
  t.teardown(() => pglite.close())
  await t.rejects(
    transact(pglite, (tx) => transactionClient<object>(tx)),
    TypeError,
  )
})
