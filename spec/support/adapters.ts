// Starts every adapter with its real framework around the same handler.

import { once } from 'node:events'
import { mkdir, writeFile } from 'node:fs/promises'
import {
  createServer,
  type IncomingMessage,
  type RequestListener,
  type Server,
  type ServerResponse,
} from 'node:http'
import type { AddressInfo } from 'node:net'
import { Readable } from 'node:stream'
import { text } from 'node:stream/consumers'
import { pipeline } from 'node:stream/promises'
import { getRequestListener, serve as serveHono } from '@hono/node-server'
import express from 'express'
import fastify from 'fastify'
import { Hono } from 'hono'
import Koa from 'koa'
import * as ourExpress from '../../lib/http/express.js'
import { sessionPlugin } from '../../lib/http/fastify.js'
import { fetchHandler } from '../../lib/http/fetch.js'
import * as ourHono from '../../lib/http/hono.js'
import * as ourKoa from '../../lib/http/koa.js'
import { sessionListener } from '../../lib/http/node.js'
import type { AdapterOptions } from '../../lib/http/session-request.js'
import { codeBlocks } from './code-blocks.js'

/** A request as the handler of a test sees it. */
export interface Call {
  readonly method: string
  readonly path: string
  readonly query: URLSearchParams
  readonly headers: Readonly<Record<string, string | readonly string[] | undefined>>
  readonly form: () => Promise<URLSearchParams>
}

export interface Reply {
  readonly status?: number
  readonly headers?: Readonly<Record<string, string | readonly string[]>>
  readonly body?: string | AsyncIterable<string>
}

export type CallHandler = (call: Call) => Promise<Reply>

export interface Serving extends AdapterOptions {
  readonly trustProxy?: boolean
}

export interface Served {
  readonly url: string
  readonly close: () => Promise<void>
}

export interface SpecDoor {
  readonly name: string
  readonly streams: boolean
  /** Whether the server supports pipelined requests. Default: true. */
  readonly pipelines?: boolean
  readonly serve: (handler: CallHandler, options: Serving) => Promise<Served>
}

/** Listens on a free port. */
export const listening = async (server: Server): Promise<Served> => {
  if (!server.listening) {
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
  }
  return {
    url: `http://127.0.0.1:${String((server.address() as AddressInfo).port)}`,
    close: async () => {
      const closed = once(server, 'close')
      server.close()
      server.closeAllConnections()
      await closed
    },
  }
}

const callOf = (
  { method = 'GET', url = '/', headers }: Pick<IncomingMessage, 'method' | 'url' | 'headers'>,
  body: () => Promise<string>,
): Call => {
  const { pathname, searchParams } = new URL(url, 'http://localhost')
  const form = async () => new URLSearchParams(await body())
  return { method, path: pathname, query: searchParams, headers, form }
}

const sendNode =
  (handler: CallHandler): ((...args: Parameters<RequestListener>) => Promise<void>) =>
  async (req, res) => {
    const { status = 200, headers = {}, body = '' } = await handler(callOf(req, () => text(req)))
    res.writeHead(status, headers as Record<string, string | string[]>)
    if (typeof body === 'string') res.end(body)
    else await pipeline(Readable.from(body), res)
  }

const headersOf = (headers: Reply['headers'] = {}): Headers => {
  const made = new Headers()
  for (const [name, value] of Object.entries(headers))
    for (const one of [value].flat()) made.append(name, one)
  return made
}

export const respond = async (handler: CallHandler, request: Request): Promise<Response> => {
  const { method, url } = request
  const call = callOf({ method, url, headers: Object.fromEntries(request.headers) }, () => request.text())
  const { status = 200, headers, body = '' } = await handler(call)
  const empty = status === 304 || status === 204
  const web =
    typeof body === 'string' ? body : (Readable.toWeb(Readable.from(encoded(body))) as ReadableStream)
  return new Response(empty ? null : web, { status, headers: headersOf(headers) })
}

