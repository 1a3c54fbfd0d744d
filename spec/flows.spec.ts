// Tests flows on PostgreSQL: secrets, tokens, transactions, claims, lost answers, and the number of statements.

import { randomUUID } from 'node:crypto'
import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import * as io from 'io-ts'
import t from 'tap'
import { DriverError } from '../lib/core/errors.js'
import { freshId, newIdempotencyKey } from '../lib/core/token.js'
import type { Database, Query } from '../lib/db/database.js'
import {
  answerByToken,
  dispatch,
  edit,
  effect,
  effectInTransaction,
  type FlowHandler,
  flow,
  flowHandler,
  flowsOf,
  forward,
  once,
  type Page,
  type Step,
  secretAnswer,
  suspend,
  tangent,
} from '../lib/flow/index.js'
import { addRows, cachedFlow, knownRows } from '../lib/flow/journal-cache.js'
import { sessionRef, sessionSet, sessionUpdate } from '../lib/index.js'
import { onSessionEvent, type SessionEventName, updateCurrentSession } from '../lib/promise/index.js'
import { destroySessionsOf, resetSession, signIn } from '../lib/request/sign-in.js'
import { destroySession } from '../lib/request/verbs.js'
import { currentSession, updateCurrentSession as currentUpdate } from '../lib/request/with-session.js'
import { sessionStore } from '../lib/sql/store.js'
import { deleteExpiredSessions } from '../lib/store/cleanup.js'
import { memoryStore } from '../lib/store/memory.js'
import { Browser } from '../lib/testing/flow-subject.js'
import { counting, drivers, rowsOf } from './support/databases.js'
import { age, freshSchema, right } from './support/stores.js'

const [driver] = drivers
if (driver === undefined) throw new Error('there is no driver')
const { database, close } = await driver.open()
t.teardown(close)

const Nothing = io.strict({})
const AnyInput = Nothing as io.Type<unknown>
const Word = io.strict({ word: io.string })

const shown =
  (text = '') =>
  ({ url }: Page): string =>
    `${url}\n${text}`

const urlOf = (page: string): string => page.split('\n')[0] ?? ''

const served = <S extends Step<unknown>>(
  body: () => Generator<S, unknown>,
  options: { readonly storeSession?: boolean } = {},
): FlowHandler<unknown> =>
  flowHandler(flow<unknown, unknown, S>({ name: randomUUID(), input: AnyInput }, body), {
    at: '/flow',
    start: () => ({}),
    done: (result) => `/done/${String(result)}`,
    ...options,
  })

const storeIn = (schema: string, over: Database = database) => sessionStore(over, { schema })

const opened = async (handler: FlowHandler<unknown>, store = storeIn(freshSchema())) => {
  const browser = new Browser(store)
  const first = urlOf(await browser.page(handler, '/flow'))
  return { store, browser, first }
}

t.test('a page is two statements, an answer two or three, and an effect two more', async (t) => {
  const counted = counting(database)
  const schema = freshSchema()
  const handler = served(function* () {
    yield* suspend('zero', Nothing, shown())
    yield* suspend('first', Nothing, shown())
    yield* effect('effect', io.number, () => TE.right(1))
    yield* suspend('second', Nothing, shown())
  })
  const { browser, first } = await opened(handler, storeIn(schema, counted.database))
  const statements = async (act: () => Promise<unknown>): Promise<readonly string[]> => {
    counted.events.length = 0
    await act()
    return counted.events.map(({ query }) => query.name)
  }
  const second = await browser.answer(handler, first)
  t.strictSame(await statements(() => browser.page(handler, second)), ['session.load', 'flow.read'])
  let third = ''
  const answers = async () => {
    third = await browser.answer(handler, second)
  }
  t.strictSame(await statements(answers), [...['session.load', 'flow.claim', 'flow.record', 'flow.advance']])
  t.strictSame(await statements(() => browser.page(handler, third)), ['session.load', 'flow.read'])
  t.strictSame(await statements(() => browser.answer(handler, first)), [
    ...['session.load', 'flow.advance', 'flow.read', 'flow.read'],
  ])
})

