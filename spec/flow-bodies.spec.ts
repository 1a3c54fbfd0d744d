// Tests that a flow goes on with its running body, and that this makes no difference to a replay.

import { randomInt, randomUUID } from 'node:crypto'
import * as E from 'fp-ts/lib/Either.js'
import * as O from 'fp-ts/lib/Option.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import * as io from 'io-ts'
import t from 'tap'
import { freshId } from '../lib/core/token.js'
import {
  dispatch,
  edit,
  effect,
  type FlowHandler,
  flow,
  flowHandler,
  forward,
  guard,
  secretAnswer,
  suspend,
} from '../lib/flow/index.js'
import {
  addRows,
  type CachedFlow,
  cachedFlow,
  journalOf,
  keepBody,
  takeBody,
} from '../lib/flow/journal-cache.js'
import { sessionPrincipal, sessionRef, sessionSet } from '../lib/index.js'
import { signIn } from '../lib/request/sign-in.js'
import { currentSession } from '../lib/request/with-session.js'
import { sessionStore } from '../lib/sql/store.js'
import type { Session } from '../lib/store/contract.js'
import type { FlowRow } from '../lib/store/flow-contract.js'
import { type Browser, begin, Nothing, page, served, textOf, Word } from '../lib/testing/flow-subject.js'
import { drivers } from './support/databases.js'
import { freshSchema } from './support/stores.js'

const [driver] = drivers
if (driver === undefined) throw new Error('there is no driver')
const { database, close } = await driver.open()
t.teardown(close)

const store = () => sessionStore(database, { schema: freshSchema() })

/** A flow of words, with a count of the runs of its body. */
const words = () => {
  const count = { runs: 0 }
  const handler = served(function* () {
    count.runs += 1
    const given: string[] = []
    for (;;) {
      const { word } = yield* suspend('word', Word, page(given.join(' ')))
      given.push(word)
      if (word === 'effect')
        given.push(String(yield* effect('effect', io.number, () => TE.right(given.length))))
      if (word === 'edit') yield* edit('edit', sessionSet('word', given.length))
      if (word === 'guard') yield* guard('guard', TE.right(true))
      if (word === 'forward') yield* forward('past', Nothing, page(given.join('-')))
      if (word === 'choose')
        given.push(
          (yield* dispatch('choose', { a: Nothing, b: Word }, ({ a, b }) => `${a.url}\n${b.url}`)).tag,
        )
    }
  })
  return { count, handler }
}

/** Gives several answers, without a look at the pages. Returns the URL of the last page. */
const answers = async (browser: Browser, handler: FlowHandler<unknown>, from: string, times: number) => {
  let url = from
  for (let place = 0; place < times; place += 1) url = await browser.answer(handler, url, { word: 'a' })
  return url
}

t.test('an answer in a long flow goes on with the body of the answer before it', async (t) => {
  const { count, handler } = words()
  const { browser, first } = await begin(store(), handler)
  let url = await answers(browser, handler, first, 60)
  count.runs = 0
  url = await answers(browser, handler, url, 300)
  t.ok(count.runs > 0, 'a long journal is still checked now and then')
  t.ok(count.runs < 60, `the body was run ${String(count.runs)} times for 300 answers`)
  const runsOf = async (act: () => Promise<unknown>): Promise<number> => {
    count.runs = 0
    await act()
    return count.runs
  }
  t.equal(await runsOf(() => browser.page(handler, url)), 1, 'a page is replayed')
  const after = async (word: string): Promise<number> => {
    url = await browser.answer(handler, url, { word })
    return runsOf(async () => {
      url = await browser.answer(handler, url, { word: 'b' })
    })
  }
  for (const word of ['effect', 'edit', 'guard'])
    t.ok((await after(word)) > 0, `after ${word} the body is run again`)
  t.ok((await after('a')) > 0, 'after a guard it is always run again')
})

t.test('a page is the same from the kept body and from a replay', async (t) => {
  const kinds = ['effect', 'edit', 'forward', 'choose', 'a', 'b', 'c', 'd']
  const { handler } = words()
  const { browser, first } = await begin(store(), handler)
  let url = await answers(browser, handler, first, 40)
  for (let place = 0; place < 200; place += 1) {
    const word = kinds[randomInt(kinds.length)] ?? ''
    url = await browser.answer(handler, url, { word })
    if (word === 'forward') url = await browser.answer(handler, url)
    if (word === 'choose') url = await browser.answer(handler, `${url}&choice=b`, { word })
    if (randomInt(3) > 0) continue
    // An answer that does not fit shows the page of the kept body. A GET is a replay.
    const wrong = await browser.send(handler, 'POST', url, { word: 17 })
    t.equal(wrong.status, 422)
    t.equal(textOf(wrong.body), textOf(await browser.page(handler, url)))
  }
})

