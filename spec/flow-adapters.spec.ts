// Tests the handler of a flow on each framework, over HTTP.

import { createServer } from 'node:http'
import { text } from 'node:stream/consumers'
import { getRequestListener } from '@hono/node-server'
import express from 'express'
import fastify from 'fastify'
import { Hono } from 'hono'
import * as io from 'io-ts'
import Koa from 'koa'
import t from 'tap'
import * as ourExpress from '../lib/http/express.js'
import { sessionPlugin } from '../lib/http/fastify.js'
import { fetchHandler } from '../lib/http/fetch.js'
import * as ourHono from '../lib/http/hono.js'
import * as ourKoa from '../lib/http/koa.js'
import { sessionListener } from '../lib/http/node.js'
import {
  expressFlow,
  fastifyFlow,
  fetchFlow,
  flow,
  flowHandler,
  honoFlow,
  koaFlow,
  nodeFlow,
  suspend,
} from '../lib/promise/flow.js'
import { memoryStore } from '../lib/store/memory.js'
import { listening, type Served } from './support/adapters.js'

const Form = io.strict({ word: io.string, colours: io.array(io.string) })

const survey = flow({ name: 'survey', input: io.strict({ path: io.string }) }, function* ({ path }) {
  const { word, colours } = yield* suspend(
    'first',
    Form,
    ({ url, problems, given }) => `${url}\n${path} ${problems.join()} ${JSON.stringify(given)}`,
  )
  yield* suspend('second', io.strict({}), ({ url }) => `${url}\n${word} ${colours.join(' and ')}`)
  return word
})

const handler = flowHandler(survey, {
  at: '/survey',
  start: ({ url }) => ({ path: url }),
  done: (word) => `/done/${word}`,
})

const options = () => ({ store: memoryStore() })

const frameworks: Readonly<Record<string, () => Promise<Served>>> = {
  node: () => listening(createServer(sessionListener(options())(nodeFlow(handler)))),
  'express, with a parser': () => {
    const app = express()
    app.use(ourExpress.sessionMiddleware(options()), express.urlencoded(), express.json())
    app.all('/survey', expressFlow(handler))
    return listening(createServer(app))
  },
  'express, without a parser, below a path': () => {
    const [app, router] = [express(), express.Router()]
    app.use(ourExpress.sessionMiddleware(options()))
    router.all('/survey', expressFlow(handler))
    app.use('/', router)
    return listening(createServer(app))
  },
  fastify: async () => {
    const app = fastify({ bodyLimit: 2_000_000 })
    await app.register(sessionPlugin, options())
    const fields = (body: string): Record<string, string | string[]> => {
      const form = new URLSearchParams(body)
      return Object.fromEntries(
        [...new Set(form.keys())].map((name) => {
          const all = form.getAll(name)
          return [name, all.length === 1 ? (all[0] ?? '') : all]
        }),
      )
    }
    app.addContentTypeParser('application/x-www-form-urlencoded', { parseAs: 'string' }, (_, body, done) => {
      done(null, fields(String(body)))
    })
    app.all('/survey', fastifyFlow(handler))
    const url = await app.listen({ port: 0, host: '127.0.0.1' })
    return { url, close: () => app.close() }
  },
  koa: () => {
    const app = new Koa()
    app.silent = true
    app.use(ourKoa.sessionMiddleware(options()))
    app.use(koaFlow(handler))
    return listening(createServer((req, res) => void app.callback()(req, res)))
  },
  'koa, with a parser': () => {
    const app = new Koa()
    app.silent = true
    app.use(ourKoa.sessionMiddleware(options()))
    app.use(async (ctx, next) => {
      const form = new URLSearchParams(await text(ctx.req))
      Object.assign(ctx.request, {
        body: {
          ...Object.fromEntries(form),
          ...(form.has('colours') ? { colours: form.getAll('colours') } : {}),
        },
      })
      await next()
    })
    app.use(koaFlow(handler))
    return listening(createServer((req, res) => void app.callback()(req, res)))
  },
  hono: () => {
    const app = new Hono()
    app.use(ourHono.sessionMiddleware(options()))
    app.all('/survey', honoFlow(handler))
    return listening(createServer((req, res) => void getRequestListener(app.fetch)(req, res)))
  },
  fetch: () => {
    const respond = fetchHandler(options())(fetchFlow(handler))
    return listening(
      createServer((req, res) => void getRequestListener((request) => respond(request))(req, res)),
    )
  },
}

