// Checks law 9 of flows on a store: tangents, and flows that call other flows.

import assert from 'node:assert/strict'
import { E, t } from '../core/prelude.cjs'
import { sessionRef, sessionUpdate } from '../core/values.js'
import {
  call,
  dropFlow,
  edit,
  effect,
  flow,
  flowHandler,
  flowsOf,
  forward,
  returnFrom,
  suspend,
  tangent,
} from '../flow/index.js'
import type { SessionStore } from '../store/contract.js'
import { MAX_FLOWS } from '../store/flow-contract.js'
import {
  type Browser,
  begin,
  counter,
  flowLawsOf,
  freshName,
  Nothing,
  page,
  served,
  textOf,
  threeWords,
  urlOf,
  Word,
} from './flow-subject.js'
import { right, several, tagOf } from './subject.js'

/** A flow that calls another flow, whose last step is an edit. `paid` counts the runs of an effect after the call. */
const calling = () => {
  const { keys, task } = counter()
  const inner = flow({ name: freshName(), input: Nothing, result: t.string }, function* () {
    const { word } = yield* suspend('inner', Word, page('inner'))
    yield* edit(
      'count',
      sessionUpdate('edits', (edits) => Number(edits) + 1, 0),
    )
    return word
  })
  const innerHandler = flowHandler(inner, { at: '/inner', start: () => ({}), done: () => '/top' })
  const handler = served(function* () {
    const { word } = yield* suspend('first', Word, page('first'))
    const value = yield* call(inner, {})
    yield* effect('pay', t.number, task)
    if (word === 'cut') yield* forward('cut', Nothing, page(`cut ${value}`))
    yield* suspend('second', Word, page(`got ${value}`))
  })
  return { handler, innerHandler, paid: keys }
}

/** Begins the outer flow, and returns the URL of the first page of the called flow. */
const called = async (store: SessionStore, { handler }: ReturnType<typeof calling>, word = 'a') => {
  const { browser, first } = await begin(store, handler)
  const waiting = await browser.answer(handler, first, { word })
  const url = (await browser.send(handler, 'GET', waiting)).headers['Location'] ?? ''
  return { browser, first, waiting, url }
}

const editsOf = async (browser: Browser): Promise<unknown> => sessionRef('edits', 0)(await browser.session())

export const callLawsOfFlows = flowLawsOf(9, {
  'a tangent gets its value from the server alone, once': async ({ store }) => {
    const handler = served(function* () {
      yield* suspend('first', Nothing, page('first'))
      const user = yield* tangent('sign in', t.string, (k) => `/login?k=${k}`)
      yield* suspend('second', Nothing, page(`for ${user}`))
    })
    const { browser, first } = await begin(store, handler)
    const url = await browser.answer(handler, first)
    const login = (await browser.send(handler, 'GET', url)).headers['Location'] ?? ''
    assert.equal((await browser.send(handler, 'POST', url, { user: 'mallory' })).headers['Location'], login)
    const k = login.split('k=')[1] ?? ''
    const wrong = await browser.run(returnFrom(k, 17))
    assert.equal(E.isLeft(wrong) && tagOf(wrong.left), 'DecodeError')
    const returns = await several(3, () => browser.clone().run(returnFrom(k, 'ada')))
    const paths = new Set(returns.map((back) => (E.isRight(back) ? back.right.to : String(back.left))))
    assert.equal(paths.size, 1)
    assert.equal(textOf(await browser.page(handler, [...paths][0] ?? '')), 'for ada')
  },
  'a called flow has rows of its own, and its result arrives in the caller': async ({ store }) => {
    const inner = flow({ name: freshName(), input: Word, result: t.string }, function* ({ word }) {
      const first = yield* suspend('inner first', Word, page(`inner ${word}`))
      const second = yield* suspend('inner second', Word, page('inner second'))
      return `${word}${first.word}${second.word}`
    })
    const innerHandler = flowHandler(inner, {
      at: '/inner',
      start: () => ({ word: '' }),
      done: () => '/unused',
    })
    const handler = served(function* () {
      yield* suspend('first', Nothing, page('first'))
      const value = yield* call(inner, { word: 'a' })
      yield* suspend('second', Nothing, page(`got ${value}`))
    })
    const { browser, first } = await begin(store, handler)
    const calling = await browser.answer(handler, first)
    const called = (await browser.send(handler, 'GET', calling)).headers['Location'] ?? ''
    assert.ok(called.startsWith('/inner?k='))
    const second = await browser.answer(innerHandler, called, { word: 'b' })
    const back = await browser.answer(innerHandler, second, { word: 'c' })
    assert.equal(textOf(await browser.page(handler, back)), 'got abc')
    assert.equal(await browser.answer(innerHandler, second, { word: 'c' }), back)
    const running = await right(flowsOf(await browser.session()))
    assert.deepEqual(
      running.map(({ answers }) => answers),
      [2],
    )
  },
  'last answers of a called flow at once are one result, with its edits': async ({ store }) => {
    for (const words of [
      ['a', 'a', 'a'],
      ['a', 'b', 'c'],
    ]) {
      const flows = calling()
      const { browser, url } = await called(store, flows)
      const backs = await Promise.all(
        words.map((word) => browser.clone().answer(flows.innerHandler, url, { word })),
      )
      assert.equal(new Set(backs).size, 1)
      assert.equal(await editsOf(browser), 1)
      assert.equal((await right(flowsOf(await browser.session()))).length, 1)
      assert.match(textOf(await browser.page(flows.handler, backs[0] ?? '')), /^got [abc]$/)
    }
  },
  'a called flow whose caller was cut stores nothing': async ({ store }) => {
    const flows = calling()
    const { browser, first, url } = await called(store, flows)
    const other = await browser.answer(flows.handler, first, { word: 'cut' })
    const otherUrl = (await browser.send(flows.handler, 'GET', other)).headers['Location'] ?? ''
    await browser.answer(flows.innerHandler, otherUrl, { word: 'x' })
    assert.equal(await editsOf(browser), 1)
    for (let time = 0; time < 2; time += 1)
      assert.equal((await browser.send(flows.innerHandler, 'POST', url, { word: 'a' })).status, 410)
    assert.equal(await editsOf(browser), 1)
  },
  'a called flow that was dropped is not begun by a visitor': async ({ store }) => {
    const flows = calling()
    const { browser, waiting, url } = await called(store, flows)
    await browser.run(dropFlow(url.split('k=')[1] ?? ''))
    assert.equal((await browser.send(flows.handler, 'GET', waiting)).headers['Location'], url)
    for (const method of ['GET', 'POST'])
      assert.equal((await browser.send(flows.innerHandler, method, url, { word: 'a' })).status, 410)
  },
  'a call does not evict its caller': async ({ store }) => {
    const flows = calling()
    const { browser, first } = await begin(store, flows.handler)
    // The caller is the least recently used flow when it calls.
    const words = threeWords()
    const caller = await browser.answer(flows.handler, first, { word: 'b' })
    for (let index = 0; index < MAX_FLOWS - 2; index += 1)
      await browser.answer(words, urlOf(await browser.page(words, '/flow')), { word: 'x' })
    const again = await browser.answer(flows.handler, first, { word: 'c' })
    for (const waiting of [caller, again]) {
      const url = (await browser.send(flows.handler, 'GET', waiting)).headers['Location'] ?? ''
      assert.equal(textOf(await browser.page(flows.innerHandler, url)), 'inner')
    }
  },
})
