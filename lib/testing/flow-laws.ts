// Checks laws 1 to 8 of flows on a store: the journal, branches, effects and cuts.

import assert from 'node:assert/strict'
import { E, O, pipe, TE, t } from '../core/prelude.cjs'
import { sessionRef, sessionSet, sessionUpdate } from '../core/values.js'
import { edit, effect, flowsOf, forward, guard, once, suspend } from '../flow/index.js'
import { parseK } from '../flow/journal.js'
import { updateCurrentSession } from '../request/with-session.js'
import { versionOf } from '../store/flow-contract.js'
import {
  Browser,
  begin,
  counter,
  flowLawsOf,
  Nothing,
  page,
  served,
  textOf,
  threeWords,
  urlOf,
  Word,
} from './flow-subject.js'
import { right, several, tagOf } from './subject.js'

const journalLaws = flowLawsOf(1, {
  'a page shows the answers that lead to it, and what it reads now': async ({ store }) => {
    let present = 'before'
    const handler = served(function* () {
      const { word } = yield* suspend('first', Word, page('first'))
      yield* suspend('second', Word, (at) => page(`${word} ${present}`)(at))
    })
    const { browser, first } = await begin(store, handler)
    const second = await browser.answer(handler, first, { word: 'tea' })
    assert.equal(textOf(await browser.page(handler, second)), 'tea before')
    present = 'after'
    assert.equal(textOf(await browser.page(handler, second)), 'tea after')
  },
  'the store returns the records of a row and its ancestors in order': async ({ store }) => {
    const handler = threeWords()
    const { browser, first } = await begin(store, handler)
    const second = await browser.answer(handler, first, { word: 'a' })
    await browser.answer(handler, first, { word: 'other branch' })
    const third = await browser.answer(handler, second, { word: 'b' })
    const place = O.toUndefined(parseK(third.split('k=')[1] ?? ''))
    assert.ok(place !== undefined && store.flows !== undefined)
    const key = { session: (await browser.session()).id, flow: place.flow }
    const read = async (known: readonly string[]) => {
      const position = await right(store.flows?.read(key, place.row, known) ?? TE.right(O.none))
      return O.isSome(position) ? position.value.rows : []
    }
    const rows = await read([])
    assert.deepEqual(
      rows.map(({ records }) => records),
      [[['suspend', 'first', { word: 'a' }]], [['suspend', 'second', { word: 'b' }]]],
    )
    assert.deepEqual(await read(rows.slice(0, 1).map(versionOf)), rows.slice(1))
    assert.deepEqual(await read(rows.slice(1).map(versionOf)), [])
    assert.deepEqual(await read([`${String(rows[1]?.id)} 0000000000000000`]), rows, 'another row of this id')
  },
  'an effect is recorded, and a later request gets the recorded value': async ({ store }) => {
    const { keys, task } = counter()
    const handler = served(function* () {
      yield* suspend('first', Nothing, page('first'))
      const count = yield* effect('count', t.number, task)
      yield* suspend('second', Nothing, page(`count ${String(count)}`))
    })
    const { browser, first } = await begin(store, handler)
    const second = await browser.answer(handler, first)
    for (let time = 0; time < 3; time += 1)
      assert.equal(textOf(await browser.page(handler, second)), 'count 1')
    assert.equal(keys.length, 1)
  },
  'a body that is not determined by its journal fails at its first answer': async ({ store }) => {
    let runs = 0
    const handler = served(function* () {
      runs += 1
      yield* suspend('first', Nothing, page('first'))
      yield* suspend(`run ${String(runs)}`, Nothing, page('second'))
    })
    const { browser, first } = await begin(store, handler)
    await assert.rejects(browser.answer(handler, first), (error) => tagOf(error) === 'FlowChanged')
    assert.deepEqual(await right(flowsOf(await browser.session())), [])
  },
})

