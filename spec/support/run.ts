// Runs tap on spec files: `npm run spec -- spec/cookie.spec.ts`. All files share one PostgreSQL server, unless
// DATABASE_URL is set, and a cache of compiled files.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { SHARED_SERVER, startPostgres } from './postgres-server.js'

const tap = fileURLToPath(new URL('../../node_modules/.bin/tap', import.meta.url))
const typescript = new URL('./typescript.mjs', import.meta.url).href
const { NODE_OPTIONS = '', DATABASE_URL = '' } = process.env

// Two files run at a time, some with several pools. No spec kills this server, and its data need not be durable.
const settings = { max_connections: '400', shared_buffers: '128MB', fsync: 'off', full_page_writes: 'off' }
const server = DATABASE_URL === '' ? await startPostgres({ settings }) : undefined

const child = spawn(process.execPath, [tap, ...process.argv.slice(2)], {
  stdio: 'inherit',
  env: {
    ...process.env,
    NODE_OPTIONS: `${NODE_OPTIONS} --import=${typescript}`.trim(),
    ...(server === undefined ? {} : { [SHARED_SERVER]: server.url }),
  },
})
// A terminal sends Ctrl-C to both processes. The server stops when the specs have ended, or when this process is
// killed.
process.on('SIGINT', () => undefined)
for (const signal of ['SIGTERM', 'SIGHUP'] as const) process.on(signal, () => child.kill(signal))

const [code] = (await once(child, 'exit')) as [number | null]
await server?.stop()
process.exitCode = code ?? 1
