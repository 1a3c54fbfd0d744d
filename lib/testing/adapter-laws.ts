// Law 10, and the others as a client sees them, through the `node:http` door.
import assert from 'node:assert/strict'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import { DriverError } from '../core/errors.js'
import { sessionRef, sessionSet } from '../core/values.js'
import { sessionListener } from '../http/node.js'
import { currentSession, updateCurrentSession } from '../request/with-session.js'
import type { SessionStore } from '../store/contract.js'
import type { Law } from './subject.js'

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

const info = pipe(
  updateCurrentSession((session) =>
    sessionSet('visits', Number(sessionRef('visits', 0)(session)) + 1)(session),
  ),
  TE.map((session) => Number(sessionRef('visits', 0)(session))),
)

const counting: Handler = (_, res) =>
  pipe(
    info,
    TE.map((visits) => res.end(String(visits))),
  )

/** The store, with its writes waiting until they are let go. */
const slow = (store: SessionStore) => {
  let letGo = (): void => undefined
  const gate = new Promise<void>((resolve) => {
    letGo = resolve
  })
  const wait =
    <L, A>(task: TE.TaskEither<L, A>): TE.TaskEither<L, A> =>
    () =>
      gate.then(() => task())
  const pending: SessionStore = {
    ...store,
    create: (...params) => wait(store.create(...params)),
    save: (...params) => wait(store.save(...params)),
  }
  return { store: pending, letGo }
}

const failing = (store: SessionStore): SessionStore => ({
  ...store,
  create: () => TE.left(new DriverError('it is down', { retryable: true })),
})

const cookieOf = (response: Response): string => response.headers.getSetCookie()[0]?.split(';')[0] ?? ''

const answers: Readonly<Record<string, Handler>> = {
  'an ended response': counting,
  'a streamed response': (_, res) =>
    pipe(
      info,
      TE.chainTaskK((visits) => async () => {
        for (let part = 0; part < 20; part += 1)
          if (!res.write(`${String(visits)}${' '.repeat(9_999)}`))
            await new Promise((resolve) => res.once('drain', resolve))
        res.end()
      }),
    ),
  'a flushed head': (_, res) =>
    pipe(
      info,
      TE.map((visits) => {
        res.writeHead(200, { 'Content-Type': 'text/plain' })
        res.flushHeaders()
        return res.end(String(visits))
      }),
    ),
}

export const adapterLaws: readonly Law[] = [
  ...Object.entries(answers).map(
    ([kind, handler]): Law => ({
      law: 10,
      name: `saved before answered: not a byte of ${kind} goes out before the save is done`,
      check: async (subject) => {
        const { store, letGo } = slow(subject.store)
        await served(store, handler, async (url) => {
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
  {
    law: 10,
    name: 'saved before answered: a failed save is an error response, not a success with lost data',
    check: ({ store }) =>
      served(failing(store), counting, async (url) => {
        const response = await fetch(url)
        assert.deepEqual([response.status, await response.text()], [503, 'failed'])
        assert.deepEqual(response.headers.getSetCookie(), [])
      }),
  },
  {
    law: 10,
    name: 'saved before answered: an answer that read a session is for that visitor alone',
    check: ({ store }) =>
      served(
        store,
        (req, res) =>
          pipe(
            req.url === '/plain' ? TE.right(undefined) : TE.map(() => undefined)(currentSession),
            TE.map(() => res.end('hello')),
          ),
        async (url) => {
          const [read, plain] = [await fetch(url), await fetch(`${url}plain`)]
          const caching = ({ headers }: Response) => [headers.get('cache-control'), headers.get('vary')]
          assert.deepEqual(caching(read), ['no-store', 'Cookie'])
          assert.deepEqual(caching(plain), [null, null])
        },
      ),
  },
  {
    law: 2,
    name: 'one load, one save: a visitor who stored nothing gets no cookie',
    check: ({ store }) =>
      served(
        store,
        (_, res) =>
          pipe(
            currentSession,
            TE.map(() => res.end('hello')),
          ),
        async (url) => {
          const response = await fetch(url)
          assert.deepEqual([response.status, await response.text()], [200, 'hello'])
          assert.deepEqual(response.headers.getSetCookie(), [])
        },
      ),
  },
  {
    law: 8,
    name: 'nothing after the end, and all before: listeners on the request have the current session',
    check: ({ store }) =>
      served(
        store,
        async (req, res) => {
          await info()
          req.resume()
          const ended = new Promise((resolve) => req.on('end', () => resolve(info())))
          res.end(JSON.stringify(await ended))
        },
        async (url) => {
          const response = await fetch(url, { method: 'POST', body: 'x'.repeat(300_000) })
          assert.deepEqual(await response.json(), { _tag: 'Right', right: 2 })
        },
      ),
  },
  {
    law: 7,
    name: 'a failed request leaves nothing behind: a handler that fails after its edits stores none of them',
    check: ({ store }) =>
      served(
        store,
        (_, res) =>
          pipe(
            info,
            TE.chainW(() => {
              res.end('done')
              return TE.left('mine')
            }),
          ),
        async (url) => {
          const response = await fetch(url)
          assert.deepEqual([response.status, await response.text()], [503, 'failed'])
          assert.deepEqual(response.headers.getSetCookie(), [])
        },
      ),
  },
]
