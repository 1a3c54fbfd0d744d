// Tests the real Drizzle and Kysely in a transaction of keyrow, on node-postgres and on postgres.js.

import { once } from 'node:events'
import { sql as drizzleSql } from 'drizzle-orm'
import { drizzle as drizzlePg } from 'drizzle-orm/node-postgres'
import { bigserial, integer, jsonb, pgSchema, text, timestamp } from 'drizzle-orm/pg-core'
import { drizzle as drizzlePostgres } from 'drizzle-orm/postgres-js'
import { Kysely, sql as kyselySql, PostgresDialect, type PostgresPool } from 'kysely'
import { PostgresJSDialect } from 'kysely-postgres-js'
import pg from 'pg'
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
import { rowsOf, serverDrivers } from './support/databases.js'
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
}

interface Library {
  readonly name: string
  readonly driver: (typeof serverDrivers)[number]['name']
  readonly open: (tx: Database, schema: string) => Orders
  /** How many transactions of the library can be nested in each other. */
  readonly depth: 0 | 1 | 2
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
  })
  return on(db)
}

const libraries: readonly Library[] = [
  {
    name: 'Drizzle on node-postgres',
    driver: 'node-postgres',
    open: (tx, schema) => drizzleOrders(drizzlePg({ client: transactionClient<pg.PoolClient>(tx) }), schema),
    depth: 2,
  },
  {
    name: 'Drizzle on postgres.js',
    driver: 'postgres.js',
    open: (tx, schema) =>
      drizzleOrders(drizzlePostgres({ client: transactionClient<Sql>(tx) }) as never, schema),
    depth: 2,
  },
  {
    name: 'Kysely on node-postgres',
    driver: 'node-postgres',
    open: (tx, schema) =>
      kyselyOrders(
        new Kysely({ dialect: new PostgresDialect({ pool: transactionClient<PostgresPool>(tx) }) }),
        schema,
        JSON.stringify(DETAIL),
      ),
    depth: 1,
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
    depth: 0,
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

  if (library.depth === 0)
    t.test('a transaction of the library is refused, and transact makes a savepoint', async (t) => {
      const { schema, skus, order } = await made()
      await order(async (orders, tx) => {
        await orders.insert('milk')
        t.match(await failure(orders.transaction((inner) => inner.insert('jam'))), { kind: 'outerHandle' })
        await transact(tx, (tx2) => library.open(tx2, schema).insert('tea'))
      })
      t.strictSame(await skus(), ['milk', 'tea'])
    })
  else
    t.test('a transaction of the library is a savepoint', async (t) => {
      const { session, skus, values, order } = await made()
      await order(async (orders, tx) => {
        await orders.insert('milk')
        await orders.transaction((inner) => inner.insert('bread'))
        const halt = new Error('halt')
        const halted = orders.transaction(async (inner) => {
          await inner.insert('butter')
          throw halt
        })
        t.equal(await failure(halted), halt)
        t.ok((await failure(orders.transaction((inner) => inner.insert('jam', 0)))) instanceof Error)
        const ignored = orders.transaction(async (inner) => {
          await inner.insert('jam', 0).catch(() => undefined)
        })
        t.ok(
          (await failure(ignored)) instanceof Error,
          'its commit fails, though the library alone resolves on node-postgres',
        )
        await orders.insert('tea')
        await checkOut(session, tx)
      })
      t.strictSame([await skus(), await values()], [['milk', 'bread', 'tea'], { cart: [] }])
      const halt = new Error('halt')
      const undone = order(async (orders) => {
        await orders.transaction((inner) => inner.insert('more'))
        throw halt
      })
      t.equal(await failure(undone), halt)
      t.strictSame(await skus(), ['milk', 'bread', 'tea'], 'the library’s commit has committed nothing')
    })

  if (library.depth > 1)
    t.test('a transaction in a transaction of the library is a savepoint, too', async (t) => {
      const { skus, order } = await made()
      await order((orders) =>
        orders.transaction(async (inner) => {
          await inner.insert('milk')
          await inner.transaction((innermost) => innermost.insert('bread'))
          t.ok((await failure(inner.transaction((innermost) => innermost.insert('jam', 0)))) instanceof Error)
          await inner.insert('tea')
        }),
      )
      t.strictSame(await skus(), ['milk', 'bread', 'tea'])
    })

  t.test('two transactions of the library at once: each row is of a fulfilled one', async (t) => {
    const { skus, order } = await made()
    const fulfilled: string[] = []
    const both = order(async (orders) => {
      const one = (sku: string, amount: number) =>
        orders
          .transaction(async (inner) => {
            await inner.insert(sku, amount)
            await new Promise((resolve) => setTimeout(resolve, 20))
          })
          .then(
            () => void fulfilled.push(sku),
            () => undefined,
          )
      await Promise.all([one('tea', 1), one('milk', 0)])
    })
    const isCommitted = await both.then(
      () => true,
      () => false,
    )
    t.strictSame(await skus(), isCommitted ? fulfilled : [])
  })

  t.test('a stricter isolation level is refused, and the transaction goes on', async (t) => {
    const { skus, order } = await made()
    await order(async (orders) => {
      const strict = await failure(orders.transaction((inner) => inner.insert('jam'), 'serializable'))
      t.match(
        String((strict as Error).cause ?? strict),
        /serializable|must not be called in a subtransaction/,
      )
      await orders.insert('tea').catch(() => undefined)
    }).catch((error: unknown) => t.match(error, { _tag: 'DriverError' }))
    t.notOk((await skus()).includes('jam'))
  })

  t.test('the library cannot end the transaction', async (t) => {
    const { skus, order } = await made()
    for (const text of ['commit', 'COMMIT WORK;', 'end', 'rollback', ' abort ', 'commit and chain']) {
      const halt = new Error(text)
      const run = order(async (orders) => {
        await orders.insert('tea')
        const refused = await failure(orders.send(text))
        t.match(refused instanceof DriverError ? refused : (refused as Error).cause, { kind: 'outerHandle' })
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
          t.match(outer instanceof DriverError ? outer : (outer as Error).cause, { kind: 'outerHandle' })
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
      t.match(refused instanceof DriverError ? refused : (refused as Error).cause, {
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

t.test('what is no transaction, or has no client, is refused', async (t) => {
  t.throws(() => transactionClient<object>(open('node-postgres')), TypeError)
  const pglite = pgliteDatabase()
  t.teardown(() => pglite.close())
  await t.rejects(
    transact(pglite, (tx) => transactionClient<object>(tx)),
    TypeError,
  )
})