const backLaws = [
  ...flowLawsOf(2, {
    'an older page can be asked for and answered again': async ({ store }) => {
      const handler = threeWords()
      const { browser, first } = await begin(store, handler)
      const second = await browser.answer(handler, first, { word: 'a' })
      const third = await browser.answer(handler, second, { word: 'b' })
      assert.equal(textOf(await browser.page(handler, third)), 'third a b')
      assert.equal(textOf(await browser.page(handler, second)), 'second a')
      assert.equal(textOf(await browser.page(handler, first)), 'first')
      const other = await browser.answer(handler, first, { word: 'x' })
      assert.equal(textOf(await browser.page(handler, other)), 'second x')
      assert.equal(textOf(await browser.page(handler, third)), 'third a b')
    },
  }),
  ...flowLawsOf(3, {
    'two tabs that answer one page differently are two branches': async ({ store }) => {
      const handler = threeWords()
      const { browser, first } = await begin(store, handler)
      const second = await browser.answer(handler, first, { word: 'a' })
      const [left, other] = await Promise.all(
        ['b', 'c'].map((word) => browser.clone().answer(handler, second, { word })),
      )
      assert.equal(textOf(await browser.page(handler, left ?? '')), 'third a b')
      assert.equal(textOf(await browser.page(handler, other ?? '')), 'third a c')
      assert.equal(await browser.answer(handler, left ?? '', { word: 'd' }), '/done/a-b-d')
    },
    'what is in the session does not go back': async ({ store }) => {
      const handler = served(function* () {
        const { word } = yield* suspend('first', Word, page('first'))
        yield* edit(
          'add',
          sessionUpdate('words', (words) => [...(words as readonly string[]), word], []),
        )
        yield* suspend('second', Nothing, page('second'))
      })
      const { browser, first } = await begin(store, handler)
      for (const word of ['a', 'b', 'a', 'c']) await browser.answer(handler, first, { word })
      assert.deepEqual(sessionRef('words', [])(await browser.session()), ['a', 'b', 'c'])
    },
  }),
]

const sameAnswerLaws = flowLawsOf(4, {
  'equal answers at once make one row, and run an effect and an edit once': async ({ store }) => {
    const { keys, task } = counter()
    const handler = served(function* () {
      yield* suspend('zero', Nothing, page('zero'))
      const { word } = yield* suspend('first', Word, page('first'))
      yield* effect('count', t.number, task)
      yield* edit(
        'add',
        sessionUpdate('added', (added) => Number(added) + 1, 0),
      )
      yield* suspend('second', Nothing, page(`second ${word}`))
    })
    const { browser, first } = await begin(store, handler)
    const url = await browser.answer(handler, first)
    const next = await several(5, () => browser.clone().answer(handler, url, { word: 'a' }))
    assert.equal(new Set(next).size, 1)
    assert.equal(await browser.answer(handler, url, { word: 'a' }), next[0])
    assert.equal(keys.length, 1)
    assert.equal(sessionRef('added', 0)(await browser.session()), 1)
    const [running] = await right(flowsOf(await browser.session()))
    assert.equal(running?.answers, 2)
  },
  'equal first answers at once are one flow': async ({ store }) => {
    const handler = threeWords()
    const { browser, first } = await begin(store, handler)
    await right(
      pipe(
        TE.fromTask(() => browser.run(updateCurrentSession(sessionSet('kept', 1)))),
        TE.chainW(TE.fromEither),
      ),
    )
    const next = await several(5, () => browser.clone().answer(handler, first, { word: 'a' }))
    assert.equal(new Set(next).size, 1)
    assert.equal((await right(flowsOf(await browser.session()))).length, 1)
  },
  'with `once`, the first answer counts': async ({ store }) => {
    const handler = served(function* () {
      const { word } = yield* suspend('first', Word, page('first'), { once: true })
      yield* suspend('second', Nothing, page(`second ${word}`))
    })
    const { browser, first } = await begin(store, handler)
    const next = await browser.answer(handler, first, { word: 'a' })
    assert.equal(await browser.answer(handler, first, { word: 'b' }), next)
    assert.equal(textOf(await browser.page(handler, next)), 'second a')
  },
})

