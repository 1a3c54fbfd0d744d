import postgres from 'postgres'
const dist = process.env.DIST ?? '/work/main/dist'
const { buildSession, loadSession, prepareStore, saveSession, sessionSet, sessionToken } = await import(dist + '/promise/index.js')
const { sessionStore, batched, cached } = await import(dist + '/entry/store.js')
const { poolOptions, postgresDatabase } = await import(dist + '/entry/postgres.js')
const pgm = process.env.DRIVER === 'pg' ? await import(dist + '/entry/pg.js') : undefined
const { default: pg } = await import('pg')
const db = pgm ? pgm.pgDatabase(new pg.Pool({ connectionString: process.env.URL ?? 'postgres://postgres@127.0.0.1:54991/postgres', max: Number(process.env.MAX ?? 10) })) : postgresDatabase(() => postgres((process.env.URL ?? 'postgres://postgres@127.0.0.1:54991/postgres'), { ...poolOptions, max: Number(process.env.MAX ?? 10), onnotice: () => {} }))
const store = batched(cached(sessionStore(db, { schema: process.env.SCHEMA ?? 'prof' })))
await prepareStore(store)
const tokens = await Promise.all(Array.from({ length: 1000 }, async () => { let s = buildSession(store); for (let k = 0; k < 5; k++) s = sessionSet('key ' + k, 'v'.repeat(50))(s); return sessionToken(await saveSession(s)) }))
let n = 0, until = performance.now() + Number(process.env.MS ?? 6000), conc = Number(process.env.C ?? 64)
const ro = process.env.RO === '1'
const one = async () => { while (performance.now() < until) { const s = await loadSession(store, tokens[Math.floor(Math.random() * 1000)]); if (!ro) await saveSession(sessionSet('key ' + (n % 5), String(n).padEnd(50, 'x'))(s)); n++ } }
const warm = until; until = performance.now() + 1500; await Promise.all(Array.from({ length: conc }, one)); until = performance.now() + Number(process.env.MS ?? 6000); n = 0
const heap0 = process.memoryUsage().heapUsed
const c0 = process.cpuUsage(); const e0 = performance.eventLoopUtilization()
let session
if (process.env.PROF) { const { Session } = await import('node:inspector/promises'); session = new Session(); session.connect(); await session.post('Profiler.enable'); await session.post('Profiler.setSamplingInterval', { interval: 200 }); await session.post('Profiler.start') }
await Promise.all(Array.from({ length: conc }, one))
const c = process.cpuUsage(c0)
const elu = performance.eventLoopUtilization(e0); console.log('elu', elu.utilization.toFixed(2), 'rate', (n / Number(process.env.MS ?? 6000) * 1000).toFixed(0)); console.log(n, 'cycles', (c.user / n).toFixed(1), '+', (c.system / n).toFixed(1), 'µs')
if (session) {
  const { profile } = await session.post('Profiler.stop')
  const self = new Map(), byFile = new Map()
  const dt = profile.timeDeltas; const nodes = new Map(profile.nodes.map((x) => [x.id, x]))
  let total = 0
  profile.samples.forEach((id, i) => { const x = nodes.get(id).callFrame; const f = x.url.replace(/.*node_modules\//, 'nm/').replace(/.*\/dist\//, ''); const k = `${x.functionName || '(anon)'} ${f}:${x.lineNumber + 1}`; self.set(k, (self.get(k) ?? 0) + dt[i]); byFile.set(f, (byFile.get(f) ?? 0) + dt[i]); if (x.functionName !== '(idle)') total += dt[i] })
  const wb = [...self].filter(([f]) => /^writeBuffer|inspector|^post /.test(f)).reduce((s, [, v]) => s + v, 0); console.log('total busy', (total / n).toFixed(1), 'js', ((total - wb) / n).toFixed(1))
  const show = (m, k) => [...m].sort((a, b) => b[1] - a[1]).slice(0, k).forEach(([f, v]) => console.log((v / n).toFixed(2).padStart(7), f))
  show(byFile, 30); console.log('---'); show(self, 60)
}
await db.close()