t.test('the load and the save of a session are the same statements with flows and without', async (t) => {
  const counted = counting(database)
  const schema = freshSchema()
  const store = storeIn(schema, counted.database)
  const handler = served(function* () {
    for (;;) yield* suspend('more', Word, shown())
  })
  const used = async (browser: Browser) => {
    counted.events.length = 0
    await browser.run(TE.rightTask(() => updateCurrentSession(sessionUpdate('n', (n) => Number(n) + 1, 0))))
    return counted.events.map(({ query, rows }) => [query, Object.keys(rows?.[0] ?? {})])
  }
  const [plain, full] = [await opened(handler, store), await opened(handler, store)]
  for (const { browser } of [plain, full])
    await browser.run(TE.rightTask(() => updateCurrentSession(sessionSet('n', 0))))
  let url = full.first
  for (let answers = 0; answers < 50; answers += 1)
    url = await full.browser.answer(handler, url, { word: 'x'.repeat(1_000) })
  t.strictSame(await used(full.browser), await used(plain.browser))
  /** The pages that a load or a save touches. */
  const buffers = async (browser: Browser, text: string): Promise<unknown> => {
    const { id, token } = await browser.session()
    const params = [id, token.hash, 1_800_000, 0.1, 0, '']
    const explain = { name: 'explain', text: `explain (analyze, buffers, format json) ${text}` }
    const [row] = await right(database.query(explain, params))
    const plan = row?.['QUERY PLAN']
    const [{ Plan }] = (typeof plan === 'string' ? JSON.parse(plan) : plan) as [
      { Plan: Record<string, number> },
    ]
    return (Plan['Shared Hit Blocks'] ?? 0) + (Plan['Shared Read Blocks'] ?? 0)
  }
  const load = counted.events.find(({ query }) => query.name === 'session.load')?.query as Query
  await rowsOf(database, `analyze ${schema}.session, ${schema}.entry`)
  t.equal(await buffers(full.browser, load.text), await buffers(plain.browser, load.text))
})

t.test('a secret answer is in no row, no event and no page', async (t) => {
  const schema = freshSchema()
  const secret = `secret ${randomUUID()}`
  const checked: string[] = []
  const handler = served(function* () {
    const Login = io.strict({ name: io.string, password: secretAnswer(io.string) })
    const { name, password } = yield* suspend(
      'sign in',
      Login,
      ({ url, given, problems }) => `${url}\n${JSON.stringify(given)}\n${problems.join()}`,
    )
    const isRight = yield* effect('check', io.boolean, () => {
      checked.push(password.reveal())
      return TE.right(true)
    })
    yield* suspend('second', Nothing, shown(`${name} ${String(isRight)}`))
  })
  const { browser, first } = await opened(handler, storeIn(schema))
  const events: unknown[] = []
  const names: readonly SessionEventName[] = ['flowBegun', 'flowAdvanced', 'flowRejected', 'failed', 'saved']
  const stops = names.map((name) => onSessionEvent(name, (event) => void events.push(event)))
  t.match(first, /&s=1$/)
  const wrong = await browser.send(handler, 'POST', first, { name: 17, password: secret })
  t.equal(wrong.status, 422)
  t.match(wrong.body, '{"name":17}')
  const empty = await browser.send(handler, 'POST', first, { name: 'ada', password: 17 })
  t.match(empty.body, 'expected string at password')
  const second = await browser.answer(handler, first, { name: 'ada', password: secret })
  t.equal(await browser.answer(handler, first, { name: 'ada', password: secret }), second, 'the same answer')
  t.not(await browser.answer(handler, first, { name: 'ada', password: 'other' }), second, 'another answer')
  t.strictSame(checked, [secret, 'other'], 'a replay gets what the effect made of it')
  t.match(await browser.page(handler, second), 'ada true')
  const lost = await new Browser(storeIn(schema)).send(handler, 'POST', second.replace(/$/, '&s=1'), {
    password: secret,
  })
  t.equal(lost.status, 410)
  const rows: unknown[] = []
  for (const table of ['session', 'entry', 'listing', 'flow', 'continuation', 'effect'])
    rows.push(...(await rowsOf(database, `select r::text from ${schema}.${table} r`)))
  t.ok(rows.length > 4)
  const seen = JSON.stringify([rows, events, wrong, lost, await right(flowsOf(await browser.session()))])
  t.notMatch(seen, secret)
  t.notMatch(seen, Buffer.from(secret).toString('hex'))
  for (const stop of stops) stop()
  const forged = await browser.send(handler, 'POST', first, { name: 'ada', password: '[secret]' })
  t.equal(forged.status, 422, 'the placeholder is no secret')
})