async function* encoded(body: AsyncIterable<string>): AsyncIterable<Uint8Array> {
  for await (const part of body) yield Buffer.from(part)
}

const expressApp = (
  framework: typeof express,
  handler: CallHandler,
  { trustProxy = false, ...options }: Serving,
) => {
  const app = framework()
  app.set('env', 'test')
  app.set('trust proxy', trustProxy)
  app.disable('x-powered-by')
  app.use(ourExpress.sessionMiddleware(options))
  app.use(framework.text({ type: '*/*' }))
  const answer = async (req: express.Request, res: express.Response): Promise<void> => {
    const body = async () => Promise.resolve(String(req.body))
    const reply = await handler(callOf(req, body))
    res.status(reply.status ?? 200)
    for (const [name, value] of Object.entries(reply.headers ?? {}))
      res.append(name, value as string | string[])
    if (typeof reply.body === 'object') await pipeline(Readable.from(reply.body), res)
    else res.send(reply.body)
  }
  // Express 4 ignores promises.
  const passing: express.RequestHandler = (req, res, next) => void answer(req, res).catch(next)
  app.use('_router' in app ? passing : answer)
  return app
}

const fastifyApp = (
  framework: typeof fastify,
  handler: CallHandler,
  { trustProxy = false, ...options }: Serving,
) => {
  const app = framework({ trustProxy, forceCloseConnections: true })
  app.removeAllContentTypeParsers()
  app.addContentTypeParser('*', { parseAs: 'string' }, (_request, body, done) => done(null, body))
  app.register(sessionPlugin, options)
  app.register((child, _options, done) => {
    child.all('/*', async (request, reply) => {
      const { method, url, headers } = request
      const call = await handler(
        callOf({ method, url, headers }, async () => Promise.resolve(String(request.body))),
      )
      reply.code(call.status ?? 200).headers((call.headers ?? {}) as Record<string, string | string[]>)
      return reply.send(typeof call.body === 'object' ? Readable.from(call.body) : call.body)
    })
    done()
  })
  return app
}

const koaApp = (Framework: typeof Koa, handler: CallHandler, { trustProxy = false, ...options }: Serving) => {
  const app = new Framework({ proxy: trustProxy })
  app.silent = true
  app.use(ourKoa.sessionMiddleware(options))
  app.use(async (ctx) => {
    const reply = await handler(callOf(ctx.req, () => text(ctx.req)))
    ctx.status = reply.status ?? 200
    for (const [name, value] of Object.entries(reply.headers ?? {}))
      ctx.append(name, value as string | string[])
    ctx.body = typeof reply.body === 'object' ? Readable.from(reply.body) : reply.body
  })
  return app
}

export const honoApp = (Framework: typeof Hono, handler: CallHandler, options: Serving) => {
  const app = new Framework()
  app.use(ourHono.sessionMiddleware(options))
  app.all('*', (c) => respond(handler, c.req.raw))
  return app
}

/** The adapter from docs/frameworks.md, behind a gateway of this spec. */
export const documentedDoor = async (): Promise<SpecDoor> => {
  const block = (await codeBlocks()).find(({ code }) => code.includes('sessionFunction = '))
  const folder = new URL('../../build/door/', import.meta.url)
  await mkdir(folder, { recursive: true })
  const program = new URL('function.ts', folder)
  // The adapter imports the modules of the specs, and not the built package.
  await writeFile(program, block?.code.replace(`'keyrow/adapter'`, `'../../lib/http/adapter.js'`) ?? '')
  const { sessionFunction } = (await import(program.href)) as { readonly sessionFunction: SessionFunction }
  return {
    name: 'the door of docs/frameworks.md',
    streams: false,
    serve: (handler, { trustProxy = false, ...options }) => {
      const run = sessionFunction(options)((event) => resultOf(handler, event))
      return listening(createServer((req, res) => void gateway(run, trustProxy, req, res)))
    },
  }
}

type SessionFunction = (
  options: AdapterOptions,
) => (handler: (event: GatewayEvent) => Promise<GatewayResult>) => GatewayFunction

