// Runs the suite of the adapters for `fetch` and Hono on Bun or Deno, with the server of the runtime. Also tests the
// features of this runtime. `spec/slow/runtimes.spec.ts` starts it.

import { Hono } from 'hono'
import type { Test } from 'tap'
import { pgliteDatabase } from '../../lib/db/pglite.js'
import { postgresDatabase } from '../../lib/db/postgres/index.js'
import { fetchHandler } from '../../lib/http/fetch.js'
import {
  buildSession,
  currentSession,
  saveSession,
  sessionSet,
  sessionStore,
  sessionToken,
  updateCurrentSession,
} from '../../lib/promise/index.js'
import { doorSuite } from './adapter-suite.js'
import { honoApp, respond, type Served, type SpecDoor } from './adapters.js'
import { quietPools } from './databases.js'
import { runTests } from './plain-tap.js'
import { dropSchemas, freshSchema } from './stores.js'

type Fetch = (request: Request, server: unknown) => Response | Promise<Response>

interface BunServer {
  readonly port: number
  readonly stop: (isAbrupt: boolean) => Promise<void>
  readonly upgrade: (request: Request) => boolean
}

interface Runtime {
  readonly Bun?: { readonly serve: (options: object) => BunServer }
  readonly Deno?: {
    readonly serve: (
      options: object,
      fetch: Fetch,
    ) => { readonly addr: { readonly port: number }; readonly shutdown: () => Promise<void> }
    readonly upgradeWebSocket: (request: Request) => {
      readonly socket: WebSocket
      readonly response: Response
    }
  }
}

const { Bun, Deno } = globalThis as unknown as Runtime

const serveFetch = (fetch: Fetch): Promise<Served> => {
  const local = (port: number) => `http://127.0.0.1:${String(port)}`
  if (Bun !== undefined) {
    // The server sends `hello` to each WebSocket.
    const websocket = { open: (socket: WebSocket) => socket.send('hello'), message: () => undefined }
    const server = Bun.serve({ port: 0, hostname: '127.0.0.1', fetch, websocket, idleTimeout: 60 })
    return Promise.resolve({ url: local(server.port), close: () => server.stop(true) })
  }
  if (Deno === undefined) throw new Error('neither Bun nor Deno')
  const end = new AbortController()
  const options = { port: 0, hostname: '127.0.0.1', onListen: () => undefined, signal: end.signal }
  const server = Deno.serve(options, fetch)
  return Promise.resolve({
    url: local(server.addr.port),
    close: () => {
      end.abort()
      return Promise.resolve()
    },
  })
}

// Bun closes the connection of a client that pipelines requests.
const pipelines = Bun === undefined

const webDoors: readonly SpecDoor[] = [
  {
    name: 'fetch',
    streams: true,
    pipelines,
    serve: (handler, options) => serveFetch(fetchHandler(options)((request) => respond(handler, request))),
  },
  {
    name: 'Hono',
    streams: true,
    pipelines,
    serve: (handler, options) => {
      const app = honoApp(Hono, handler, options)
      return serveFetch((request) => app.fetch(request))
    },
  },
]

const change = () => updateCurrentSession(sessionSet('n', 1))

const form = (): FormData => {
  const data = new FormData()
  data.append('a', 'b')
  return data
}

const bodies: Readonly<Record<string, () => ConstructorParameters<typeof Response>[0]>> = {
  text: () => 'a text',
  'no text': () => '',
  blob: () => new Blob(['<b>'], { type: 'text/html' }),
  'blob without a type': () => new Blob(['x']),
  parameters: () => new URLSearchParams('a=b'),
  form,
  bytes: () => new Uint8Array([1, 2]),
  stream: () =>
    new ReadableStream({
      start: (controller) => {
        controller.enqueue(new TextEncoder().encode('a stream'))
        controller.close()
      },
    }),
  nothing: () => null,
}

/** Returns the status, the content type without its random part, and the body. */
const seen = async (answer: Response) => [
  answer.status,
  answer.headers.get('content-type')?.replace(/boundary=.*/, 'boundary'),
  (await answer.text()).replaceAll(/-----*\w+/g, 'boundary'),
]