t.test('a page or a task that changes a variable of the body changes no later page', async (t) => {
  const handler = served(function* () {
    const given: string[] = []
    let token = 'none'
    for (let place = 0; place < 40; place += 1) given.push((yield* suspend('word', Word, page(''))).word)
    yield* suspend('reversed', Word, ({ url }) => `${url}\n${given.reverse().join('')}`)
    yield* effect('sign in', io.null, () => {
      token = 'fresh'
      return TE.right(null)
    })
    yield* suspend('token', Word, ({ url }) => `${url}\n${token}`)
    yield* suspend('more', Word, ({ url }) => `${url}\n${token}`)
    return given.join('')
  })
  const { browser, first } = await begin(store(), handler)
  let url = first
  for (let place = 0; place < 40; place += 1)
    url = await browser.answer(handler, url, { word: String.fromCharCode(97 + (place % 26)) })
  const alphabet = 'abcdefghijklmnopqrstuvwxyzabcdefghijklmn'
  for (let times = 0; times < 3; times += 1)
    t.equal(textOf(await browser.page(handler, url)), Array.from(alphabet).reverse().join(''))
  url = await browser.answer(handler, url, { word: 'x' })
  t.equal(textOf(await browser.page(handler, url)), 'none')
  url = await browser.answer(handler, url, { word: 'x' })
  t.equal(textOf(await browser.page(handler, url)), 'none')
  t.equal(await browser.answer(handler, url, { word: 'x' }), `/done/${alphabet}`)
})

t.test('rows that are read again take no more memory, and a row of another write replaces its row', (t) => {
  const cached = cachedFlow({ session: freshId(), flow: randomUUID() })
  const rowAfter = (id: string, parent: string | undefined, made: string, word: string): FlowRow => ({
    ...{ id, parent, generation: 0, made },
    records: [['suspend', 'word', { word }]],
  })
  const [first, second] = [rowAfter('first', undefined, '1', 'a'), rowAfter('second', 'first', '2', 'b')]
  addRows(cached, [first, second], undefined)
  const [row, chars] = [cached.rows.get('first'), cached.chars]
  addRows(cached, [first], undefined)
  addRows(cached, [rowAfter('third', 'first', '3', 'c')], undefined)
  t.equal(cached.rows.get('second')?.parent, row)
  t.equal(cached.rows.get('third')?.parent, row, 'all branches share the row')
  t.ok(cached.chars < 2 * chars)
  addRows(cached, [rowAfter('first', undefined, '4', 'd')], undefined)
  const wordsOf = (id: string) =>
    journalOf(cached, id).entries.map(({ value }) => (value as { word: string }).word)
  t.strictSame([wordsOf('first'), wordsOf('second'), wordsOf('third')], [['d'], ['a', 'b'], ['a', 'c']])
  t.strictSame([journalOf(cached, 'third').length, journalOf(cached, undefined).entries], [2, []])
  t.throws(() => journalOf(cached, 'other'), /no row other/)
  t.end()
})

t.test('a process keeps a limited number of bodies, and each for one row of one definition', async (t) => {
  const definition = flow({ name: 'other', input: Nothing }, function* () {})
  const body = { running: (function* () {})(), next: { done: true, value: undefined }, guards: [] } as const
  const all = Array.from({ length: 201 }, () => cachedFlow({ session: freshId(), flow: randomUUID() }))
  for (const cached of all) keepBody(cached, { row: 'row', made: 'made', flow: definition, body })
  const [oldest, next, third, fourth, fifth] = all as [
    CachedFlow,
    CachedFlow,
    CachedFlow,
    CachedFlow,
    CachedFlow,
  ]
  t.equal(takeBody(oldest, 'row', 'made', definition), undefined)
  t.equal(takeBody(next, 'row', 'made', definition), body)
  t.equal(takeBody(next, 'row', 'made', definition), undefined, 'a body is used once')
  t.equal(takeBody(third, 'row', 'other', definition), undefined, 'another write made the row')
  t.equal(takeBody(fourth, 'other', 'made', definition), undefined)
  t.equal(
    takeBody(
      fifth,
      'row',
      'made',
      flow({ name: 'other', input: Nothing }, function* () {}),
    ),
    undefined,
  )
})

