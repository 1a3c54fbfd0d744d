// Checks law 10 through the `node:http` adapter. Also checks laws 2, 7 and 8 as an HTTP client sees them.

import assert from 'node:assert/strict'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { DriverError } from '../core/errors.js'
import { TE } from '../core/prelude.cjs'
import { sessionListener } from '../http/node.js'
import { currentSession } from '../request/with-session.js'
import type { SessionStore } from '../store/contract.js'
import { currentVisits, gate, increment, inOrder, lawsOf, right } from './subject.js'

type Handler = (req: IncomingMessage, res: ServerResponse) => unknown

const served = async (
  store: SessionStore,
  handler: Handler,
  use: (url: string) => Promise<void>,
): Promise<void> => {
  const onError = () => ({ status: 503, body: 'failed' })
  const server = createServer(sessionListener({ store, onError })(handler))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  try {
    await use(`http://127.0.0.1:${String((server.address() as AddressInfo).port)}/`)
  } finally {
    server.closeAllConnections()
    await new Promise((resolve) => server.close(resolve))
  }
}

/** Counts the visit, and returns the number of visits. */
const visit = inOrder(increment('visits'), TE.map(Number)(currentVisits))

const counting: Handler = (_, res) => TE.map((visits) => res.end(String(visits)))(visit)

/** Wraps the store. Writes wait until `opened` resolves. */
const blockedStore = (store: SessionStore, opened: Promise<void>): SessionStore => {
  const wait =
    <L, A>(task: TE.TaskEither<L, A>): TE.TaskEither<L, A> =>
    () =>
      opened.then(task)
  return {
    ...store,
    create: (...params) => wait(store.create(...params)),
    save: (...params) => wait(store.save(...params)),
  }
}

const failing = (store: SessionStore): SessionStore => ({
  ...store,
  create: () => TE.left(new DriverError('it is down', { retryable: true })),
})

const cookieOf = (response: Response): string => response.headers.getSetCookie()[0]?.split(';')[0] ?? ''

const answers: Readonly<Record<string, Handler>> = {
  'an ended response': counting,
  'a streamed response': async (_, res) => {
    const visits = await right(visit)
    for (let part = 0; part < 20; part += 1)
      if (!res.write(`${visits}${' '.repeat(9_999)}`))
        await new Promise((resolve) => res.once('drain', resolve))
    res.end()
  },
  'a flushed head': async (_, res) => {
    const visits = await right(visit)
    res.writeHead(200, { 'Content-Type': 'text/plain' })
    res.flushHeaders()
    res.end(String(visits))
  },
}

const hello: Handler = (_, res) => TE.map(() => res.end('hello'))(currentSession)

/** Fails unless the response has this status and body, and sets no cookie. */
const assertNoCookie = async (url: string, status: number, body: string): Promise<void> => {
  const response = await fetch(url)
  assert.deepEqual([response.status, await response.text()], [status, body])
  assert.deepEqual(response.headers.getSetCookie(), [])
}

export const adapterLaws = [
  ...Object.entries(answers).flatMap(([kind, handler]) =>
    lawsOf(10, {
      [`not a byte of ${kind} is sent before the save is done`]: async (subject) => {
        const [open, letGo] = gate()
        await served(blockedStore(subject.store, open), handler, async (url) => {
          let responded = false
          const response = fetch(url).finally(() => {
            responded = true
          })
          await new Promise((resolve) => setTimeout(resolve, 100))
          assert.equal(responded, false)
          letGo()
          assert.equal((await (await response).text()).trim().slice(0, 1), '1')
          const second = await fetch(url, { headers: { cookie: cookieOf(await response) } })
          assert.equal((await second.text()).trim().slice(0, 1), '2')
        })
      },
    }),
  ),
  ...lawsOf(10, {
    'a failed save gives an error response, not a success with lost data': ({ store }) =>
      served(failing(store), counting, (url) => assertNoCookie(url, 503, 'failed')),
    'a response whose handler read a session may not be cached': ({ store }) =>
      served(
        store,
        (req, res) => (req.url === '/plain' ? res.end('hello') : hello(req, res)),
        async (url) => {
          const [read, plain] = [await fetch(url), await fetch(`${url}plain`)]
          const caching = ({ headers }: Response) => [headers.get('cache-control'), headers.get('vary')]
          assert.deepEqual(caching(read), ['no-store', 'Cookie'])
          assert.deepEqual(caching(plain), [null, null])
        },
      ),
  }),
  ...lawsOf(2, {
    'a visitor who stored nothing gets no cookie': ({ store }) =>
      served(store, hello, (url) => assertNoCookie(url, 200, 'hello')),
  }),
  ...lawsOf(8, {
    'listeners on the request have the current session': ({ store }) =>
      served(
        store,
        async (req, res) => {
          await visit()
          req.resume()
          const ended = new Promise((resolve) => req.on('end', () => resolve(visit())))
          res.end(JSON.stringify(await ended))
        },
        async (url) => {
          const response = await fetch(url, { method: 'POST', body: 'x'.repeat(300_000) })
          assert.deepEqual(await response.json(), { _tag: 'Right', right: 2 })
        },
      ),
  }),
  ...lawsOf(7, {
    'a handler that fails after its edits stores none of them': ({ store }) =>
      served(
        store,
        (_, res) =>
          inOrder(
            visit,
            TE.fromIO(() => res.end('done')),
            TE.left('mine'),
          ),
        (url) => assertNoCookie(url, 503, 'failed'),
      ),
  }),
]