/** Plays a browser with a cookie. */
const browserOf = (base: string) => {
  let cookie = ''
  return async (
    method: string,
    path: string,
    body?: string | URLSearchParams | FormData,
    headers: Record<string, string> = {},
  ) => {
    const response = await fetch(base + path, {
      method,
      redirect: 'manual',
      headers: { cookie, 'sec-fetch-site': 'same-origin', ...headers },
      ...(body === undefined ? {} : { body }),
    })
    cookie = response.headers.getSetCookie()[0]?.split(';')[0] ?? cookie
    const page = await response.text()
    const { status, headers: sent } = response
    return { status, page, url: page.split('\n')[0] ?? '', to: sent.get('location') ?? '', sent }
  }
}

const form = (word: string, ...colours: readonly string[]): URLSearchParams => {
  const fields = new URLSearchParams({ word })
  for (const colour of colours) fields.append('colours', colour)
  return fields
}

const silent = console.error
t.teardown(() => {
  console.error = silent
})

for (const [name, open] of Object.entries(frameworks))
  t.test(name, async (t) => {
    console.error = () => undefined
    const { url, close } = await open()
    t.teardown(close)
    const visit = browserOf(url)
    const begun = await visit('GET', '/survey?from=mail')
    t.match(begun, { status: 303, to: /^\/survey\?k=[\w-]{22}&from=mail$/ })
    const first = await visit('GET', begun.to)
    t.match(first, { status: 200, page: /from=mail$|from=mail / })
    t.match(Object.fromEntries(first.sent), {
      'content-type': 'text/html; charset=utf-8',
      'cache-control': 'no-store',
      'referrer-policy': 'same-origin',
    })
    t.equal(first.sent.getSetCookie().length, 0)
    const head = await visit('HEAD', begun.to)
    t.match(head, { status: 200, page: '' })
    const wrong = await visit('POST', first.url, new URLSearchParams({ word: 'tea' }))
    t.match(wrong, { status: 422, page: /expected Array<string> at colours {"word":"tea"}/ })
    const answered = await visit('POST', first.url, form('tea', 'red', 'blue'))
    t.match(answered, { status: 303, to: /^\/survey\?k=/ })
    t.equal(answered.sent.getSetCookie().length, 1, 'the first answer stores the session')
    const second = await visit('GET', answered.to)
    t.match(second.page, 'tea red and blue')
    t.match(await visit('POST', first.url, form('tea', 'red', 'blue')), { status: 303, to: answered.to })
    t.match(
      await visit('POST', second.url, 'csrf=token&other=1', {
        'content-type': 'application/x-www-form-urlencoded',
      }),
      {
        status: 303,
        to: '/done/tea',
      },
    )
    t.match(await visit('GET', second.url), { status: 303, to: '/done/tea' })
    const next = await visit('GET', (await visit('GET', '/survey')).to)
    if (!name.startsWith('koa, with')) {
      const sent = JSON.stringify({ word: 'json', colours: ['green'] })
      const json = await visit('POST', next.url, sent, { 'content-type': 'application/json' })
      t.match((await visit('GET', json.to)).page, 'json green')
      t.equal((await visit('POST', next.url, '{', { 'content-type': 'application/json' })).status, 400)
      const parts = new FormData()
      parts.set('word', 'tea')
      t.equal((await visit('POST', next.url, parts)).status, name === 'fastify' ? 415 : 400)
    }
    t.match(await visit('PUT', next.url, form('x', 'red', 'blue')), { status: 405, sent: Headers })
    const foreign = await visit('POST', next.url, form('x', 'red', 'blue'), {
      'sec-fetch-site': 'cross-site',
    })
    t.equal(foreign.status, 403)
    t.equal((await visit('POST', next.url, form('x'.repeat(300_000), 'red', 'blue'))).status, 413)
    t.match(await visit('POST', '/survey?k=nothing', form('typed', 'red', 'blue')), {
      status: 410,
      page: /typed/,
    })
    t.match(await visit('GET', next.url), { status: 200 }, 'nothing was stored meanwhile')
  })
