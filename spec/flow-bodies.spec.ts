// Tests that a flow goes on with its running body, and that this makes no difference to a replay.

import { randomInt, randomUUID } from 'node:crypto'
import * as O from 'fp-ts/lib/Option.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import * as io from 'io-ts'
import t from 'tap'
import {
  dispatch,
  edit,
  effect,
  flow,
  flowHandler,
  forward,
  guard,
  secretAnswer,
  suspend,
} from '../lib/flow/index.js'
import { parseK } from '../lib/flow/journal.js'
import { cachedFlow } from '../lib/flow/journal-cache.js'
import { sessionSet } from '../lib/index.js'
import { sessionStore } from '../lib/sql/store.js'
import { type Browser, begin, Nothing, page, served, textOf, Word } from '../lib/testing/flow-subject.js'
import { drivers } from './support/databases.js'
import { freshSchema } from './support/stores.js'

const [driver] = drivers
if (driver === undefined) throw new Error('there is no driver')
const { database, close } = await driver.open()
t.teardown(close)

const store = () => sessionStore(database, { schema: freshSchema() })

// The next page of a flow goes on with the running body. After `forget` it is replayed.
const forget = async (browser: Browser, url: string): Promise<void> => {
  const flow = O.toUndefined(parseK(new URL(url, 'http://localhost').searchParams.get('k') ?? ''))?.flow ?? ''
  cachedFlow({ session: (await browser.session()).id, flow }).waiting = undefined
}

t.test('a page goes on with the body of the page before it, and needs no replay', async (t) => {
  let runs = 0
  const handler = served(function* () {
    runs += 1
    for (;;) yield* suspend('word', Word, page(''))
  })
  const { browser, first } = await begin(store(), handler)
  let url = first
  for (let place = 0; place < 60; place += 1) url = await browser.answer(handler, url, { word: 'a' })
  runs = 0
  const lengths: number[] = []
  for (let place = 0; place < 300; place += 1) {
    await browser.page(handler, url)
    url = await browser.answer(handler, url, { word: 'a' })
    lengths.push(runs)
  }
  t.ok(runs > 0, 'a long journal is still checked now and then')
  t.ok(runs < 60, `the body was run ${String(runs)} times for 600 requests`)
  await forget(browser, url)
  runs = 0
  await browser.page(handler, url)
  t.equal(runs, 1, 'without its body the page is replayed')
  await browser.page(handler, url)
  t.equal(runs, 1, 'and the body is kept for the next request')
})

t.test('each page is the same from the running body and from a replay', async (t) => {
  const handler = served(function* () {
    const words: string[] = []
    for (let place = 0; ; place += 1) {
      const { word } = yield* suspend(
        'word',
        Word,
        ({ url }) => `${url}\n${String(place)} ${words.join(' ')}`,
      )
      words.push(word)
      if (word === 'effect')
        words.push(String(yield* effect('effect', io.number, () => TE.right(words.length))))
      if (word === 'edit') yield* edit('edit', sessionSet('word', words.length))
      if (word === 'forward') yield* forward('past', Nothing, page(words.join('-')))
      if (word === 'choose')
        words.push(
          (yield* dispatch('choose', { a: Nothing, b: Word }, ({ a, b }) => `${a.url}\n${b.url}`)).tag,
        )
    }
  })
  const { browser, first } = await begin(store(), handler)
  const choices = ['effect', 'edit', 'forward', 'choose', 'a', 'b']
  let url = first
  for (let place = 0; place < 120; place += 1) {
    const word = choices[randomInt(choices.length)] ?? ''
    url = await browser.answer(handler, url, { word })
    if (word === 'forward') url = await browser.answer(handler, url)
    if (word === 'choose') url = await browser.answer(handler, `${url}&choice=b`, { word })
    if (randomInt(3) === 0) url = await browser.answer(handler, url, { word: 'c' })
    const running = await browser.page(handler, url)
    await forget(browser, url)
    t.equal(await browser.page(handler, url), running)
  }
})

t.test('a body that has read a secret is not kept', async (t) => {
  const reveals: (() => string)[] = []
  const handler = served(function* () {
    const { password } = yield* suspend('sign in', io.strict({ password: secretAnswer(io.string) }), page(''))
    yield* suspend('second', Nothing, ({ url }) => {
      reveals.push(() => password.reveal())
      return url
    })
    yield* suspend('third', Nothing, page(''))
  })
  const { browser, first } = await begin(store(), handler)
  const second = await browser.answer(handler, first, { password: 'sesame' })
  await browser.page(handler, second)
  t.throws(() => reveals[0]?.(), {
    name: 'TypeError',
    message: /can be read only in the request with the answer/,
  })
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

t.test('the guards of a kept body run in each request', async (t) => {
  let runs = 0
  const handler = served(function* () {
    yield* suspend('first', Nothing, page(''))
    yield* guard(
      'guard',
      TE.fromIO(() => {
        runs += 1
      }),
    )
    for (;;) yield* suspend('more', Nothing, page(''))
  })
  const { browser, first } = await begin(store(), handler)
  let url = await browser.answer(handler, first)
  for (let place = 1; place < 5; place += 1) {
    runs = 0
    await browser.page(handler, url)
    t.equal(runs, 1)
    url = await browser.answer(handler, url)
    t.equal(runs, 2)
  }
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
