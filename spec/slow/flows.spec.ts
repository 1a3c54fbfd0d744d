// Tests flows with several processes, which are killed between any two steps of an answer. Then checks what is stored: a
// flow has at most one charge and one order, each row has its parent, and each edit is stored with its row.

import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { postgresDatabase } from '../../lib/db/postgres/index.js'
import {
  buildSession,
  loadSession,
  type Session,
  saveSession,
  sessionRef,
  sessionSet,
  sessionToken,
} from '../../lib/promise/index.js'
import { sessionStore } from '../../lib/sql/store.js'
import { quietPool, rowsOf } from '../support/databases.js'
import { durableDatabaseUrl } from '../support/postgres-server.js'
import { freshSchema, right } from '../support/stores.js'

const operations = Number(process.env['OPERATIONS'] ?? 300)
const { url, stop } = await durableDatabaseUrl()
const database = postgresDatabase(quietPool(url))
const children = new Set<ChildProcess>()
t.teardown(async () => {
  for (const child of children) child.kill('SIGKILL')
  await database.close()
  await stop()
})

interface Kill {
  readonly statement?: string
  readonly when?: 'before' | 'after'
  readonly nth?: number
  readonly task?: boolean
  readonly stop?: boolean
}

interface Replied {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly body: string
  readonly error?: string
}

const script = fileURLToPath(new URL('../support/flow-child.mjs', import.meta.url))

