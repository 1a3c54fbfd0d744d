// Starts the shop. It opens the database, and serves on PORT until SIGTERM or SIGINT. Then the shop stops accepting
// connections, waits for running requests, stops the cleanup, and closes the database. `npm start` runs this program.

import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import { isIPv6 } from 'node:net'
import { closeDatabase, onSessionEvent, prepareStore, sessionStore, startCleanup } from 'keyrow/promise'
import { counted, logged } from './log.js'
import { stubPayments } from './payments.js'
import { shopListener } from './routes.js'
import { openDatabase, prepareTables } from './storage.js'

/** The time after the signal within which running requests must end, in milliseconds. */
const DRAIN_MS = 5000

const { DATABASE_URL, HOST = '127.0.0.1', PORT = '3000', TRUST_PROXY } = process.env

// The signal handlers are registered first, so that a signal during the start is not missed.
const stopSignal = new Promise((resolve) => {
  process.on('SIGTERM', resolve)
  process.on('SIGINT', resolve)
})

// keyrow logs the failure of a request. The cleanup has no caller, so its failures are logged here.
onSessionEvent('failed', ({ operation, error, sqlState = '' }) => {
  if (operation === 'deleteExpired') console.error('keyrow shop: the cleanup failed:', error, sqlState)
})

const run = async (): Promise<void> => {
  if (!/^\d{1,5}$/.test(PORT)) throw new Error(`PORT is ${JSON.stringify(PORT)}; it must be a number`)
  const database = counted(openDatabase(DATABASE_URL))
  try {
    const store = sessionStore(database)
    console.log(
      `keyrow shop: opening ${DATABASE_URL ? 'the database of DATABASE_URL' : 'PGlite in .data/shop'} …`,
    )
    await prepareStore(store)
    const prepared = await prepareTables(database)()
    if (prepared._tag === 'Left') throw prepared.left
    const options = { store, trustProxy: TRUST_PROXY === '1' }
    const server = createServer(logged(shopListener(database, stubPayments(), options)))
    const url = await listen(server)
    console.log(`keyrow shop: ${url}`)
    console.log(`Open ${url}lab`)
    const cleanup = startCleanup(store)
    await stopSignal
    await drain(server)
    await cleanup.stop()
  } finally {
    await closeDatabase(database)
  }
}

/** Starts the server, and returns its address. */
const listen = async (server: Server): Promise<string> => {
  server.listen(Number(PORT), HOST)
  await once(server, 'listening')
  const address = server.address()
  const port = typeof address === 'object' ? address?.port : undefined
  return `http://${isIPv6(HOST) ? `[${HOST}]` : HOST}:${port ?? PORT}/`
}

const drain = async (server: Server): Promise<void> => {
  const closed = once(server, 'close')
  server.close()
  // A keep-alive connection is closed once it is idle.
  const idle = setInterval(() => server.closeIdleConnections(), 50)
  const late = setTimeout(() => server.closeAllConnections(), DRAIN_MS)
  await closed
  clearInterval(idle)
  clearTimeout(late)
}

const explain = (error: unknown): string => (error instanceof Error ? error.message : String(error))

run().then(
  () => process.exit(0),
  (error: unknown) => {
    console.error(`keyrow shop: cannot run: ${explain(error)}`)
    process.exit(1)
  },
)
