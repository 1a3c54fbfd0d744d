// Measures the cost of an answer in a flow, with answers of 1 kB. `npm run bench:flows` runs the benchmark. It compares a
// flow of 400 answers, in a session with 1,000 other continuations, with a flow of 2 answers. It also compares keyrow
// with a wizard that keeps all its answers in a session of connect-pg-simple: the same form, sent over HTTP to two
// applications of Express, and then only the read and the write of the wizard's session. The contenders take turns in short
// rounds, and the benchmark compares figures of the same round. The environment variables ROUNDS, ANSWERS and AT_ONCE
// configure the benchmark, and CASES is a regular expression for the comparisons.
//
// The rows are inserted by SQL. In each measured request the visitor answers a page with a new answer, and so comes to the
// next page. After some answers the visitor goes back to the first of these pages, so that the flow keeps its length.

import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { Agent, request as httpRequest, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import pgSimple from 'connect-pg-simple'
import express, { type Express, type RequestHandler } from 'express'
import session from 'express-session'
import * as E from 'fp-ts/lib/Either.js'
import * as t from 'io-ts'
import { sessionMiddleware } from 'keyrow/express'
import { pgDatabase } from 'keyrow/pg'
import {
  buildSession,
  loadSession,
  type Session,
  saveSession,
  sessionSet,
  sessionToken,
  withSession,
} from 'keyrow/promise'
import { expressFlow, flow, flowHandler, suspend } from 'keyrow/promise/flow'
import { batched, cached, sessionStore } from 'keyrow/store'
import pg from 'pg'
import { startPostgres } from '../spec/support/postgres-server.js'
import { processorTime } from './sessions/processor-time.js'

const figure = (name: string, otherwise: number): number => Number(process.env[name] ?? otherwise)
const rounds = figure('ROUNDS', 7)
const answers = figure('ANSWERS', 800)
const atOnce = figure('AT_ONCE', 16)
const chosen = new RegExp(process.env['CASES'] ?? '.')
/** The number of answers of each contender before the measurement. */
const WARM_UP = 4_000
/** The journals of all sessions fit into the cache of the process. A flow has at most 500 answers. */
const SESSIONS = 24

const server = await startPostgres()
const pool = new pg.Pool({ connectionString: server.url, max: 10 })
const database = pgDatabase(pool)
const plain = sessionStore(database)
const store = batched(cached(plain))
await store.prepare()
const pids = [server.pid]

const say = (line: string): void => void process.stdout.write(`${line}\n`)
const text = (): string => `${randomUUID()}${'x'.repeat(960)}`

const Answer = t.strict({ text: t.string })
const wizard = flow({ name: 'wizard', input: t.strict({}) }, function* () {
  for (;;) yield* suspend('answer', Answer, ({ url }) => url)
})
const handler = flowHandler(wizard, { at: '/wizard', start: () => ({}), done: () => '/' })

const short = (uuid: string): string => Buffer.from(uuid.replaceAll('-', ''), 'hex').toString('base64url')

/** Inserts a flow with a chain of answers into a session. Returns the URL of its last page. */
const insertFlow = async ({ id }: Session, depth: number): Promise<string> => {
  const flow = randomUUID()
  const rows = Array.from({ length: depth }, () => randomUUID())
  await pool.query(
    `insert into keyrow.flow values ($1, $2, 'wizard', 1, '{}', $3, null, null, null, 0, $4, $5, $5 * 1000, null, now(),
                                     null, now() + interval '1 day')`,
    [id, flow, '00'.repeat(16), rows.at(-1), depth],
  )
  await pool.query(
    `insert into keyrow.continuation
     select $1, $2, r.id, lag(r.id) over (order by r.n), 0, r.n, 'answer',
            jsonb_build_array(jsonb_build_array('suspend', 'answer', jsonb_build_object('text', gen_random_uuid() || repeat('x', 960)))),
            '0000000000000000', now()
     from unnest($3::uuid[]) with ordinality as r (id, n)`,
    [id, flow, rows],
  )
  return `/wizard?k=${short(flow)}.${short(rows.at(-1) ?? '')}`
}

interface Place {
  readonly token: string
  /** The page to which the visitor goes back after `span` answers. */
  readonly first: string
  readonly span: number
  /** The page that the visitor answers next. */
  url: string
  answered: number
}

/** Moves the visitor to the page after an answer, or back to the first one. */
const goOn = (place: Place, next: string | undefined): void => {
  place.answered += 1
  place.url = place.answered % place.span === 0 ? place.first : (next ?? place.url)
}

/** Makes sessions, each with a flow of this depth, and with other flows that have this many continuations in all. */
const places = (depth: number, others: number): Promise<readonly Place[]> =>
  Promise.all(
    Array.from({ length: SESSIONS }, async () => {
      const made = await saveSession(sessionSet('user', 'ada')(buildSession(store)))
      for (let flow = 0; flow < 19 && others > 0; flow += 1) await insertFlow(made, Math.ceil(others / 19))
      const first = await insertFlow(made, depth)
      const span = Math.max(1, Math.round(depth / 5))
      return { token: sessionToken(made), first, span, url: first, answered: 0 }
    }),
  )

const request = async ({ token, url }: Place, method: string, body?: unknown) => {
  const loaded = await loadSession(store, token)
  if (loaded === undefined) throw new Error('there is no such session')
  const headers = { 'sec-fetch-site': 'same-origin' }
  const reply = await withSession(loaded, async () => handler({ method, url, headers, body })())
  if (reply._tag === 'Left') throw reply.left as Error
  return { status: reply.right.status, location: reply.right.headers['Location'] }
}

const answer = async (place: Place): Promise<void> => {
  const { status, location } = await request(place, 'POST', { text: text() })
  if (status !== 303) throw new Error(`the answer has the status ${String(status)}`)
  goOn(place, location)
}

interface Contender {
  readonly name: string
  readonly act: (index: number) => Promise<unknown>
}

/** If `shows` is true, the visitor also looks at each page before its answer. */
const keyrow = async (name: string, depth: number, others = 0, shows = false): Promise<Contender> => {
  const made = await places(depth, others)
  for (const place of made) await request(place, 'GET')
  return {
    name,
    act: async (index) => {
      const place = made[index % SESSIONS] as Place
      if (shows) await request(place, 'GET')
      await answer(place)
    },
  }
}

const closing: (() => unknown)[] = []
const agent = new Agent({ keepAlive: true })
closing.push(() => agent.destroy())

interface Posted {
  readonly status: number
  readonly location: string | undefined
  readonly cookie: string | undefined
}

/** Serves an application. Returns a function that posts a form to it. */
const serving = async (app: Express) => {
  const http = app.listen(0, '127.0.0.1')
  await once(http, 'listening')
  closing.push(() => http.close())
  const { port } = http.address() as AddressInfo
  return async (path: string, cookie: string, form: string): Promise<Posted> => {
    const headers = {
      ...{ cookie, 'content-type': 'application/x-www-form-urlencoded', 'sec-fetch-site': 'same-origin' },
      ...{ origin: `http://127.0.0.1:${String(port)}`, 'content-length': form.length },
    }
    const sent = httpRequest({ agent, port, host: '127.0.0.1', path, method: 'POST', headers })
    sent.end(form)
    const [response] = (await once(sent, 'response')) as [IncomingMessage]
    response.resume()
    await once(response, 'end')
    const { location, 'set-cookie': cookies } = response.headers
    return { status: response.statusCode ?? 0, location, cookie: cookies?.[0]?.split(';')[0] }
  }
}

type Post = Awaited<ReturnType<typeof serving>>

const answerOverHttp = async (post: Post, url: string, cookie: string): Promise<string | undefined> => {
  const { status, location } = await post(url, cookie, `text=${text()}`)
  if (status !== 303) throw new Error(`the answer has the status ${String(status)}`)
  return location
}

const keyrowApp = express()
keyrowApp.use(sessionMiddleware({ store }) as unknown as RequestHandler)
keyrowApp.use(express.urlencoded())
keyrowApp.all('/wizard', expressFlow(handler))
const postToKeyrow = await serving(keyrowApp)

const keyrowOverHttp = async (depth: number): Promise<Contender> => {
  const made = await places(depth, 0)
  for (const place of made) await request(place, 'GET')
  return {
    name: 'keyrow over HTTP',
    act: async (index) => {
      const place = made[index % SESSIONS] as Place
      goOn(place, await answerOverHttp(postToKeyrow, place.url, `session=${place.token}`))
    },
  }
}

const simpleStore = new (pgSimple(session))({
  pool,
  createTableIfMissing: true,
  pruneSessionInterval: false,
})
const sessionApp = express()
sessionApp.use(
  session({
    secret: 'a secret of the benchmark',
    store: simpleStore,
    resave: false,
    saveUninitialized: false,
  }),
)
sessionApp.use(express.urlencoded())
sessionApp.post('/begin', (req, res) => {
  Object.assign(req.session, { answers: Array.from({ length: Number(req.query['depth']) }, text) })
  res.sendStatus(200)
})
sessionApp.post('/wizard', (req, res) => {
  const answer = Answer.decode(req.body)
  const { answers } = req.session as unknown as { readonly answers: readonly string[] }
  if (E.isLeft(answer)) {
    res.sendStatus(422)
    return
  }
  // The last answer is replaced, so that the session keeps its size.
  Object.assign(req.session, { answers: [...answers.slice(0, -1), answer.right.text] })
  res.redirect(303, '/wizard')
})
const postToSession = await serving(sessionApp)

/** The same wizard with all its answers in the session. */
const inSessionOverHttp = async (depth: number): Promise<Contender> => {
  const cookies: string[] = []
  while (cookies.length < SESSIONS)
    cookies.push((await postToSession(`/begin?depth=${String(depth)}`, '', '')).cookie ?? '')
  return {
    name: `express-session over HTTP, ${String(depth)} answers`,
    act: (index) => answerOverHttp(postToSession, '/wizard', cookies[index % SESSIONS] ?? ''),
  }
}

/** The same wizard with all its answers in the session. A request reads the session and writes it. */
const inSession = async (depth: number): Promise<Contender> => {
  const cookie = { originalMaxAge: 1_800_000, path: '/' }
  const set = (sid: string, data: object) =>
    new Promise<void>((resolve, reject) => {
      simpleStore.set(sid, data as session.SessionData, (error?: unknown) =>
        error ? reject(new Error('set', { cause: error })) : resolve(),
      )
    })
  const get = (sid: string) =>
    new Promise<{ readonly answers: readonly string[] }>((resolve, reject) => {
      simpleStore.get(sid, (error: unknown, data) =>
        error ? reject(new Error('get', { cause: error })) : resolve(data as never),
      )
    })
  await get('none').catch(() => undefined)
  const sids = Array.from({ length: SESSIONS }, () => randomUUID())
  for (const sid of sids) await set(sid, { cookie, answers: Array.from({ length: depth }, text) })
  return {
    name: `connect-pg-simple, ${String(depth)} answers`,
    act: async (index) => {
      const sid = sids[index % SESSIONS] ?? ''
      const data = await get(sid)
      // The last answer is replaced, so that the session keeps its size.
      await set(sid, { ...data, cookie, answers: [...data.answers.slice(0, -1), text()] })
    },
  }
}

interface Measured {
  readonly rate: number
  /** The processor time of the process and of the server for one answer, in microseconds. */
  readonly processor: number
  /** The part of the server. */
  readonly server: number
}

const measured = async ({ act }: Contender, count: number): Promise<Measured> => {
  const [own, others, start] = [process.cpuUsage(), processorTime(pids), performance.now()]
  let next = 0
  const worker = async () => {
    while (next < count) {
      next += 1
      await act(next)
    }
  }
  await Promise.all(Array.from({ length: atOnce }, worker))
  const seconds = (performance.now() - start) / 1_000
  const { user, system } = process.cpuUsage(own)
  const server = processorTime(pids) - others
  return {
    rate: count / seconds,
    processor: (user + system + server * 1_000) / count,
    server: (server * 1_000) / count,
  }
}

const median = (values: readonly number[]): number =>
  values.toSorted((a, b) => a - b)[values.length >> 1] ?? Number.NaN

type MakeContender = () => Promise<Contender>

/** Compares two contenders. Each round begins with new sessions, since a flow has at most 500 answers. */
const compare = async (title: string, ours: MakeContender, peer: MakeContender): Promise<void> => {
  if (!chosen.test(title)) return
  const pairs: (readonly [Measured, Measured])[] = []
  let names = ['', '']
  const run = async (): Promise<void> => {
    const made = [await ours(), await peer()] as const
    for (const contender of made) await measured(contender, SESSIONS)
    const isFirst = pairs.length % 2 === 0
    const one = await measured(made[isFirst ? 0 : 1], answers)
    const two = await measured(made[isFirst ? 1 : 0], answers)
    pairs.push(isFirst ? [one, two] : [two, one])
    names = made.map(({ name }) => name)
  }
  // V8 compiles a function again and again until it has run some thousands of times.
  for (let warm = 0; warm < WARM_UP; warm += answers) await run()
  pairs.length = 0
  while (pairs.length < rounds) await run()
  const ratio = (of: (one: Measured) => number): string =>
    median(pairs.map(([a, b]) => of(a) / of(b))).toFixed(2)
  const shown = (side: 0 | 1): string =>
    `${names[side] ?? ''}: ${median(pairs.map((pair) => pair[side].rate)).toFixed(0)}/s, ` +
    `${median(pairs.map((pair) => pair[side].processor)).toFixed(0)} µs, ` +
    `${median(pairs.map((pair) => pair[side].server)).toFixed(0)} of them in the server`
  say(`${title}: rate ${ratio(({ rate }) => rate)}, processor time ${ratio(({ processor }) => processor)}`)
  say(`  ${shown(0)}; ${shown(1)}`)
}

say(
  `${String(rounds)} rounds of ${String(answers)} answers, ${String(atOnce)} at once, Node.js ${process.version}`,
)
await compare(
  'a flow of 400 answers beside 1,000 continuations, against a flow of 2',
  () => keyrow('400', 400, 1_000),
  () => keyrow('2', 2),
)
await compare(
  'the same with the page before each answer',
  () => keyrow('400', 400, 1_000, true),
  () => keyrow('2', 2, 0, true),
)
for (const depth of [10, 100, 400]) {
  await compare(
    `over HTTP, against a session of connect-pg-simple, ${String(depth)} answers`,
    () => keyrowOverHttp(depth),
    () => inSessionOverHttp(depth),
  )
  await compare(
    `against a session of connect-pg-simple, ${String(depth)} answers`,
    () => keyrow('keyrow', depth),
    () => inSession(depth),
  )
}

const cold = await places(400, 1_000)
const [start, own] = [performance.now(), process.cpuUsage()]
for (const place of cold) await answer(place)
const { user, system } = process.cpuUsage(own)
say(
  `the first answer of a process in a flow of 400: ${((performance.now() - start) / SESSIONS).toFixed(1)} ms, ` +
    `${((user + system) / 1_000 / SESSIONS).toFixed(1)} ms of the process, one at a time`,
)
for (const close of closing) close()
await database.close()
await server.stop()
