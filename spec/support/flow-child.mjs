// A process that serves a flow. It runs the requests that it reads from stdin, and prints their responses, or it walks at
// random through the flows of shared sessions. flow-child.mjs '{"url", "schema", "kill", "walk"}'
//
// `kill` names a point at which the process kills itself: before or after a statement, or in the task of the charge. With
// `stop` the process stops in this task until it gets SIGCONT. The
// charge is a row of the table `charge`, which stands for a payment service: it charges once for each idempotency key.

import { createInterface } from 'node:readline'
import * as t from 'io-ts'
import { poolOptions, postgresDatabase } from 'keyrow/postgres'
import { loadSession, queryDatabase, sessionUpdate, withSession } from 'keyrow/promise'
import {
  edit,
  effect,
  effectInTransaction,
  flow,
  flowHandler,
  isFlowError,
  once,
  suspend,
} from 'keyrow/promise/flow'
import { sessionStore } from 'keyrow/store'
import postgres from 'postgres'

const { url, schema, kill, walk } = JSON.parse(process.argv[2])
const die = () => process.kill(process.pid, 'SIGKILL')

const open = (max) =>
  postgresDatabase(() => postgres(url, { ...poolOptions, max, onnotice: () => undefined }))

/** Kills the process before or after the statement that `kill` names, or before a commit. */
const killing = (inner) => {
  const wrappers = new WeakMap()
  let seen = 0
  const isIt = ({ name }, when) => {
    if (kill?.statement !== name || kill.when !== when) return false
    seen += 1
    return seen === (kill.nth ?? 1)
  }
  const make = (one) => {
    const { transactionScope, current } = one
    const made = {
      ...one,
      query: (query, params) => async () => {
        if (isIt(query, 'before')) die()
        const result = await one.query(query, params)()
        if (isIt(query, 'after')) die()
        return result
      },
      transaction: (body) =>
        one.transaction((tx) => async () => {
          const result = await body(wrapped(tx))()
          if (kill?.statement === 'commit') die()
          return result
        }),
      ...(transactionScope && {
        transactionScope: { ...transactionScope, outer: wrapped(transactionScope.outer) },
      }),
      current: () => {
        const tx = current?.()
        return tx && wrapped(tx)
      },
    }
    wrappers.set(one, made)
    return made
  }
  const wrapped = (one) => wrappers.get(one) ?? make(one)
  return wrapped(inner)
}

const database = killing(open(4))
const outside = open(1)
const store = sessionStore(database, { schema })
const run = (on, text, params = []) => queryDatabase(on, { name: 'spec', text }, params)

const Word = t.strict({ word: t.string })
const form =
  (name) =>
  ({ url: at }) =>
    `${at}\n${name}`

const charge = async (key) => {
  await run(
    outside,
    `insert into ${schema}.charge values ($1, 1) on conflict (key) do update set attempts = charge.attempts + 1`,
    [key],
  )
  if (kill?.task === true) die()
  if (kill?.stop === true) process.kill(process.pid, 'SIGSTOP')
  return key
}

const checkout = flow({ name: 'checkout', input: t.strict({}) }, function* () {
  const first = yield* suspend('first', Word, form('first'))
  const price = yield* effect('price', t.number, () => first.word.length)
  yield* edit(
    'count',
    sessionUpdate('edits', (edits) => Number(edits) + 1, 0),
  )
  const second = yield* suspend('second', Word, form(`second ${price}`))
  const charged = yield* once('charge', t.string, charge, { claimMs: 500 })
  const order = yield* effectInTransaction(database, 'order', t.string, async (tx) => {
    const text = `insert into ${schema}.orders (charge) values ($1) returning id::text as id`
    const [row] = await run(tx, text, [charged])
    return row.id
  })
  yield* edit(
    'count',
    sessionUpdate('edits', (edits) => Number(edits) + 1, 0),
  )
  for (;;) {
    const more = yield* suspend('more', Word, form(`${first.word} ${second.word} ${order}`))
    yield* edit(
      'count',
      sessionUpdate('edits', (edits) => Number(edits) + 1, 0),
    )
    if (more.word === 'stop') yield* suspend('stopped', Word, form('stopped'))
  }
})

const handler = flowHandler(checkout, { at: '/checkout', start: () => ({}), done: () => '/done' })

const request = async ({ token, method, url: path, body }) => {
  const session = await loadSession(store, token)
  return withSession(session, async () => {
    const headers = { 'sec-fetch-site': 'same-origin' }
    const reply = await handler({ method, url: path, headers, body })()
    if (reply._tag === 'Left') throw reply.left
    return reply.right
  })
}

const answer = async ({ id, ...asked }) => {
  const reply = await request(asked).catch((error) => ({ error: String(error), flow: isFlowError(error) }))
  process.stdout.write(`${JSON.stringify({ id, ...reply })}\n`)
}

const pick = (list) => list[Math.floor(Math.random() * list.length)]
const short = (uuid) => Buffer.from(uuid.replaceAll('-', ''), 'hex').toString('base64url')

/** Answers random pages of the flows with random words, and prints what failed. */
const wander = async ({ tokens, operations }) => {
  const failures = []
  let done = 0
  const worker = async () => {
    while (done++ < operations) {
      const token = pick(tokens)
      const rows = await run(
        database,
        `select f.id, c.id as row from ${schema}.flow f left join ${schema}.continuation c on c.flow_id = f.id
         where f.session_id = $1`,
        [token.slice(0, 36)],
      )
      const { id, row } = pick(rows)
      const k = row === null || Math.random() < 0.1 ? short(id) : `${short(id)}.${short(row)}`
      const method = Math.random() < 0.2 ? 'GET' : 'POST'
      const sent = { token, method, url: `/checkout?k=${k}`, body: { word: pick(['a', 'b', 'c']) } }
      const reply = await request(sent).catch((error) => ({ error: String(error) }))
      if (reply.error !== undefined && !/FlowBusy|FlowFull/.test(reply.error)) failures.push(reply.error)
      else if (reply.status >= 400) failures.push(`${method} ${reply.status} ${reply.body}`)
    }
  }
  await Promise.all([worker(), worker(), worker(), worker()])
  process.stdout.write(`${JSON.stringify({ failures, done })}\n`, () => process.exit())
}

if (walk === undefined) {
  process.stdout.write('ready\n')
  createInterface({ input: process.stdin })
    .on('line', (line) => void answer(JSON.parse(line)))
    .on('close', () => process.exit())
} else await wander(walk)
