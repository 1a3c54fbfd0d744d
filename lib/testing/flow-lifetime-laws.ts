// Checks laws 10 to 15 of flows on a store: limits, owners, time and changed definitions.

import assert from 'node:assert/strict'
import { O, pipe, TE, t } from '../core/prelude.cjs'
import { sessionSet } from '../core/values.js'
import { dropFlow, effect, type FlowHandler, flowsOf, suspend } from '../flow/index.js'
import { signIn } from '../request/sign-in.js'
import { destroySession, rotateSession } from '../request/verbs.js'
import { currentSession, updateCurrentSession } from '../request/with-session.js'
import { MAX_ANSWERS, MAX_FLOWS } from '../store/flow-contract.js'
import {
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
import { right, tagOf } from './subject.js'

const boundLaws = flowLawsOf(10, {
  'a session keeps its latest flows, and an evicted flow says so': async ({ store }) => {
    const handler = threeWords()
    const { browser, first } = await begin(store, handler)
    const oldest = await browser.answer(handler, first, { word: 'oldest' })
    for (let index = 1; index <= MAX_FLOWS + 2; index += 1) {
      const next = urlOf(await browser.page(handler, '/flow'))
      await browser.answer(handler, next, { word: String(index) })
    }
    const running = await right(flowsOf(await browser.session()))
    assert.equal(running.length, MAX_FLOWS)
    const refused = await browser.send(handler, 'GET', oldest)
    assert.equal(refused.status, 410)
    assert.ok(refused.body.includes('Too many other pages'))
  },
  'a flow with too long answers is full, and can still be read': async ({ store }) => {
    const handler = served(function* () {
      for (let index = 0; ; index += 1) yield* suspend('more', Word, page(String(index)))
    })
    const { browser, first } = await begin(store, handler)
    const isFull = (what: string) => (error: unknown) =>
      tagOf(error) === 'FlowFull' && (error as { readonly what?: unknown }).what === what
    await assert.rejects(browser.answer(handler, first, { word: 'x'.repeat(70_000) }), isFull('value'))
    let url = first
    for (let index = 0; index < 17; index += 1)
      url = await browser.answer(handler, url, { word: 'x'.repeat(60_000) })
    await assert.rejects(browser.answer(handler, url, { word: 'x'.repeat(60_000) }), isFull('journal'))
    assert.equal(textOf(await browser.page(handler, url)), '17')
  },
  'a flow has at most 500 answers': async ({ store }) => {
    const handler = served(function* () {
      for (;;) yield* suspend('more', Word, page('more'))
    })
    const { browser, first } = await begin(store, handler)
    let url = first
    for (let index = 0; index < MAX_ANSWERS; index += 1)
      url = await browser.answer(handler, url, { word: 'x' })
    await assert.rejects(browser.answer(handler, url, { word: 'x' }), /answers/)
    assert.equal(textOf(await browser.page(handler, url)), 'more')
  },
  'values of effects that belong to no row count too': async ({ store }) => {
    const handler = served(function* () {
      yield* suspend('zero', Nothing, page('zero'))
      const { word } = yield* suspend('first', Word, page('first'))
      yield* effect('large', t.string, () => TE.right('x'.repeat(60_000)))
      yield* effect('fails', t.string, () => TE.left(new Error(`no ${word}`)))
    })
    const { browser, first } = await begin(store, handler)
    const url = await browser.answer(handler, first)
    const errors: string[] = []
    for (let index = 0; index < 25; index += 1)
      await browser
        .answer(handler, url, { word: String(index) })
        .catch((error: unknown) => errors.push(String(error)))
    assert.equal(errors.filter((error) => error.includes('no ')).length, 17)
    assert.equal(errors.filter((error) => error.includes('journal')).length, 8)
  },
  'a dropped flow is unknown': async ({ store }) => {
    const handler = threeWords()
    const { browser, first } = await begin(store, handler)
    const second = await browser.answer(handler, first, { word: 'a' })
    await browser.run(dropFlow(second.split('k=')[1] ?? ''))
    assert.equal((await browser.send(handler, 'GET', second)).status, 410)
    assert.deepEqual(await right(flowsOf(await browser.session())), [])
  },
})

const belongsLaws = flowLawsOf(11, {
  'another session cannot use a page': async ({ store }) => {
    const handler = threeWords()
    const { browser, first } = await begin(store, handler)
    const second = await browser.answer(handler, first, { word: 'a' })
    const other = await begin(store, handler)
    await other.browser.answer(handler, other.first, { word: 'b' })
    for (const method of ['GET', 'POST'])
      assert.equal((await other.browser.send(handler, method, second, { word: 'x' })).status, 410)
  },
  'another flow cannot use a page': async ({ store }) => {
    const handler = threeWords()
    const { browser, first } = await begin(store, handler)
    const second = await browser.answer(handler, first, { word: 'a' })
    assert.equal((await browser.send(threeWords(), 'GET', second)).status, 410)
  },
  'a flow survives a rotation, becomes its principal’s, and is of no other': async ({ store }) => {
    const handler = threeWords()
    const { browser, first } = await begin(store, handler)
    const second = await browser.answer(handler, first, { word: 'a' })
    await browser.run(pipe(currentSession, TE.chainW(rotateSession)))
    assert.equal(textOf(await browser.page(handler, second)), 'second a')
    await browser.run(signIn('ada'))
    const third = await browser.answer(handler, second, { word: 'b' })
    await browser.run(signIn('bob'))
    for (const url of [second, third]) assert.equal((await browser.send(handler, 'GET', url)).status, 410)
  },
  'a flow ends with its session': async ({ store }) => {
    const handler = threeWords()
    const { browser, first } = await begin(store, handler)
    const second = await browser.answer(handler, first, { word: 'a' })
    const kept = browser.clone()
    await browser.run(pipe(currentSession, TE.chainW(destroySession)))
    const refused = await kept.send(handler, 'POST', second, { word: 'typed' })
    assert.equal(refused.status, 410)
    assert.ok(refused.body.includes('typed'))
  },
  'a destruction and an answer at once leave no flow that can be used': async ({ store }) => {
    const handler = threeWords()
    for (let round = 0; round < 20; round += 1) {
      const { browser, first } = await begin(store, handler)
      const second = await browser.answer(handler, first, { word: 'a' })
      const session = await browser.session()
      await Promise.all([
        right(destroySession(session)),
        browser
          .clone()
          .send(handler, 'POST', second, { word: 'b' })
          .catch(() => undefined),
      ])
      assert.deepEqual(await right(flowsOf(session)), [])
    }
  },
})

const anywhereLaws = [
  ...flowLawsOf(12, {
    'a second handler of the definition goes on from any row': async ({ store }) => {
      const name = freshName()
      const handlers = [1, 2].map(() =>
        served(
          function* () {
            const first = yield* suspend('first', Word, page('first'))
            yield* suspend('second', Word, page(`second ${first.word}`))
          },
          { name },
        ),
      ) as [FlowHandler<unknown>, FlowHandler<unknown>]
      const { browser, first } = await begin(store, handlers[0])
      const second = await browser.answer(handlers[0], first, { word: 'a' })
      assert.equal(textOf(await browser.page(handlers[1], second)), 'second a')
    },
  }),
  ...flowLawsOf(13, {
    'a flow expires after its idle time and at its maximum age': async ({ store, elapse }) => {
      for (const limit of [{ idleMs: 60_000 }, { maxAgeMs: 60_000 }]) {
        const handler = served(function* () {
          for (;;) yield* suspend('more', Word, page('more'))
        }, limit)
        const { browser, first } = await begin(store, handler)
        const second = await browser.answer(handler, first, { word: 'a' })
        await elapse(50_000)
        const third = await browser.answer(handler, second, { word: 'b' })
        await elapse(20_000)
        const isIdle = 'idleMs' in limit
        assert.equal((await browser.send(handler, 'GET', third)).status, isIdle ? 200 : 410)
        await elapse(60_000)
        const refused = await browser.send(handler, 'POST', third, { word: 'typed' })
        assert.equal(refused.status, 410)
        assert.ok(refused.body.includes('typed'))
      }
    },
  }),
]

const changeLaws = flowLawsOf(14, {
  'a page that was removed leads back to the last page that fits': async ({ store }) => {
    const name = freshName()
    const old = served(
      function* () {
        const { word } = yield* suspend('first', Word, page('first'))
        yield* suspend('removed', Word, page(`removed ${word}`))
        yield* suspend('last', Word, page('last'))
      },
      { name },
    )
    const { browser, first } = await begin(store, old)
    const second = await browser.answer(old, first, { word: 'a' })
    const third = await browser.answer(old, second, { word: 'b' })
    const changed = served(
      function* () {
        const { word } = yield* suspend('first', Word, page('first'))
        yield* suspend('last', Word, page(`last ${word}`))
      },
      { name, version: 2 },
    )
    const back = (await browser.send(changed, 'GET', third)).headers['Location'] ?? ''
    assert.equal(back, second)
    assert.equal(textOf(await browser.page(changed, back)), 'last a')
  },
  'an inserted effect runs when the page before it is answered again': async ({ store }) => {
    const name = freshName()
    const old = served(
      function* () {
        yield* suspend('first', Word, page('first'))
        yield* suspend('last', Word, page('last'))
      },
      { name },
    )
    const { browser, first } = await begin(store, old)
    const second = await browser.answer(old, first, { word: 'a' })
    const { keys, task } = counter()
    const changed = served(
      function* () {
        yield* suspend('first', Word, page('first'))
        const count = yield* effect('inserted', t.number, task)
        yield* suspend('last', Word, page(`last ${String(count)}`))
      },
      { name, version: 2 },
    )
    assert.equal((await browser.send(changed, 'GET', second)).headers['Location'], first)
    assert.equal(keys.length, 0)
    const next = await browser.answer(changed, first, { word: 'a' })
    assert.equal(textOf(await browser.page(changed, next)), 'last 1')
  },
  'an effect that has run is never dropped silently': async ({ store }) => {
    const name = freshName()
    const { task } = counter()
    const old = served(
      function* () {
        yield* suspend('first', Word, page('first'))
        yield* effect('charge', t.number, task)
        yield* suspend('last', Word, page('last'))
      },
      { name },
    )
    const { browser, first } = await begin(store, old)
    const second = await browser.answer(old, first, { word: 'a' })
    const changed = served(
      function* () {
        yield* suspend('first', Word, page('first'))
        yield* suspend('last', Word, page('last'))
      },
      { name, version: 2 },
    )
    await assert.rejects(
      browser.send(changed, 'GET', second),
      (error) =>
        tagOf(error) === 'FlowChanged' &&
        (error as { readonly drops?: readonly string[] }).drops?.join() === 'charge',
    )
  },
  'a version that is not accepted is told': async ({ store }) => {
    const name = freshName()
    const body = function* () {
      yield* suspend('first', Word, page('first'))
      yield* suspend('last', Word, page('last'))
    }
    const old = served(body, { name })
    const { browser, first } = await begin(store, old)
    const second = await browser.answer(old, first, { word: 'a' })
    await assert.rejects(
      browser.send(served(body, { name, version: 2, accepts: [] }), 'GET', second),
      (error) => tagOf(error) === 'FlowChanged',
    )
  },
})

const costLaws = flowLawsOf(15, {
  'an answer changes neither the revision nor the entries of its session': async ({ store }) => {
    const handler = threeWords()
    const { browser, first } = await begin(store, handler)
    await browser.run(updateCurrentSession(sessionSet('kept', 1)))
    const before = (await browser.session()).snapshot
    const second = await browser.answer(handler, first, { word: 'a' })
    await browser.answer(handler, second, { word: 'b' })
    const after = (await browser.session()).snapshot
    const picked = O.map(
      ({
        revision,
        entries,
      }: {
        readonly revision: number
        readonly entries: { toObject: () => unknown }
      }) => [revision, entries.toObject()],
    )
    assert.deepEqual(picked(after), picked(before))
  },
})

export const lifetimeLawsOfFlows = [...boundLaws, ...belongsLaws, ...anywhereLaws, ...changeLaws, ...costLaws]
