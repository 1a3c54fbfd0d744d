// Measures what the option `bound` costs: the processor time of an HTTP request with a valid bound cookie, and of the same
// request without the option. Both go through Express to PostgreSQL, and change one key of a session with 5 keys. `npm run
// bench:bound` runs the benchmark. The program serves in a process of its own, so that its processor time is the server's.
// The contenders take turns in short rounds. ROUNDS, REQUESTS and AT_ONCE configure the benchmark.

import { fork } from 'node:child_process'
import { once } from 'node:events'
import { Agent, createServer, request } from 'node:http'
import type { AddressInfo } from 'node:net'
import { fileURLToPath } from 'node:url'
import express, { type RequestHandler } from 'express'
import { type AdapterOptions, sessionMiddleware } from 'keyrow/express'
import { pgStore } from 'keyrow/pg'
import { sessionSet, signIn, updateCurrentSession } from 'keyrow/promise'
import pg from 'pg'
import { newKeys, proofOf } from '../spec/support/bound-browser.js'
import { startPostgres } from '../spec/support/postgres-server.js'

const figure = (name: string, otherwise: number): number => Number(process.env[name] ?? otherwise)
const rounds = figure('ROUNDS', 41)
const requests = figure('REQUESTS', 2_000)
const atOnce = figure('AT_ONCE', 16)

const serve = async (url: string): Promise<void> => {
  const store = pgStore(new pg.Pool({ connectionString: url }), { cleanup: false })
  const app = express()
  app.set('trust proxy', true)
  const router = (options: Partial<AdapterOptions>) => {
    const routes = express()
    routes.use(sessionMiddleware({ store, ...options }) as unknown as RequestHandler)
    routes.post('/in', async (_req, res) => {
      await updateCurrentSession((session) =>
        Array.from({ length: 5 }).reduce(
          (filled: typeof session, _, key) => sessionSet(`key ${String(key)}`, 'x'.repeat(50))(filled),
          session,
        ),
      )
      await signIn('ada')
      res.send('in')
    })
    routes.post('/set', async (_req, res) => {
      await updateCurrentSession(sessionSet('key 1', String(Math.random())))
      res.send('set')
    })
    return routes
  }
  app.use('/plain', router({}))
  app.use('/bound', router({ bound: { path: '/bound/binding', maxAgeMs: 86_400_000 } }))
  const server = createServer(app)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  process.on('message', () => process.send?.(process.cpuUsage()))
  process.send?.((server.address() as AddressInfo).port)
}

const url = process.argv[2]
if (url !== undefined) await serve(url)
else await main()

async function main(): Promise<void> {
  const postgres = await startPostgres({ settings: { shared_buffers: '256MB' } })
  const child = fork(fileURLToPath(import.meta.url), [postgres.url], { execArgv: process.execArgv })
  const [port] = (await once(child, 'message')) as [number]
  const agent = new Agent({ keepAlive: true, maxSockets: atOnce })
  const post = (path: string, headers: Readonly<Record<string, string>>) =>
    new Promise<{ status: number; headers: NodeJS.Dict<string | string[]> }>((resolve, reject) => {
      const common = { host: '127.0.0.1', port, path, method: 'POST', agent }
      request({ ...common, headers: { 'x-forwarded-proto': 'https', ...headers } }, (res) => {
        res.resume().on('end', () => resolve({ status: res.statusCode ?? 0, headers: res.headers }))
      })
        .on('error', reject)
        .end()
    })
  const cookiesOf = (headers: NodeJS.Dict<string | string[]>): readonly string[] =>
    [headers['set-cookie'] ?? []].flat().map((cookie) => cookie.split(';')[0] ?? '')
  const signedIn = async (path: string): Promise<string> => {
    const { headers } = await post(`${path}/in`, {})
    const [token = ''] = cookiesOf(headers)
    const offer = String(headers['secure-session-registration'] ?? '')
    const challenge = /challenge="([^"]+)"/.exec(offer)?.[1]
    if (challenge === undefined) return token
    const proof = proofOf(newKeys(), challenge)
    const registered = await post('/bound/binding/register', {
      cookie: token,
      'secure-session-response': proof,
    })
    return [token, ...cookiesOf(registered.headers)].join('; ')
  }
  const round = async (path: string, cookies: readonly string[]): Promise<number> => {
    const usage = async (): Promise<number> => {
      child.send('usage')
      const [{ user, system }] = (await once(child, 'message')) as [NodeJS.CpuUsage]
      return user + system
    }
    const before = await usage()
    let left = requests
    const client = async (cookie: string): Promise<void> => {
      while (left > 0) {
        left -= 1
        const { status } = await post(`${path}/set`, { cookie })
        if (status !== 200) throw new Error(`${path} answers ${String(status)}`)
      }
    }
    await Promise.all(cookies.map(client))
    return ((await usage()) - before) / requests
  }
  const sessions = async (path: string): Promise<readonly string[]> =>
    Promise.all(Array.from({ length: atOnce }, () => signedIn(path)))
  const [plain, bound] = [await sessions('/plain'), await sessions('/bound')]
  const ratios: number[] = []
  const costs: [number, number][] = []
  for (let count = 0; count <= rounds; count += 1) {
    const order = count % 2 === 0
    const first = order ? await round('/plain', plain) : await round('/bound', bound)
    const second = order ? await round('/bound', bound) : await round('/plain', plain)
    const [without, withCookie] = order ? [first, second] : [second, first]
    // The first round warms up.
    if (count > 0) {
      costs.push([without, withCookie])
      ratios.push(withCookie / without)
    }
  }
  const median = (values: readonly number[]): number =>
    values.toSorted((a, b) => a - b)[values.length >> 1] ?? Number.NaN
  console.log(`${String(atOnce)} requests at once, medians of ${String(rounds)} rounds`)
  console.log(
    `without a bound cookie: ${median(costs.map(([one]) => one)).toFixed(1)} µs of the process for a request`,
  )
  console.log(`with a bound cookie:    ${median(costs.map(([, one]) => one)).toFixed(1)} µs`)
  console.log(`ratio:                  ${median(ratios).toFixed(3)}`)
  child.kill()
  await postgres.stop()
}
