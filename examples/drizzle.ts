// A shop that stores its orders with Drizzle, in the transaction that empties the cart.
import { drizzle } from 'drizzle-orm/node-postgres'
import { bigserial, pgTable, text } from 'drizzle-orm/pg-core'
import { transactionClient } from 'keyrow/promise'
import type { PoolClient } from 'pg'
import { pool, shop } from './orders.js'

const orders = pgTable('orders', {
  id: bigserial('id', { mode: 'number' }).primaryKey(),
  sku: text('sku').notNull(),
})
const db = drizzle({ client: pool })

shop({
  insert: (tx, sku) =>
    drizzle({ client: transactionClient<PoolClient>(tx) })
      .insert(orders)
      .values({ sku }),
  list: async () => (await db.select().from(orders).orderBy(orders.id)).map(({ sku }) => sku),
})