const launch = (options: object): ChildProcess => {
  const child = spawn(process.execPath, [script, JSON.stringify({ url, ...options })], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  children.add(child)
  child.once('exit', () => children.delete(child))
  return child
}

/** Starts a process that serves the flow. `send` resolves to `undefined` if the process dies meanwhile. */
const serving = async (schema: string, kill?: Kill) => {
  const child = launch({ schema, kill })
  const lines = createInterface({ input: child.stdout as NodeJS.ReadableStream })
  const waiting = new Map<number, (reply: Replied | undefined) => void>()
  const exited = once(child, 'exit').then(() => {
    for (const resolve of waiting.values()) resolve(undefined)
  })
  await new Promise<void>((resolve) => {
    lines.on('line', (line) => {
      if (line === 'ready') resolve()
      else {
        const { id, ...reply } = JSON.parse(line) as Replied & { readonly id: number }
        waiting.get(id)?.(reply)
        waiting.delete(id)
      }
    })
  })
  let next = 0
  return {
    send: (
      session: Session,
      method: string,
      path: string,
      body: unknown = {},
    ): Promise<Replied | undefined> =>
      new Promise((resolve) => {
        const id = next
        next += 1
        waiting.set(id, resolve)
        child.stdin?.write(
          `${JSON.stringify({ id, token: sessionToken(session), method, url: path, body })}\n`,
        )
      }),
    end: async () => {
      child.stdin?.end()
      await exited
    },
    exited,
    wake: () => child.kill('SIGCONT'),
  }
}

type Serving = Awaited<ReturnType<typeof serving>>

const prepared = async () => {
  const schema = freshSchema()
  const store = sessionStore(database, { schema })
  await right(store.prepare)
  await rowsOf(database, `create table ${schema}.charge (key text primary key, attempts int)`)
  await rowsOf(database, `create table ${schema}.orders (id int generated always as identity, charge text)`)
  const begin = async () => saveSession(sessionSet('edits', 0)(buildSession(store)))
  return { schema, store, begin }
}

const answered = async (process: Serving, session: Session, path: string, word: string): Promise<string> => {
  const reply = await process.send(session, 'POST', path, { word })
  if (reply?.status !== 303) throw new Error(reply?.error ?? reply?.body ?? 'the process has died')
  return reply.headers['Location'] ?? ''
}

const firstPage = async (process: Serving, session: Session): Promise<string> =>
  (await process.send(session, 'GET', '/checkout'))?.headers['Location'] ?? ''

/** Checks the invariants of all flows of a schema. */
const check = async (t: Test, schema: string, sessions: readonly Session[]) => {
  const flows = await rowsOf(database, `select count(*)::int as n from ${schema}.flow`)
  const [totals] = await rowsOf(
    database,
    `select (select count(*)::int from ${schema}.charge) as charges,
            (select count(*)::int from ${schema}.orders) as orders,
            (select count(distinct charge)::int from ${schema}.orders) as charged,
            (select count(*)::int from ${schema}.effect where name = 'once charge' and value is null) as open`,
  )
  t.ok(Number(totals?.['charges']) <= Number(flows[0]?.['n']), 'at most one charge for each flow')
  t.ok(Number(totals?.['orders']) <= Number(totals?.['charges']), 'at most one order for each charge')
  t.equal(totals?.['orders'], totals?.['charged'])
  t.strictSame(
    await rowsOf(
      database,
      `select c.id from ${schema}.continuation c
       left join ${schema}.continuation p on p.session_id = c.session_id and p.flow_id = c.flow_id and p.id = c.parent
       where c.parent is not null and p.id is null or c.depth <> coalesce(p.depth, 0) + 1`,
    ),
    [],
    'each row has its parent',
  )
  for (const session of sessions) {
    const edits = await rowsOf(
      database,
      `select count(*)::int as n from ${schema}.continuation c, jsonb_array_elements(c.records) r
       where c.session_id = '${session.id}' and r ->> 0 = 'edit'`,
    )
    const now = await loadSession(sessionStore(database, { schema }), sessionToken(session))
    t.equal(now && sessionRef('edits', 0)(now), edits[0]?.['n'], 'each edit is stored with its row')
  }
  const wrong = await rowsOf(
    database,
    `select f.id from ${schema}.flow f
     where f.answers <> (select count(*) from ${schema}.continuation c where c.session_id = f.session_id and c.flow_id = f.id)`,
  )
  t.strictSame(wrong, [], 'the number of answers is the number of rows')
}

const points: readonly Kill[] = [
  { task: true },
  ...['session.load', 'flow.read', 'flow.claim', 'flow.record', 'session.save', 'flow.advance'].flatMap(
    (statement) => (['before', 'after'] as const).map((when) => ({ statement, when })),
  ),
  { statement: 'flow.claim', when: 'before', nth: 2 },
  { statement: 'flow.claim', when: 'after', nth: 2 },
  { statement: 'flow.record', when: 'before', nth: 2 },
  { statement: 'flow.record', when: 'after', nth: 2 },
  { statement: 'commit' },
]

t.test('a process that is killed at any step of an answer leaves a flow that goes on', async (t) => {
  const { schema, begin } = await prepared()
  const other = await serving(schema)
  const sessions: Session[] = []
  for (const kill of points) {
    const session = await begin()
    sessions.push(session)
    const second = await answered(other, session, await firstPage(other, session), 'first')
    const mortal = await serving(schema, kill)
    const reply = await mortal.send(session, 'POST', second, { word: 'second' })
    await mortal.exited
    t.equal(reply, undefined, `${JSON.stringify(kill)}: the process has died`)
    const third = await answered(other, session, second, 'second')
    const page = await other.send(session, 'GET', third)
    t.match(page?.body, /\nfirst second \d+$/)
    t.equal(await answered(other, session, second, 'second'), third)
  }
  await check(t, schema, sessions)
  t.strictSame(await rowsOf(database, `select count(*)::int as n from ${schema}.orders`), [
    { n: points.length },
  ])
  t.strictSame(await rowsOf(database, `select count(*)::int as n from ${schema}.charge`), [
    { n: points.length },
  ])
  await other.end()
})

t.test(
  'a process that sleeps longer than its claim comes too late, and goes on with the value of the other',
  async (t) => {
    const { schema, begin } = await prepared()
    const [sleeper, other] = [await serving(schema, { stop: true }), await serving(schema)]
    const session = await begin()
    const second = await answered(other, session, await firstPage(other, session), 'first')
    const asleep = sleeper.send(session, 'POST', second, { word: 'second' })
    while ((await rowsOf(database, `select from ${schema}.charge`)).length === 0) await delay(20)
    const third = await answered(other, session, second, 'second')
    t.strictSame(
      await rowsOf(database, `select attempts from ${schema}.charge`),
      [{ attempts: 2 }],
      'one key, sent twice',
    )
    sleeper.wake()
    t.match(await asleep, { status: 303, headers: { Location: third } })
    t.strictSame(await rowsOf(database, `select count(*)::int as n from ${schema}.orders`), [{ n: 1 }])
    await check(t, schema, [session])
    await Promise.all([sleeper.end(), other.end()])
  },
)

t.test(
  'two processes: equal answers are one, and 300 pairs of answers each are one row or two',
  async (t) => {
    const { schema, begin } = await prepared()
    const both = [await serving(schema), await serving(schema)] as const
    const session = await begin()
    const second = await answered(both[0], session, await firstPage(both[1], session), 'first')
    const ten = await Promise.all(
      Array.from({ length: 10 }, (_, index) => answered(both[index % 2 ? 1 : 0], session, second, 'pay')),
    )
    t.equal(new Set(ten).size, 1, 'ten equal answers in two processes')
    t.strictSame(await rowsOf(database, `select attempts from ${schema}.charge`), [{ attempts: 1 }])
    let url = ten[0] ?? ''
    for (let round = 0; round < 300; round += 1) {
      const isSame = round % 2 === 0
      const pair = await Promise.all(
        both.map((one, index) => answered(one, session, url, isSame ? 'same' : `word ${String(index)}`)),
      )
      if (isSame !== (pair[0] === pair[1])) t.fail(`round ${String(round)}`)
      if (round % 3 === 0) url = pair[0] ?? ''
    }
    await check(t, schema, [session])
    await Promise.all(both.map((one) => one.end()))
  },
)

t.test('processes that are killed at random lose no edit and charge no flow twice', async (t) => {
  const { schema, begin } = await prepared()
  const first = await serving(schema)
  const sessions = await Promise.all(Array.from({ length: 6 }, begin))
  for (const session of sessions)
    for (let flow = 0; flow < 3; flow += 1)
      await answered(first, session, await firstPage(first, session), 'a')
  await first.end()
  const tokens = sessions.map(sessionToken)
  let kills = 0
  const failures: string[] = []
  const wander = async () => {
    for (let round = 0; round < 4; round += 1) {
      // A process that will be killed walks without an end.
      const child = launch({ schema, walk: { tokens, operations: round < 3 ? 1e9 : operations } })
      let output = ''
      child.stdout?.on('data', (data) => {
        output += String(data)
      })
      const exited = once(child, 'exit')
      if (round < 3) {
        await delay(400 + Math.random() * 1_500)
        if (child.kill('SIGKILL')) kills += 1
      }
      await exited
      if (output !== '')
        failures.push(...(JSON.parse(output) as { readonly failures: readonly string[] }).failures)
    }
  }
  await Promise.all([wander(), wander(), wander()])
  t.equal(kills, 9, 'nine processes were killed')
  t.strictSame(failures, [])
  await check(t, schema, sessions)
  const [totals] = await rowsOf(
    database,
    `select (select count(*) from ${schema}.continuation)::int as rows, (select count(*) from ${schema}.orders)::int as orders`,
  )
  t.ok(Number(totals?.['rows']) > 100)
  t.comment(
    `${String(totals?.['rows'])} rows and ${String(totals?.['orders'])} orders; ${String(kills)} kills`,
  )
})
