// The sessions of the shop. Next.js loads this module several times, but the store is made once.
import { nextSessions } from 'keyrow/next'
import { pgStore } from 'keyrow/pg'
import { type Session, sessionRef } from 'keyrow/promise'
import pg from 'pg'

const makeStore = () =>
  pgStore(new pg.Pool({ connectionString: process.env['DATABASE_URL'], connectionTimeoutMillis: 5_000 }))

export const sessions = nextSessions(makeStore)

export const cartOf = (session: Session): readonly string[] => sessionRef('cart', [])(session) as string[]