const readingLaws = flowLawsOf(5, {
  'a visitor who only looks has no session and no flow': async ({ store }) => {
    const handler = threeWords()
    const browser = new Browser(store)
    for (const url of ['/flow', '/flow', urlOf(await browser.page(handler, '/flow'))])
      await browser.page(handler, url)
    assert.ok(O.isNone((await browser.session()).snapshot))
  },
  'a GET stores nothing and runs no effect': async ({ store }) => {
    const { keys, task } = counter()
    const handler = served(function* () {
      yield* suspend('first', Word, page('first'))
      yield* effect('count', t.number, task)
      yield* suspend('second', Word, page('second'))
    })
    const { browser, first } = await begin(store, handler)
    const second = await browser.answer(handler, first, { word: 'a' })
    const before = await right(flowsOf(await browser.session()))
    const revision = pipe(
      (await browser.session()).snapshot,
      O.map(({ revision }) => revision),
    )
    for (const url of [first, second, '/flow', second]) await browser.page(handler, url)
    assert.equal(keys.length, 1)
    assert.deepEqual(await right(flowsOf(await browser.session())), before)
    assert.deepEqual(
      pipe(
        (await browser.session()).snapshot,
        O.map(({ revision }) => revision),
      ),
      revision,
    )
  },
})

const onceLaws = flowLawsOf(6, {
  'ten tabs on different branches charge once': async ({ store }) => {
    const { keys, task } = counter()
    const handler = served(function* () {
      const { word } = yield* suspend('first', Word, page('first'))
      yield* suspend('confirm', Nothing, page('confirm'))
      const charge = yield* once('charge', t.number, (key) =>
        TE.fromTask(async () => {
          await new Promise((resolve) => setTimeout(resolve, 30))
          return E.toUnion(await task(key)())
        }),
      )
      yield* suspend('third', Nothing, page(`${word} ${String(charge)}`))
    })
    const { browser, first } = await begin(store, handler)
    const words = Array.from({ length: 10 }, (_, index) => `tab ${String(index)}`)
    const confirms: string[] = []
    for (const word of words) confirms.push(await browser.answer(handler, first, { word }))
    const thirds = await Promise.all(confirms.map((url) => browser.clone().answer(handler, url)))
    const shown = await Promise.all(thirds.map((url) => browser.page(handler, url)))
    assert.deepEqual(
      shown.map(textOf),
      words.map((word) => `${word} 1`),
    )
    assert.equal(keys.length, 1)
  },
  'equal last answers, whose flow ends right after the charge, charge once': async ({ store }) => {
    for (let round = 0; round < 10; round += 1) {
      const { keys, task } = counter()
      const handler = served(function* () {
        yield* suspend('first', Nothing, page('first'))
        yield* suspend('confirm', Nothing, page('confirm'))
        return yield* once('charge', t.number, task)
      })
      const { browser, first } = await begin(store, handler)
      const confirm = await browser.answer(handler, first)
      const ends = await several(6, async (index) => {
        await new Promise((resolve) => setTimeout(resolve, index * 2))
        return browser.clone().answer(handler, confirm)
      })
      assert.deepEqual([...new Set(ends)], ['/done/1'])
      assert.equal(keys.length, 1)
    }
  },
  'a failed effect is run again, with the same key': async ({ store }) => {
    const keys: string[] = []
    const handler = served(function* () {
      yield* suspend('first', Nothing, page('first'))
      yield* effect('fails once', t.number, (key) => {
        keys.push(key)
        return keys.length === 1 ? TE.left(new Error('no')) : TE.right(keys.length)
      })
      yield* suspend('second', Nothing, page('second'))
    })
    const { browser, first } = await begin(store, handler)
    await browser.run(updateCurrentSession(sessionSet('kept', 1)))
    await assert.rejects(browser.answer(handler, first), /no/)
    await browser.answer(handler, first)
    assert.equal(keys.length, 2)
    assert.equal(keys[0], keys[1])
  },
  'effects of one name are told apart by their order': async ({ store }) => {
    const { task } = counter()
    const handler = served(function* () {
      yield* suspend('first', Nothing, page('first'))
      const counts: number[] = []
      for (let time = 0; time < 3; time += 1) counts.push(yield* effect('count', t.number, task))
      yield* suspend('second', Nothing, page(counts.join(' ')))
    })
    const { browser, first } = await begin(store, handler)
    assert.equal(textOf(await browser.page(handler, await browser.answer(handler, first))), '1 2 3')
  },
})

