// Serves a flow for the specs of browsers.

import { createServer } from 'node:http'
import * as io from 'io-ts'
import type { Test } from 'tap'
import { sessionListener } from '../../lib/http/node.js'
import { flow, flowHandler, nodeFlow, once, type Page, suspend } from '../../lib/promise/flow.js'
import { memoryStore } from '../../lib/store/memory.js'
import { listening } from './adapters.js'

/** Serves a flow of four pages, which charges once. `charges` has the keys of the charges, `requests` all requests. */
export const serveWizard = async (t: Test) => {
  const charges: string[] = []
  const requests: string[] = []
  const Word = io.strict({ word: io.string })
  const ask = (title: string) => (at: Page) =>
    `<h1>${title}</h1><p id="back">${String(at.url.split('k=')[1])}</p>
     <form method="post" action="${at.url}"><input name="word"><button id="go">Go on</button></form>`
  const wizard = flow({ name: `wizard ${String(Math.random())}`, input: io.strict({}) }, function* () {
    const one = yield* suspend('one', Word, ask('one'))
    const two = yield* suspend('two', Word, ask(`two: ${one.word}`))
    const three = yield* suspend('three', Word, ask(`three: ${one.word} ${two.word}`))
    const words = `${one.word} ${two.word} ${three.word}`
    yield* suspend(
      'pay',
      io.strict({}),
      ({ url }) =>
        `<h1>pay: ${words}</h1><form method="post" action="${url}"><button id="go">Pay</button></form>`,
      {
        once: true,
      },
    )
    yield* once('charge', io.number, async (key) => {
      await new Promise((resolve) => setTimeout(resolve, 100))
      return charges.push(key)
    })
    return words
  })
  const handler = nodeFlow(
    flowHandler(wizard, { at: '/wizard', start: () => ({}), done: (words) => `/paid?words=${words}` }),
  )
  const listener = sessionListener({ store: memoryStore() })((req, res) => {
    requests.push(`${req.method ?? ''} ${req.url ?? ''}`)
    if (req.url?.startsWith('/wizard') === true) return handler(req, res)
    res.setHeader('Content-Type', 'text/html').end(`<h1>${decodeURIComponent(req.url ?? '')}</h1>`)
    return undefined
  })
  const { url, close } = await listening(createServer(listener))
  t.teardown(close)
  return { url: `${url}/wizard`, charges, requests }
}
