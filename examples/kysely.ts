// A shop that stores its orders with Kysely, in the transaction that empties the cart.

import { transactionClient } from 'keyrow/promise'
import { type Generated, Kysely, PostgresDialect, type PostgresPool } from 'kysely'
import { pool, shop } from './orders.js'

interface Tables {
  orders: { id: Generated<string>; sku: string }
}

const kysely = (client: PostgresPool): Kysely<Tables> =>
  new Kysely({ dialect: new PostgresDialect({ pool: client }) })
const db = kysely(pool)

shop({
  insert: (tx, sku) => kysely(transactionClient(tx)).insertInto('orders').values({ sku }).execute(),
  list: async () =>
    (await db.selectFrom('orders').select('sku').orderBy('id').execute()).map(({ sku }) => sku),
})