t.test('a tangent is answered once by a token, and the first browser goes on', async (t) => {
  const store = storeIn(freshSchema())
  const tokens: string[] = []
  const handler = served(function* () {
    yield* suspend('mail', Nothing, shown())
    const word = yield* tangent('confirm', io.string, (k) => `/check?k=${k}`, {
      send: (token) => TE.fromIO(() => void tokens.push(token)),
    })
    yield* suspend('second', Nothing, shown(word))
  })
  const { browser, first } = await opened(handler, store)
  const url = await browser.answer(handler, first)
  t.equal(await browser.answer(handler, first), url)
  t.equal(tokens.length, 1, 'it is sent once')
  const [token = ''] = tokens
  const check = (await browser.send(handler, 'GET', url)).headers['Location']
  t.match(check, /^\/check\?k=/)
  t.equal((await browser.send(handler, 'POST', url)).headers['Location'], check, 'not yet')
  const answer = (given: string, value: unknown = 'yes') => answerByToken(store, given, value)()
  for (const wrong of ['', 'x', token.slice(1), `${token.slice(0, -2)}xx`, token.replaceAll('.', '')])
    t.match(await answer(wrong), { _tag: 'Left', left: { _tag: 'FlowExpired', reason: 'unknown' } })
  t.match(await answer(token, 17), { _tag: 'Left', left: { _tag: 'DecodeError' } })
  const all = await Promise.all(Array.from({ length: 5 }, () => answer(token)))
  t.equal(all.filter(E.isRight).length, 1, 'it is used once')
  t.match(await answer(token), { left: { reason: 'used' } })
  const ready = await browser.send(handler, 'GET', url)
  t.match(ready, { status: 200, body: /<form method="post" action="\/flow\?k=/ })
  const next = await browser.answer(handler, url)
  t.match(await browser.page(handler, next), 'yes')
})

t.test(
  'a tangent shows its own page after the answer, and a token whose sending failed is sent again',
  async (t) => {
    const store = storeIn(freshSchema())
    const tokens: string[] = []
    const handler = served(
      function* () {
        yield* suspend('mail', Nothing, shown())
        yield* tangent('confirm', io.string, (k) => `/check?k=${k}`, {
          send: (token) =>
            tokens.push(token) === 1 ? TE.left(new Error('the mail server is down')) : TE.right(undefined),
          page: ({ url }) => ({
            status: 200,
            headers: { 'Content-Type': 'text/plain' },
            body: `weiter: ${url}`,
          }),
        })
        yield* suspend('second', Nothing, shown('second'))
      },
      { storeSession: true },
    )
    const { browser, first } = await opened(handler, store)
    await t.rejects(browser.answer(handler, first), /down/)
    t.match(await answerByToken(store, tokens[0] ?? '', 'yes')(), { left: { reason: 'unknown' } })
    const url = await browser.answer(handler, first)
    t.equal(tokens.length, 2)
    t.equal(tokens[0], tokens[1])
    await right(answerByToken(store, tokens[0] ?? '', 'yes'))
    const page = await browser.send(handler, 'GET', url)
    t.match(page, { status: 200, headers: { 'Content-Type': 'text/plain' }, body: `weiter: ${url}` })
    t.match(await browser.page(handler, await browser.answer(handler, url)), 'second')
  },
)

t.test('a task in a transaction runs exactly once, or not at all', async (t) => {
  const schema = freshSchema()
  const store = storeIn(schema)
  await right(store.prepare)
  await rowsOf(database, `create table ${schema}.orders (id int generated always as identity, word text)`)
  let fails = true
  const handler = served(function* () {
    const { word } = yield* suspend('first', Word, shown())
    const id = yield* effectInTransaction(database, 'order', io.number, (tx) =>
      pipe(
        tx.query({ name: 'spec', text: `insert into ${schema}.orders (word) values ($1) returning id` }, [
          word,
        ]),
        TE.chainFirstW(() => TE.fromTask(() => updateCurrentSession(sessionSet('ordered', true)))),
        TE.chainW(([row]) => (fails ? TE.left(new Error('no')) : TE.right(Number(row?.['id'])))),
      ),
    )
    yield* suspend('second', Nothing, shown(`order ${String(id)}`))
  })
  const { browser, first } = await opened(handler, store)
  await browser.run(TE.fromTask(() => updateCurrentSession(sessionSet('kept', 1))))
  await t.rejects(browser.answer(handler, first, { word: 'a' }), /no/)
  t.strictSame(await rowsOf(database, `select * from ${schema}.orders`), [])
  t.equal(sessionRef('ordered', false)(await browser.session()), false)
  fails = false
  const words = Array.from({ length: 10 }, (_, index) => `tab ${String(index)}`)
  const next = await Promise.all(words.map((word) => browser.clone().answer(handler, first, { word })))
  t.equal(new Set(next).size, 10, 'ten branches')
  t.equal((await rowsOf(database, `select * from ${schema}.orders`)).length, 1, 'one order')
  t.equal(sessionRef('ordered', false)(await browser.session()), true)
  const pages = await Promise.all(next.map((url) => browser.page(handler, url)))
  t.equal(new Set(pages.map((page) => page.split('\n')[1])).size, 1)
  const other = served(function* () {
    yield* suspend('first', Word, shown())
    yield* effectInTransaction(database, 'order', io.number, () => TE.right(1))
  })
  const elsewhere = await opened(other, memoryStore())
  await t.rejects(elsewhere.browser.answer(other, elsewhere.first, { word: 'a' }), /needs the database of/)
})

/** Returns the flow of a browser, and a claim of its effect `once charge`. */
const claimOf = async (browser: Browser, url: string, claimMs: number) => {
  const session = await browser.session()
  const [head = ''] = (url.split('k=')[1] ?? '').split('.')
  const hex = Buffer.from(head, 'base64url').toString('hex')
  const id = hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')
  const claim = { scope: id, name: 'once charge', occurrence: 0, claim: randomUUID(), claimMs }
  return { session: session.id, flow: id, ...claim }
}

t.test('an effect of a process that has died is taken over, and its late value is refused', async (t) => {
  const { store, browser, first } = await opened(charging.handler)
  const { flows } = store
  if (flows === undefined) throw new Error('the store has no flows')
  const second = await browser.answer(charging.handler, first)
  const claim = await claimOf(browser, second, 300)
  t.equal(await right(flows.claim(claim, 0)), 'claimed')
  charging.keys.length = 0
  const started = performance.now()
  const third = await browser.answer(charging.handler, second)
  t.ok(performance.now() - started > 200, 'it waits for the claim')
  t.equal(charging.keys.length, 1)
  t.equal(await right(flows.record(claim, 'late', 0)), false)
  t.match(await browser.page(charging.handler, third), 'charged 1')
  const long = await opened(charging.handler)
  const next = await long.browser.answer(charging.handler, long.first)
  await right((long.store.flows ?? flows).claim(await claimOf(long.browser, next, 60_000), 0))
  await t.rejects(long.browser.answer(charging.handler, next), /is being run by another request/)
})

const charging = (() => {
  const keys: string[] = []
  const handler = served(function* () {
    yield* suspend('first', Nothing, shown())
    yield* suspend('second', Nothing, shown())
    const charge = yield* once('charge', io.number, (key) => TE.fromIO(() => keys.push(key)))
    yield* suspend('third', Nothing, shown(`charged ${String(charge)}`))
  })
  return { keys, handler }
})()

/** Wraps a database. The answer of the first matching statement is lost, or it is not sent. */
const losing = (inner: Database, name: string, isSent: boolean) => {
  let losses = 0
  const wrapped = (one: Database): Database => ({
    ...one,
    query: (query, params) => async () => {
      const isLost = losses === 0 && query.name === name
      if (isLost) losses += 1
      const result = isLost && !isSent ? undefined : await one.query(query, params)()
      return isLost
        ? E.left(new DriverError('lost', { retryable: true, kind: 'unavailable' }))
        : (result ?? E.right([]))
    },
  })
  return { database: wrapped(inner), count: () => losses }
}

for (const name of ['flow.begin', 'flow.advance', 'flow.claim', 'flow.record', 'flow.end'])
  for (const isSent of [true, false])
    t.test(`the answer of ${name} is lost, ${isSent ? 'after' : 'before'} it was done`, async (t) => {
      const schema = freshSchema()
      await right(storeIn(schema).prepare)
      const keys: string[] = []
      const handler = served(function* () {
        yield* suspend('first', Nothing, shown())
        yield* suspend('second', Nothing, shown())
        const charge = yield* once('charge', io.number, (key) => TE.fromIO(() => keys.push(key)))
        yield* suspend('third', Nothing, shown(`charged ${String(charge)}`))
        return charge
      })
      const lost = losing(database, name, isSent)
      const { browser, first } = await opened(handler, storeIn(schema, lost.database))
      const second = await browser.answer(handler, first)
      const third = await browser.answer(handler, second)
      t.match(await browser.page(handler, third), 'charged 1')
      t.equal(await browser.answer(handler, third), '/done/1')
      t.equal(lost.count(), 1)
      t.equal(keys.length, 1)
    })

/** Wraps a database. The answer of the commit of one transaction is lost, after the commit or instead of it. */
const losingCommit = (inner: Database, isDone: boolean) => {
  let isOn = false
  const lost = E.left(new DriverError('lost', { retryable: true, kind: 'unavailable' }))
  const transaction: Database['transaction'] = (body) => async () => {
    if (!isOn) return inner.transaction(body)()
    isOn = false
    if (isDone) await inner.transaction(body)()
    else
      await inner.transaction((tx) =>
        pipe(
          body(tx),
          TE.chainW(() => TE.left('rolled back')),
        ),
      )()
    return lost
  }
  return {
    database: { ...inner, transaction },
    lose: () => {
      isOn = true
    },
    isDone: () => !isOn,
  }
}

for (const isDone of [true, false])
  t.test(
    `edits and row are one transaction: its answer is lost, ${isDone ? 'after' : 'before'} the commit`,
    async (t) => {
      const schema = freshSchema()
      await right(storeIn(schema).prepare)
      const lost = losingCommit(database, isDone)
      const handler = served(function* () {
        yield* suspend('first', Nothing, shown())
        yield* suspend('second', Nothing, shown())
        yield* edit(
          'count',
          sessionUpdate('n', (n) => Number(n) + 1, 0),
        )
        yield* suspend('third', Nothing, shown())
        yield* edit(
          'count',
          sessionUpdate('n', (n) => Number(n) + 1, 0),
        )
        return 'end'
      })
      const { browser, first } = await opened(handler, storeIn(schema, lost.database))
      const second = await browser.answer(handler, first)
      lost.lose()
      const third = await browser.answer(handler, second)
      t.ok(lost.isDone())
      t.equal(sessionRef('n', 0)(await browser.session()), 1)
      lost.lose()
      t.equal(await browser.answer(handler, third), '/done/end')
      t.ok(lost.isDone())
      t.equal(sessionRef('n', 0)(await browser.session()), 2)
      t.equal(await browser.answer(handler, third), '/done/end')
      t.equal(sessionRef('n', 0)(await browser.session()), 2)
    },
  )

t.test('the first page stores the session, if the flow says so', async (t) => {
  const handler = served(
    function* () {
      yield* suspend('first', Nothing, shown())
      yield* effect('effect', io.number, () => TE.right(1))
      yield* suspend('second', Nothing, shown())
    },
    { storeSession: true },
  )
  const { browser, first } = await opened(handler)
  const two = await Promise.all([1, 2].map(() => browser.clone().answer(handler, first)))
  t.equal(new Set(two).size, 1, 'two equal first answers are one')
  t.equal((await right(flowsOf(await browser.session()))).length, 1)
})

t.test('a flow that does not begin with a page is an error of the program', async (t) => {
  const handlers = [
    served(function* () {
      yield* effect('effect', io.number, () => TE.right(1))
      yield* suspend('first', Nothing, shown())
    }),
    served(function* () {
      yield* tangent('first', io.string, () => '/')
    }),
    served(function* () {
      yield* edit('nothing', (session) => session)
    }),
  ]
  for (const handler of handlers)
    await t.rejects(new Browser(memoryStore()).page(handler, '/flow'), /must begin with a page/)
})

t.test('a page of another site changes nothing, and paths stay on this site', async (t) => {
  const handler = served(function* () {
    yield* suspend('first', Nothing, shown())
    yield* suspend('second', Nothing, shown())
  })
  const { browser, first } = await opened(handler, memoryStore())
  const second = await browser.answer(handler, first)
  const sent = async (url: string, headers: Record<string, string>) => {
    const result = await browser.run(handler({ method: 'POST', url, headers, body: {} }))
    return E.isLeft(result) ? (result.left as { readonly status: number }).status : result.right.status
  }
  for (const url of [first, second]) {
    t.equal(await sent(url, { 'sec-fetch-site': 'cross-site' }), 403)
    t.equal(await sent(url, { 'sec-fetch-site': 'same-site' }), 403)
    t.equal(await sent(url, { host: 'shop.example', origin: 'https://other.example' }), 403)
  }
  t.equal(await sent(first, {}), 403, 'a first answer without headers needs a token')
  t.equal(await sent(second, {}), 303, 'the id of a row is known to our own pages alone')
  for (const at of [
    '//other.example',
    'https://other.example',
    '/\\other.example',
    'order',
    '',
    '/order?a=b',
    '/\t/other.example',
  ])
    t.throws(
      () =>
        flowHandler(
          flow({ name: 'x', input: Nothing }, function* () {
            yield* suspend('first', Nothing, shown())
          }),
          { at, start: () => ({}), done: () => '/' },
        ),
      /must be a path of this site|must have no query/,
      at,
    )
  const wrong = flowHandler(
    flow({ name: 'wrong', input: Nothing }, function* () {
      yield* suspend('first', Nothing, shown())
    }),
    { at: '/flow', start: () => ({}), done: () => '//other.example' },
  )
  const other = await opened(wrong, memoryStore())
  await t.rejects(other.browser.answer(wrong, other.first), /must be a path of this site/)
})

t.test('a key that is no key is unknown', async (t) => {
  const handler = served(function* () {
    yield* suspend('first', Nothing, shown())
  })
  const { browser, first } = await opened(handler, memoryStore())
  const [, k = ''] = first.split('k=')
  for (const wrong of [
    '',
    'x',
    k.slice(1),
    `${k}x`,
    `${k}.`,
    `${k}.${k}.${k}`,
    `${k}.${k}`,
    '%00',
    '__proto__',
  ])
    for (const method of ['GET', 'POST'])
      t.equal((await browser.send(handler, method, `/flow?k=${wrong}`, {})).status, 410, `${method} ${wrong}`)
})

t.test('a task can sign in, and the current session is the usual one', async (t) => {
  const handler = served(function* () {
    yield* suspend('first', Nothing, shown())
    const seen = yield* effect('read', io.unknown, () =>
      pipe(currentSession, TE.map(sessionRef('kept', 'none'))),
    )
    yield* suspend('second', Nothing, shown(String(seen)))
  })
  const { browser, first } = await opened(handler)
  await browser.run(TE.fromTask(() => updateCurrentSession(sessionSet('kept', 'yes'))))
  t.match(await browser.page(handler, await browser.answer(handler, first)), 'yes')
})

/** Wraps a database. A transaction or statement with the statement `name` waits before its commit. */
const pausing = (inner: Database, name: string) => {
  let go = (): void => undefined
  let reached = (): void => undefined
  const released = new Promise<void>((resolve) => (go = resolve))
  const waiting = new Promise<void>((resolve) => (reached = resolve))
  let isDone = false
  const query: Database['query'] = (one, params) =>
    one.name !== name || isDone
      ? inner.query(one, params)
      : inner.transaction((tx) => async () => {
          isDone = true
          const result = await tx.query(one, params)()
          reached()
          await released
          return result
        })
  return { database: { ...inner, query }, waiting, go }
}

t.test('a claim that waits for the end of its flow does not run the effect again', async (t) => {
  const paused = pausing(database, 'flow.end')
  const schema = freshSchema()
  await right(storeIn(schema).prepare)
  const keys: string[] = []
  const handler = served(function* () {
    yield* suspend('first', Nothing, shown())
    yield* suspend('second', Nothing, shown())
    return yield* once('charge', io.number, (key) => TE.fromIO(() => keys.push(key)))
  })
  const { browser, first } = await opened(handler, storeIn(schema, paused.database))
  const second = await browser.answer(handler, first)
  const ends = browser.clone().answer(handler, second)
  await paused.waiting
  const other = browser.clone().answer(handler, second)
  await new Promise((resolve) => setTimeout(resolve, 200))
  paused.go()
  t.strictSame(await Promise.all([ends, other]), ['/done/1', '/done/1'])
  t.equal(keys.length, 1)
})

t.test('the rows of a flow end with its session', async (t) => {
  const schema = freshSchema()
  const store = storeIn(schema)
  const handler = served(function* () {
    for (;;) {
      yield* suspend('more', Word, shown())
      yield* effect('effect', io.number, () => TE.right(1))
    }
  })
  const count = async (): Promise<unknown> => {
    const tables = ['flow', 'continuation', 'effect'].map(
      (table) => `(select count(*)::int from ${schema}.${table})`,
    )
    const [row] = await rowsOf(database, `select ${tables.join(' + ')} as n`)
    return row?.['n']
  }
  const begun = async () => {
    const { browser, first } = await opened(handler, store)
    const url = await browser.answer(handler, first, { word: 'a' })
    return { browser, url }
  }
  const one = await begun()
  t.equal(await count(), 3)
  await right(destroySession(await one.browser.session()))
  t.equal(await count(), 0, 'destroyed')
  const two = await begun()
  await two.browser.run(signIn('ada'))
  await right(destroySessionsOf(store, 'ada'))
  t.equal(await count(), 0, 'ended with all sessions of its principal')
  await begun()
  await age(database, schema, 3_600_000)
  await right(deleteExpiredSessions(store))
  t.equal(await count(), 0, 'expired')
  for (let round = 0; round < 300; round += 1) {
    const { browser, url } = await begun()
    await Promise.all([
      right(destroySession(await browser.session())),
      browser
        .clone()
        .send(handler, 'POST', url, { word: 'b' })
        .catch(() => undefined),
      browser
        .clone()
        .send(handler, 'POST', urlOf(await browser.page(handler, '/flow')), { word: 'c' })
        .catch(() => undefined),
    ])
  }
  await age(database, schema, 13 * 3_600_000)
  await right(deleteExpiredSessions(store))
  t.equal(await count(), 0, 'after the cleanup')
})

t.test(
  'a flow that has finished is not begun again after a cleanup, and a session that lives on keeps its flows',
  async (t) => {
    const schema = freshSchema()
    const store = storeIn(schema)
    const keys: string[] = []
    const body = function* () {
      yield* suspend('first', Nothing, shown())
      return yield* once('charge', io.number, (key) => TE.fromIO(() => keys.push(key)))
    }
    const handler = flowHandler(flow({ name: randomUUID(), input: AnyInput, maxAgeMs: 60_000 }, body), {
      ...{ at: '/flow', start: () => ({}), done: (result) => `/done/${String(result)}` },
    })
    const { browser, first } = await opened(handler, store)
    t.equal(await browser.answer(handler, first), '/done/1')
    await rowsOf(database, `update ${schema}.flow set collect_at = now(), expires_at = now()`)
    await right(deleteExpiredSessions(store))
    t.equal((await browser.send(handler, 'POST', first)).headers['Location'], '/done/1')
    t.equal(keys.length, 1)
  },
)

t.test('a transaction in a flow does not save the edits of its answer', async (t) => {
  const schema = freshSchema()
  const store = storeIn(schema)
  let fails = true
  const add = (by: number) => sessionUpdate('n', (n) => Number(n) + by, 0)
  const handler = served(function* () {
    yield* suspend('first', Nothing, shown())
    yield* suspend('second', Nothing, shown())
    yield* edit('one', add(1))
    yield* effectInTransaction(database, 'ten', io.null, () =>
      TE.fromTask(async () => {
        await updateCurrentSession(add(10))
        return null
      }),
    )
    yield* effect('may fail', io.null, () => (fails ? TE.left(new Error('no')) : TE.right(null)))
    yield* suspend('third', Nothing, shown())
  })
  const { browser, first } = await opened(handler, store)
  const second = await browser.answer(handler, first)
  await t.rejects(browser.answer(handler, second), /no/)
  t.equal(sessionRef('n', 0)(await browser.session()), 10, 'the transaction was committed')
  fails = false
  await browser.answer(handler, second)
  t.equal(sessionRef('n', 0)(await browser.session()), 11)
})

t.test('a session is not reset while its flow is answered', async (t) => {
  for (const reset of [resetSession, signIn('ada', { keep: [] })]) {
    const store = storeIn(freshSchema())
    const survey = flow({ name: `survey ${randomUUID()}`, input: Nothing }, function* () {
      yield* suspend('word', Nothing, shown())
    })
    const done = () => TE.map(() => '/done')(reset)
    const { browser, first } = await opened(
      flowHandler(survey, { at: '/flow', start: () => ({}), done }),
      store,
    )
    await browser.run(currentUpdate(sessionSet('a', 1)))
    await t.rejects(browser.answer(flowHandler(survey, { at: '/flow', start: () => ({}), done }), first), {
      name: 'TypeError',
    })
    t.equal(sessionRef('a', 0)(await browser.session()), 1, 'the session is as it was')
  }
})

t.test('the journals in memory are bounded', async (t) => {
  const keys = Array.from({ length: 30 }, () => ({ session: freshId(), flow: randomUUID() }))
  const records = [['suspend', 'more', 'x'.repeat(60_000)]] as const
  for (let answers = 0; answers < 16; answers += 1)
    for (const key of keys) {
      const row = { id: randomUUID(), parent: undefined, generation: 0, records, made: newIdempotencyKey() }
      addRows(cachedFlow(key), [row], undefined)
    }
  const rows = keys.map((key) => knownRows(cachedFlow(key), undefined).length)
  const chars = rows.reduce((sum, count) => sum + count * 60_000, 0)
  t.ok(
    chars > 8_000_000 && chars <= 16 * 1024 * 1024,
    `${String(chars)} of ${String(30 * 16 * 60_000)} characters`,
  )
})

t.test('the end of a flow is any path, and the query of the first page is kept', async (t) => {
  const queries: string[] = []
  const handler = flowHandler(
    flow({ name: randomUUID(), input: io.strict({ item: io.string }) }, function* ({ item }) {
      const { word } = yield* suspend('first', Word, shown(item))
      return word
    }),
    {
      at: '/flow',
      start: ({ url }) => {
        queries.push(url)
        return { item: new URL(url, 'http://x').searchParams.get('item') ?? 'none' }
      },
      done: (word) => `/thanks/${word}`,
    },
  )
  const browser = new Browser(memoryStore())
  const begun = await browser.send(handler, 'GET', '/flow?item=cup&word=a%26b')
  t.match(begun, { status: 303, headers: { Location: /^\/flow\?k=[\w-]{22}&item=cup&word=a%26b$/ } })
  const page = await browser.page(handler, begun.headers['Location'] ?? '')
  t.match(page, /\ncup$/)
  t.equal(
    await browser.answer(handler, urlOf(page), { word: 'Łukasz and Ada' }),
    '/thanks/%C5%81ukasz%20and%20Ada',
  )
  t.match(queries[1], /item=cup&word=a%26b/)
})

t.test('secrets are hidden in every codec that can be looked into, and bad texts are told', async (t) => {
  const Secret = secretAnswer(io.string)
  const codecs = {
    record: [io.record(io.string, Secret), { a: 'sesame' }],
    array: [io.strict({ all: io.array(Secret), n: io.number }), { all: ['sesame'] }],
    union: [io.strict({ one: io.union([io.number, Secret]), n: io.number }), { one: 'sesame' }],
    nested: [io.strict({ deep: io.strict({ one: Secret }), n: io.number }), { deep: { one: 'sesame' } }],
    both: [io.intersection([io.strict({ n: io.number }), io.strict({ one: Secret })]), { one: 'sesame' }],
  } as const
  for (const [name, [codec, body]] of Object.entries(codecs)) {
    const pages: unknown[] = []
    const handler = served(function* () {
      yield* suspend('first', codec as io.Type<unknown>, ({ url, given }) => {
        pages.push(given)
        return url
      })
    })
    const { browser, first } = await opened(handler, memoryStore())
    t.match(first, /&s=1$/, name)
    const sent = name === 'record' ? { ...body, b: 17 } : { ...body, other: 'kept' }
    t.equal((await browser.send(handler, 'POST', first, sent)).status, 422)
    t.notMatch(JSON.stringify(pages), 'sesame', name)
    if (name !== 'record') t.match(JSON.stringify(pages), 'kept')
  }
  const handler = served(function* () {
    yield* suspend(
      'first',
      Word,
      ({ url, problems, given }) => `${url}\n${problems.join()} ${JSON.stringify(given)}`,
    )
  })
  const { browser, first } = await opened(handler, memoryStore())
  for (const word of ['a\0b', '\ud800']) {
    const reply = await browser.send(handler, 'POST', first, { word })
    t.match(reply, { status: 422, body: /cannot be stored|not valid/ })
  }
  for (const body of [[], ['a'], 'text', null, 17])
    t.equal((await browser.send(handler, 'POST', first, body)).status, 422)
  const odd = await browser.send(handler, 'POST', '/flow?k=nothing', { a: { toString: 1 }, b: '<b>' })
  t.match(odd, { status: 410, body: /&#60;b&#62;/ })
})

t.test('the headers of a page replace the defaults, whatever their case', async (t) => {
  const handler = served(function* () {
    yield* suspend('first', Word, () => ({
      status: 201,
      headers: { 'content-type': 'text/plain' },
      body: 'x',
    }))
  })
  const browser = new Browser(memoryStore())
  const { headers } = await browser.send(handler, 'GET', '/flow')
  const reply = await browser.send(handler, 'GET', headers['Location'] ?? '')
  t.strictSame(reply.headers, {
    ...{ 'Cache-Control': 'no-store', 'Referrer-Policy': 'same-origin', 'content-type': 'text/plain' },
  })
  t.equal(reply.status, 201)
})

t.test('a dispatch has several forms, each with a codec and a URL of its own', async (t) => {
  const handler = served(function* () {
    const chosen = yield* dispatch(
      'cart',
      { pay: Nothing, coupon: Word, 'sign in': io.strict({ password: secretAnswer(io.string) }) },
      (at) =>
        [at.pay, at.coupon, at['sign in']]
          .map(({ url, problems, given }) => `${url} ${problems.join()} ${JSON.stringify(given)}`)
          .join('\n'),
    )
    const said = chosen.tag === 'coupon' ? chosen.value.word : chosen.tag
    yield* suspend('second', Nothing, shown(said))
  })
  const { browser, first } = await opened(handler, memoryStore())
  const base = first.split(' ')[0]?.replace('&choice=pay', '') ?? ''
  const forms = (await browser.page(handler, base)).split('\n')
  t.match(forms, [/&choice=pay {2}/, /&choice=coupon {2}/, /&choice=sign%20in&s=1 {2}/])
  const urls = forms.map((form) => form.split(' ')[0] ?? '')
  const wrong = await browser.send(handler, 'POST', urls[1] ?? '', { word: 17, other: 'kept' })
  t.match(wrong, { status: 422, body: /choice=coupon expected string at word {"word":17,"other":"kept"}/ })
  t.match(wrong.body, /choice=pay {2}{}/, 'the other forms are as before')
  for (const tag of ['', 'other', '__proto__', 'toString'])
    t.equal((await browser.send(handler, 'POST', `${base}&choice=${tag}`, {})).status, 422, tag)
  t.equal((await browser.send(handler, 'POST', base, {})).status, 422, 'no choice')
  const pages: (string | undefined)[] = []
  for (const [index, body] of [{}, { word: 'ten' }, { password: 'sesame' }].entries())
    pages.push(
      (await browser.page(handler, await browser.answer(handler, urls[index] ?? '', body))).split('\n')[1],
    )
  t.strictSame(pages, ['pay', 'ten', 'sign in'])
})

t.test(
  'a cut and an answer to the page before it, 300 times at once: no row of the past can be answered',
  async (t) => {
    const schema = freshSchema()
    const store = storeIn(schema)
    const handler = served(function* () {
      yield* suspend('zero', Nothing, shown())
      const { word } = yield* suspend('first', Word, shown())
      if (word === 'cut') yield* forward('cut', Nothing, shown())
      else yield* suspend('other', Nothing, shown())
    })
    let late = 0
    for (let round = 0; round < 300; round += 1) {
      const { browser, first } = await opened(handler, store)
      const url = await browser.answer(handler, first)
      const [cut, other] = await Promise.all(
        ['cut', 'other'].map((word) => browser.clone().send(handler, 'POST', url, { word })),
      )
      const to = cut?.headers['Location'] ?? ''
      t.equal((await browser.send(handler, 'GET', other?.headers['Location'] ?? url)).headers['Location'], to)
      if (other?.status === 410) late += 1
    }
    t.comment(`${String(late)} answers came after the cut`)
    t.strictSame(
      await rowsOf(
        database,
        `select f.id from ${schema}.flow f join ${schema}.continuation c on c.session_id = f.session_id and c.flow_id = f.id
       where c.generation = f.generation and c.id <> f.latest`,
      ),
      [],
    )
  },
)
