import { pgDatabase } from 'keyrow/pg'
import { buildSession, type Session, saveSession, sessionSet } from 'keyrow/promise'
import { batched, cached, sessionStore, writeBehind } from 'keyrow/store'
import pg from 'pg'
import { startRedis } from '../spec/support/cache-servers.js'
import { startPostgres } from '../spec/support/postgres-server.js'
const postgres = await startPostgres({ settings: { shared_buffers: '256MB' } })
const redis = await startRedis()
const database = pgDatabase(new pg.Pool({ connectionString: postgres.url, max: 10 }))
const cache = redis.open({ timeoutMs: 5_000 })
const late = writeBehind(cached(sessionStore(database)), cache, { secrets: [Buffer.alloc(32, 1)] })
const store = process.env['MODE'] === 'full' ? batched(cached(sessionStore(database))) : batched(late)
const sessions: Session[] = []
for (let i = 0; i < 200; i++) { let s = buildSession(store); for (let k = 0; k < 5; k++) s = sessionSet(`key ${k}`, 'x'.repeat(50))(s); sessions.push(await saveSession(s)) }
const run = async (n: number) => { const t = performance.now(), c = process.cpuUsage(); const times: number[] = []
  for (let i = 0; i < n; i++) { const t1 = performance.now(); const at = i % 200; sessions[at] = await saveSession(sessionSet(`key ${i % 5}`, String(i).padEnd(50, 'x'))(sessions[at] as Session)); times.push(performance.now() - t1) }
  const u = process.cpuUsage(c); times.sort((a, b) => a - b); console.log('us/save', (performance.now() - t) / n * 1000, 'cpu', (u.user + u.system) / n, 'median', times[n >> 1]! * 1000) }
await run(2000); await run(4000); await run(4000)
await late.drain(); await cache.close(); await database.close(); await redis.stop(); await postgres.stop()