const bodyTests = (t: Test, store: ReturnType<typeof sessionStore>): void => {
  t.test('a first answer has the type and the body that it has without keyrow', async (t) => {
    const made = (request: Request): Response => {
      const name = decodeURIComponent(new URL(request.url).pathname.slice(1))
      return new Response(bodies[name]?.() ?? null)
    }
    const bare = await serveFetch(made)
    const adapted = await serveFetch(
      fetchHandler({ store })(async (request) => {
        await change()
        return made(request)
      }),
    )
    t.teardown(bare.close)
    t.teardown(adapted.close)
    for (const name of Object.keys(bodies)) {
      const [without, first] = [await fetch(`${bare.url}/${name}`), await fetch(`${adapted.url}/${name}`)]
      t.equal(first.headers.getSetCookie().length, 1, name)
      t.strictSame(await seen(first), await seen(without), name)
    }
  })
}

/** Upgrades this request to a WebSocket, and returns the result for the handler. */
const upgraded = (request: Request, server: unknown): unknown => {
  if (Bun !== undefined) return (server as BunServer).upgrade(request) ? undefined : new Response('no')
  const { socket, response } = Deno?.upgradeWebSocket(request) ?? {}
  socket?.addEventListener('open', () => socket.send('hello'))
  return response
}

const greeting = (url: string, cookie?: string): Promise<unknown> =>
  new Promise((resolve) => {
    const options = cookie === undefined ? undefined : { headers: { cookie } }
    const socket = new WebSocket(url.replace('http', 'ws'), options)
    socket.addEventListener('message', ({ data }) => {
      socket.close()
      resolve(data)
    })
    socket.addEventListener('error', () => resolve('no'))
    socket.addEventListener('close', () => resolve('closed'))
  })

const socketTests = (t: Test, store: ReturnType<typeof sessionStore>): void => {
  t.test('a handler that upgrades its connection has its session', async (t) => {
    const failures: unknown[] = []
    const onError = (failure: unknown) => {
      failures.push((failure as Error).name)
      return { status: 500, body: 'mine' }
    }
    const reads: unknown[] = []
    const served = await serveFetch(
      fetchHandler({ store, onError })(async (request: Request, server: unknown) => {
        const { pathname } = new URL(request.url)
        reads.push((await currentSession()).store.get('n'))
        if (pathname === '/change') await change()
        return pathname === '/text' ? 'a text' : upgraded(request, server)
      }),
    )
    t.teardown(served.close)
    const cookie = `session=${sessionToken(await saveSession(sessionSet('n', 7)(buildSession(store))))}`
    t.equal(await greeting(`${served.url}/`), 'hello')
    t.equal(await greeting(`${served.url}/`, cookie), 'hello')
    t.equal(await greeting(`${served.url}/change`, cookie), 'hello')
    t.equal(await greeting(`${served.url}/`, cookie), 'hello')
    t.strictSame(reads.splice(0), [undefined, 7, 7, 1])
    t.strictSame(failures, [])
    t.equal((await fetch(`${served.url}/text`)).status, 500)
    t.strictSame(failures.splice(0), ['ResponseRejected'], 'what is no response is told')
    // keyrow can add a cookie to Deno's response to an upgrade. Bun sends its own response.
    t.equal(await greeting(`${served.url}/change`), 'hello')
    t.strictSame(failures, Deno === undefined ? ['ResponseRejected'] : [], 'and what cannot be sent')
  })
}

const pgliteTests = (t: Test): void => {
  t.test('PGlite works in memory; its directory is refused, and the process lives on', async (t) => {
    const one = { name: 'one', text: 'select 1 as n' }
    const database = pgliteDatabase()
    t.match(await database.query(one, [])(), { _tag: 'Right', right: [{ n: 1 }] })
    await database.close()
    const inDirectory = pgliteDatabase('build/runtime')
    t.match(await inDirectory.query(one, [])(), {
      _tag: 'Left',
      left: { _tag: 'DriverError', message: /a directory cannot be locked here, since (bun|deno)/ },
    })
    await inDirectory.close()
  })
}

const database = postgresDatabase(quietPools(process.env['DATABASE_URL'] ?? ''), { timeoutMs: 30_000 })
// The long deadline allows for a busy machine. Nothing logs the failures that this suite causes.
console.error = () => undefined

await runTests((t) => {
  const store = sessionStore(database, { schema: freshSchema() })
  bodyTests(t, store)
  socketTests(t, store)
  pgliteTests(t)
  for (const door of webDoors) t.test(door.name, async (t) => doorSuite(t, door, database))
})
await dropSchemas(database)
await database.close()
process.exit()
