// Tests the laws of session stores on the pool of @neondatabase/serverless, which sends PostgreSQL's protocol through
// WebSockets. Here a proxy of the spec's own connects the WebSockets to a PostgreSQL server.

import { once } from 'node:events'
import { createServer } from 'node:http'
import { type AddressInfo, connect } from 'node:net'
import { neonConfig, Pool } from '@neondatabase/serverless'
import t from 'tap'
import { WebSocket, WebSocketServer } from 'ws'
import { pgDatabase } from '../lib/entry/pg.js'
import { transact, transactionClient } from '../lib/promise/index.js'
import { sessionStoreLaws } from '../lib/testing/index.js'
import { specDatabaseUrl } from './support/postgres-server.js'
import { dropSchemas, fast, openIn, right } from './support/stores.js'

const { url, stop } = await specDatabaseUrl()
const { hostname, port } = new URL(url)

const server = createServer()
new WebSocketServer({ server }).on('connection', (webSocket) => {
  const socket = connect(Number(port), hostname)
  webSocket.on('message', (message: Buffer) => socket.write(message))
  webSocket.on('close', () => socket.destroy())
  socket.on('data', (bytes) => {
    webSocket.send(bytes)
  })
  socket.on('error', () => undefined)
  socket.on('close', () => {
    webSocket.close()
  })
})
server.listen(0, '127.0.0.1')
await once(server, 'listening')

const proxy = server.address() as AddressInfo
neonConfig.webSocketConstructor = WebSocket
neonConfig.wsProxy = () => `127.0.0.1:${String(proxy.port)}`
neonConfig.useSecureWebSocket = false
neonConfig.pipelineConnect = false
neonConfig.pipelineTLS = false

const database = pgDatabase(new Pool({ connectionString: url, connectionTimeoutMillis: 5_000 }))
t.teardown(async () => {
  await dropSchemas(database)
  await right(database.close)
  server.close()
  await stop()
})

for (const { name, run } of sessionStoreLaws(openIn(database, undefined, {}, fast))) t.test(name, run)

t.test('other libraries can use its client in a transaction', async (t) => {
  const rows = await transact(database, async (tx) => {
    const client = transactionClient<Pool>(tx)
    await client.query('create temporary table here (n int) on commit drop')
    await client.query('insert into here values ($1)', [7])
    return (await client.query<{ n: number }>('select n from here')).rows
  })
  t.strictSame(rows, [{ n: 7 }])
})
