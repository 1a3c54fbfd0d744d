// The common part of the two shops that store orders with another library. The cart is in the session, and an order is
// a row of the program's own table. Both change in one transaction.
import { isDeepStrictEqual } from 'node:util'
import express from 'express'
import { sessionMiddleware } from 'keyrow/express'
import { pgStore } from 'keyrow/pg'
import {
  currentSession,
  type Database,
  sessionFlash,
  sessionRef,
  sessionUpdate,
  transact,
  updateCurrentSession,
} from 'keyrow/promise'
import pg from 'pg'

const { DATABASE_URL: url, PORT = '3000' } = process.env

export const pool = new pg.Pool({ connectionString: url, connectionTimeoutMillis: 5_000 })
const store = pgStore(pool)
await pool.query(
  'create table if not exists orders (id bigserial primary key, sku text check (sku <> $$sold$$))',
)

/** The functions that a shop implements with its library. */
export interface Orders {
  readonly insert: (tx: Database, sku: string) => Promise<unknown>
  readonly list: () => Promise<readonly string[]>
}

const cart = async (): Promise<readonly string[]> =>
  sessionRef('cart', [])(await currentSession()) as readonly string[]

/** Orders the whole cart, and empties it. If one order fails, nothing is stored, and the cart stays as it was. */
const buy = ({ insert }: Orders): Promise<void> =>
  transact(store.database, async (tx) => {
    const skus = await cart()
    for (const sku of skus) await insert(tx, sku)
    await updateCurrentSession(sessionUpdate('cart', emptied(skus), []))
    await updateCurrentSession(sessionFlash('info', 'Thank you.'))
  })

// The save runs this function on the newest cart. So a double click makes one order, and no item is lost.
const emptied = (ordered: readonly string[]) => (now: unknown) => {
  if (!isDeepStrictEqual(now, ordered)) throw new Error('The cart has changed.')
  return []
}

export const shop = (orders: Orders): void => {
  const app = express()
  app.use(sessionMiddleware({ store }))
  app.get('/', async (_req, res) => {
    res.json({ cart: await cart(), orders: await orders.list() })
  })
  app.post('/add/:sku', async (req, res) => {
    await updateCurrentSession(sessionUpdate('cart', (skus) => [...(skus as string[]), req.params.sku], []))
    res.redirect(303, '/')
  })
  app.post('/buy', async (_req, res) => {
    await buy(orders)
    res.redirect(303, '/')
  })
  const server = app.listen(Number(PORT), '127.0.0.1', () => console.log(server.address()))
}