t.test('a secret is not in the body of a later page', async (t) => {
  const reveals: (() => string)[] = []
  const Secret = secretAnswer(io.string)
  const Login = io.type({ password: Secret })
  // A codec whose value hides the secret from a look at its members.
  const Hidden = Object.assign(
    new io.Type<ReadonlyMap<string, { readonly reveal: () => string }>, unknown>(
      'hidden',
      (value): value is never => value instanceof Map,
      (value, context) =>
        E.map(({ password }: io.TypeOf<typeof Login>) => new Map([['password', password]]))(
          Login.validate(value, context),
        ),
      () => ({ password: '[secret]' }),
    ),
    { props: Login.props },
  )
  const handler = served(function* () {
    for (let place = 0; place < 40; place += 1) yield* suspend('word', Word, page(''))
    const { password } = yield* suspend('sign in', Login, page(''))
    yield* suspend('after', Word, page(''))
    const hidden = yield* suspend('again', Hidden, page(''))
    yield* suspend('second', Word, page(''))
    yield* suspend('third', Word, ({ url }) => {
      reveals.push(
        () => password.reveal(),
        () => hidden.get('password')?.reveal() ?? '',
      )
      return url
    })
  })
  const { browser, first } = await begin(store(), handler)
  let url = await answers(browser, handler, first, 40)
  url = await browser.answer(handler, url, { password: 'sesame' })
  url = await browser.answer(handler, url, { word: 'a' })
  url = await browser.answer(handler, url, { password: 'sesame' })
  url = await browser.answer(handler, url, { word: 'a' })
  const wrong = await browser.send(handler, 'POST', url, { word: 17 })
  t.equal(wrong.status, 422, 'the page is shown with the body of the POST')
  t.equal(reveals.length, 2)
  for (const reveal of reveals)
    t.throws(reveal, { name: 'TypeError', message: /can be read only in the request with the answer/ })
})

t.test('two different answers to one page at once are two branches, also with a kept body', async (t) => {
  const handler = served(function* () {
    const words: string[] = []
    for (;;) words.push((yield* suspend('word', Word, page(words.join(' ')))).word)
  })
  const { browser, first } = await begin(store(), handler)
  let url = await browser.answer(handler, first, { word: 'a' })
  for (let place = 0; place < 20; place += 1) {
    const before = textOf(await browser.page(handler, url))
    const answers = ['b', 'c', 'd']
    const urls = await Promise.all(answers.map((word) => browser.clone().answer(handler, url, { word })))
    const pages = await Promise.all(urls.map((at) => browser.clone().page(handler, at)))
    t.strictSame(
      pages.map(textOf),
      answers.map((word) => `${before} ${word}`),
    )
    url = urls[place % 3] ?? ''
  }
})

t.test('the principal of a flow is known before an effect runs', async (t) => {
  const ran: (string | undefined)[] = []
  const handler = served(function* () {
    yield* suspend('first', Word, page(''))
    yield* suspend('second', Word, page(''))
    yield* suspend('third', Word, page(''))
    yield* effect('effect', io.null, () =>
      TE.map((session: Session) => {
        ran.push(O.toUndefined(sessionRef(sessionPrincipal)(session)))
        return null
      })(currentSession),
    )
    yield* suspend('fourth', Word, page(''))
  })
  const { browser, first } = await begin(store(), handler)
  const second = await browser.answer(handler, first, { word: 'a' })
  await browser.run(signIn('ada'))
  const third = await browser.answer(handler, second, { word: 'a' })
  await browser.run(signIn('bob'))
  t.equal((await browser.send(handler, 'POST', third, { word: 'a' })).status, 410)
  t.strictSame(ran, [])
})

t.test('a flow that is defined again goes on with the new body', async (t) => {
  const name = randomUUID()
  const version = (text: string) =>
    flowHandler(
      flow({ name, input: Nothing }, function* () {
        yield* suspend('first', Nothing, page(''))
        yield* suspend('second', Nothing, page(text))
      }),
      { at: '/flow', start: () => ({}), done: () => '/' },
    )
  const { browser, first } = await begin(store(), version('old'))
  const old = version('old')
  const second = await browser.answer(old, first)
  t.match(await browser.page(old, second), 'old')
  t.match(await browser.page(version('new'), second), 'new')
})