type GatewayFunction = (event: GatewayEvent) => Promise<GatewayResult>

interface GatewayEvent {
  readonly path: string
  readonly query: string
  readonly headers: Readonly<Record<string, string>>
  readonly body: string
  readonly http: Readonly<Record<'method' | 'protocol' | 'host' | 'sourceIp', string>>
}

interface GatewayResult {
  readonly status: number
  readonly headers?: Readonly<Record<string, string>>
  readonly cookies?: readonly string[]
  readonly body: string
}

const resultOf = async (handler: CallHandler, event: GatewayEvent): Promise<GatewayResult> => {
  const { path, query, http, headers: sent } = event
  const call = callOf({ method: http.method, url: path + query, headers: sent }, () =>
    Promise.resolve(event.body),
  )
  const { status = 200, headers = {}, body = '' } = await handler(call)
  const { 'Set-Cookie': cookies = [], ...plain } = headers
  const named = Object.entries(plain).map(([name, value]) => [name.toLowerCase(), String(value)])
  return {
    status,
    headers: Object.fromEntries(named) as Record<string, string>,
    cookies: [cookies].flat(),
    body: typeof body === 'string' ? body : '',
  }
}

const gateway = async (
  run: GatewayFunction,
  trustProxy: boolean,
  req: IncomingMessage,
  res: ServerResponse,
): Promise<void> => {
  const { pathname, search } = new URL(req.url ?? '/', 'http://localhost')
  const forwarded = (name: string): string | undefined =>
    trustProxy ? (req.headers[name] as string | undefined) : undefined
  try {
    const { status, headers, cookies, body } = await run({
      path: pathname,
      query: search,
      headers: req.headers as Record<string, string>,
      body: await text(req),
      http: {
        method: req.method ?? 'GET',
        protocol: forwarded('x-forwarded-proto') ?? 'http',
        host: forwarded('x-forwarded-host') ?? req.headers.host ?? '',
        sourceIp: forwarded('x-forwarded-for') ?? '127.0.0.1',
      },
    })
    res
      .writeHead(status, { ...headers, ...(cookies?.length ? { 'Set-Cookie': [...cookies] } : {}) })
      .end(body)
  } catch {
    res.writeHead(500).end()
  }
}

export const expressDoor = (name: string, framework: typeof express): SpecDoor => ({
  name,
  streams: true,
  serve: (handler, options) => listening(createServer(expressApp(framework, handler, options))),
})

export const fastifyDoor = (name: string, framework: typeof fastify): SpecDoor => ({
  name,
  streams: true,
  serve: async (handler, options) => {
    const app = fastifyApp(framework, handler, options)
    await app.listen({ port: 0, host: '127.0.0.1' })
    return listening(app.server)
  },
})

export const koaDoor = (name: string, framework: typeof Koa): SpecDoor => ({
  name,
  streams: true,
  serve: (handler, options) => {
    const listener = koaApp(framework, handler, options).callback()
    return listening(createServer((req, res) => void listener(req, res)))
  },
})

export const honoDoor = (name: string, framework: typeof Hono): SpecDoor => ({
  name,
  streams: true,
  serve: async (handler, options) => {
    const { fetch } = honoApp(framework, handler, options)
    const server = serveHono({ fetch, port: 0, hostname: '127.0.0.1' })
    await once(server, 'listening')
    return listening(server as Server)
  },
})

export const doors: readonly SpecDoor[] = [
  {
    name: 'node:http',
    streams: true,
    serve: (handler, options) => listening(createServer(sessionListener(options)(sendNode(handler)))),
  },
  expressDoor('Express', express),
  fastifyDoor('Fastify', fastify),
  koaDoor('Koa', Koa),
  honoDoor('Hono', Hono),
  {
    name: 'fetch',
    streams: true,
    serve: (handler, options) => {
      const listener = getRequestListener(fetchHandler(options)((request) => respond(handler, request)))
      return listening(createServer((req, res) => void listener(req, res)))
    },
  },
]