const cutLaws = flowLawsOf(7, {
  'after a `forward` no earlier page can be answered, and its URL leads on': async ({ store }) => {
    const handler = served(function* () {
      const { word } = yield* suspend('first', Word, page('first'))
      yield* forward('second', Nothing, page(`second ${word}`))
      return word
    })
    const { browser, first } = await begin(store, handler)
    const second = await browser.answer(handler, first, { word: 'a' })
    assert.equal((await browser.send(handler, 'GET', first)).headers['Location'], second)
    const refused = await browser.send(handler, 'POST', first, { word: 'typed' })
    assert.equal(refused.status, 410)
    assert.ok(refused.body.includes('typed') && refused.body.includes(second))
    assert.equal(await browser.answer(handler, first, { word: 'a' }), second)
    assert.equal(await browser.answer(handler, second), '/done/a')
    for (const url of [first, second])
      for (const method of ['GET', 'POST'])
        assert.equal((await browser.send(handler, method, url, { word: 'a' })).headers['Location'], '/done/a')
  },
  'a `forward` and an answer to an earlier page at once: one of them comes too late': async ({ store }) => {
    const handler = served(function* () {
      yield* suspend('zero', Nothing, page('zero'))
      const { word } = yield* suspend('first', Word, page('first'))
      if (word === 'cut') yield* forward('cut', Nothing, page('cut'))
      else yield* suspend('other', Nothing, page('other'))
    })
    for (let round = 0; round < 20; round += 1) {
      const { browser, first } = await begin(store, handler)
      const url = await browser.answer(handler, first)
      const [cut, other] = await Promise.all(
        ['cut', 'other'].map((word) => browser.clone().send(handler, 'POST', url, { word })),
      )
      assert.equal(cut?.status, 303)
      const after = await browser.send(handler, 'GET', other?.headers['Location'] ?? url)
      assert.equal(after.headers['Location'], cut.headers['Location'])
    }
  },
})

const savedLaws = flowLawsOf(8, {
  'a failed task stores no row and no edit': async ({ store }) => {
    let fails = true
    const handler = served(function* () {
      yield* suspend('zero', Nothing, page('zero'))
      yield* suspend('first', Nothing, page('first'))
      yield* edit('mark', sessionSet('marked', true))
      yield* effect('may fail', t.null, () => (fails ? TE.left(new Error('no')) : TE.right(null)))
      yield* suspend('second', Nothing, page('second'))
    })
    const { browser, first } = await begin(store, handler)
    const url = await browser.answer(handler, first)
    await assert.rejects(browser.answer(handler, url), /no/)
    const [running] = await right(flowsOf(await browser.session()))
    assert.deepEqual([running?.answers, running?.step], [1, 'first'])
    assert.equal(sessionRef('marked', false)(await browser.session()), false)
    fails = false
    await browser.answer(handler, url)
    assert.equal(sessionRef('marked', false)(await browser.session()), true)
  },
  'an answer that does not fit stores nothing, and shows what was typed': async ({ store }) => {
    const handler = served(function* () {
      yield* suspend(
        'first',
        t.type({ count: t.number, note: t.string }),
        ({ problems, given }) => `${problems.join()} ${JSON.stringify(given)}`,
      )
    })
    const { browser } = await begin(store, handler)
    const reply = await browser.send(handler, 'POST', '/flow', { count: 'x', note: 'typed' })
    assert.equal(reply.status, 422)
    assert.ok(reply.body.includes('expected number at count') && reply.body.includes('typed'))
    assert.ok(O.isNone((await browser.session()).snapshot))
  },
  'a guard is run in each request that passes it, and stores nothing': async ({ store }) => {
    let allowed = true
    const handler = served(function* () {
      yield* suspend('first', Nothing, page('first'))
      yield* guard('allowed', () =>
        Promise.resolve(allowed ? E.right(undefined) : E.left(new Error('not allowed'))),
      )
      yield* suspend('second', Nothing, page('second'))
    })
    const { browser, first } = await begin(store, handler)
    const second = await browser.answer(handler, first)
    await browser.page(handler, second)
    allowed = false
    await assert.rejects(browser.page(handler, second), /not allowed/)
    await assert.rejects(browser.answer(handler, second), /not allowed/)
  },
})

export const journalLawsOfFlows = [
  ...journalLaws,
  ...backLaws,
  ...sameAnswerLaws,
  ...readingLaws,
  ...onceLaws,
  ...cutLaws,
  ...savedLaws,
]
