// Binds sessions to a real Chromium, over HTTPS with a certificate of this spec: `npm run spec:browser`. It needs Chromium,
// which is no npm package. On Linux the keys are in software, which a flag of Chromium allows.

import { execFile } from 'node:child_process'
import { createHash, X509Certificate } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer, type ServerOptions } from 'node:https'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { promisify } from 'node:util'
import express from 'express'
import { fastify } from 'fastify'
import { type BrowserContext, chromium, type Page } from 'playwright-core'
import { generate } from 'selfsigned'
import t, { type Test } from 'tap'
import { pgStore } from '../../lib/entry/pg.js'
import { sessionMiddleware } from '../../lib/http/express.js'
import { sessionPlugin } from '../../lib/http/fastify.js'
import { sessionListener } from '../../lib/http/node.js'
import {
  currentProof,
  currentSession,
  destroySessionsOf,
  onSessionEvent,
  rotateSession,
  type SessionStore,
  sessionRef,
  sessionUpdate,
  signIn,
  signOut,
  updateCurrentSession,
} from '../../lib/promise/index.js'
import { memoryStore } from '../../lib/store/memory.js'
import { chromiumPath } from '../support/chromium.js'
import { pgPool } from '../support/databases.js'
import { startPostgres } from '../support/postgres-server.js'
import { right } from '../support/stores.js'

const { private: key, cert } = await generate([{ name: 'commonName', value: 'localhost' }])
const certificate = { key, cert }
const fingerprint = createHash('sha256')
  .update(new X509Certificate(cert).publicKey.export({ type: 'spki', format: 'der' }))
  .digest('base64')

const FEATURES = 'DeviceBoundSessions,EnableBoundSessionCredentialsSoftwareKeysForManualTesting'

/** Opens Chromium with a new profile. */
const openBrowser = async (t: Test, knowsBinding = true): Promise<BrowserContext> => {
  const folder = await mkdtemp(join(tmpdir(), 'keyrow-bound-'))
  const context = await chromium.launchPersistentContext(folder, {
    executablePath: chromiumPath(),
    args: [
      '--no-sandbox',
      ...[
        '--disable-quic',
        '--disable-background-networking',
        '--disable-component-update',
        '--disable-sync',
      ],
      knowsBinding ? `--enable-features=${FEATURES}` : '--disable-features=DeviceBoundSessions',
      `--ignore-certificate-errors-spki-list=${fingerprint}`,
    ],
  })
  t.teardown(async () => {
    await context.close()
    await rm(folder, { recursive: true, force: true })
  })
  return context
}

/** What a page of the program does, by its path. */
const act = async (path: string): Promise<void> => {
  if (path === '/in') await signIn('ada')
  if (path === '/out') await signOut()
  if (path === '/rotate') await rotateSession(await currentSession())
  if (path === '/add') await updateCurrentSession(sessionUpdate('n', (n) => Number(n) + 1, 0))
}

const button = (path: string): string =>
  `<form method=post action=/${path}><button id=${path}>${path}</button></form>`

const pageOf = async (): Promise<string> =>
  `<!doctype html><link rel=icon href="data:,"><p>${await currentProof()} ${String(
    Number(sessionRef('n', 0)(await currentSession())),
  )}</p>${['in', 'out', 'rotate', 'add'].map(button).join('')}`

interface Adapter {
  readonly name: string
  /** Returns the listener of an HTTPS server. */
  readonly listener: (store: SessionStore) => Promise<NonNullable<Parameters<typeof createServer>[1]>>
}

const html = { 'Content-Type': 'text/html' }
const bound = {}

const adapters: readonly Adapter[] = [
  {
    name: 'node:https',
    listener: (store) =>
      Promise.resolve(
        sessionListener({ store, bound })(async (req, res) => {
          const path = req.url ?? ''
          await act(path)
          if (req.method === 'POST') res.writeHead(303, { Location: '/' }).end()
          else res.writeHead(200, html).end(path === '/proof' ? await currentProof() : await pageOf())
        }),
      ),
  },
  {
    name: 'Express',
    listener: (store) => {
      const app = express()
      app.set('env', 'test')
      app.use(sessionMiddleware({ store, bound }))
      app.get('/proof', async (_req, res) => void res.send(await currentProof()))
      app.get('/', async (_req, res) => void res.send(await pageOf()))
      app.post('/:act', async (req, res) => {
        await act(req.path)
        res.redirect(303, '/')
      })
      return Promise.resolve(app)
    },
  },
  {
    name: 'Fastify',
    listener: async (store) => {
      const app = fastify({ https: certificate } as { readonly https: ServerOptions })
      app.addContentTypeParser('application/x-www-form-urlencoded', (_request, _body, done) => done(null))
      await app.register(sessionPlugin, { store, bound })
      app.get('/proof', () => currentProof())
      app.get('/', async (_request, reply) => reply.headers(html).send(await pageOf()))
      app.post('/:act', async (request, reply) => {
        await act(request.url)
        return reply.redirect('/', 303)
      })
      await app.ready()
      return app.server.listeners('request')[0] as Awaited<ReturnType<Adapter['listener']>>
    },
  },
]

interface Program {
  readonly url: string
  /** The requests that browsers have sent to bind and to refresh since the last call, with their statuses. */
  readonly binding: () => readonly string[]
  readonly restart: () => Promise<void>
  /** Opens the page, and returns its text. */
  readonly look: (page: Page) => Promise<string>
  /** Presses a button, and returns the text of the page that follows. */
  readonly press: (page: Page, name: string) => Promise<string>
}

const started = async (t: Test, adapter: Adapter, store: SessionStore): Promise<Program> => {
  const requests: string[] = []
  const start = async (port: number) => {
    const server = createServer(certificate, await adapter.listener(store))
    server.prependListener('request', (req, res) => {
      const path = req.url ?? ''
      if (path.startsWith('/session-binding/'))
        res.on('close', () =>
          requests.push(`${path.slice('/session-binding/'.length)} ${String(res.statusCode)}`),
        )
    })
    server.listen(port, '127.0.0.1')
    await once(server, 'listening')
    return server
  }
  const stop = async (): Promise<void> => {
    server.close()
    server.closeAllConnections()
    await once(server, 'close')
  }
  let server = await start(0)
  t.teardown(stop)
  const { port } = server.address() as AddressInfo
  const url = `https://localhost:${String(port)}/`
  const text = async (page: Page): Promise<string> => (await page.textContent('p')) ?? ''
  return {
    url,
    binding: () => requests.splice(0),
    restart: async () => {
      await stop()
      server = await start(port)
    },
    look: async (page) => {
      await page.goto(url)
      return text(page)
    },
    press: async (page, name) => {
      await Promise.all([page.waitForEvent('load'), page.click(`#${name}`)])
      return text(page)
    },
  }
}

const BOUND = '__Host-session-bound'

/** Signs in, and waits until the browser has the bound cookie. */
const boundPage = async (t: Test, context: BrowserContext, program: Program): Promise<Page> => {
  const page = await context.newPage()
  t.equal(await program.look(page), 'unbound 0')
  program.binding()
  await program.press(page, 'in')
  const deadline = Date.now() + 10_000
  while (!(await context.cookies()).some(({ name }) => name === BOUND) && Date.now() < deadline)
    await delay(20)
  t.equal(await program.look(page), 'proven 0')
  t.strictSame(program.binding(), ['register 200'])
  return page
}

/** Changes when the bound cookie ends, as if time had passed. */
const shorten = async (context: BrowserContext, seconds: number): Promise<void> => {
  const cookies = (await context.cookies()).filter(({ name }) => name === BOUND)
  await context.addCookies(cookies.map((cookie) => ({ ...cookie, expires: Date.now() / 1000 + seconds })))
}

const proofs = 'Promise.all(Array.from({ length: 8 }, async () => (await fetch("/proof")).text()))'

for (const adapter of adapters)
  t.test(adapter.name, async (t) => {
    const postgres = await startPostgres()
    t.teardown(() => postgres.stop())
    const store = pgStore(pgPool(postgres.url), { retry: { attempts: 1 } })
    t.teardown(() => right(store.close))
    const program = await started(t, adapter, store)

    t.test('registration, refreshes on demand and in advance, one for eight requests', async (t) => {
      const context = await openBrowser(t)
      const page = await boundPage(t, context, program)
      t.equal(await program.press(page, 'add'), 'proven 1')
      t.strictSame(program.binding(), [])
      await context.clearCookies({ name: BOUND })
      t.equal(await program.look(page), 'proven 1', 'the page waits for the refresh')
      t.strictSame(program.binding(), ['refresh 403', 'refresh 200'])
      await context.clearCookies({ name: BOUND })
      t.strictSame(await page.evaluate(proofs), Array(8).fill('proven'))
      t.strictSame(program.binding(), ['refresh 403', 'refresh 200'], 'one refresh for all')
      await shorten(context, 60)
      t.equal(await program.look(page), 'proven 1')
      for (let tries = 0; tries < 100 && program.binding().at(-1) !== 'refresh 200'; tries += 1)
        await delay(20)
      const [cookie] = (await context.cookies()).filter(({ name }) => name === BOUND)
      t.ok((cookie?.expires ?? 0) > Date.now() / 1000 + 300, 'it was refreshed before its end')
    })

    t.test('a rotation needs no refresh', async (t) => {
      const context = await openBrowser(t)
      const page = await boundPage(t, context, program)
      t.equal(await program.press(page, 'rotate'), 'proven 0')
      t.equal(await program.press(page, 'add'), 'proven 1')
      t.strictSame(program.binding(), [])
      await context.clearCookies({ name: BOUND })
      t.equal(await program.look(page), 'proven 1', 'the binding is the same')
    })

    t.test('a sign-out ends the binding', async (t) => {
      const context = await openBrowser(t)
      const page = await boundPage(t, context, program)
      t.equal(await program.press(page, 'out'), 'unbound 0')
      t.equal(await program.look(page), 'unbound 0')
      t.strictSame(program.binding(), ['refresh 404'])
      await program.press(page, 'in')
      await page.waitForTimeout(500)
      t.equal(await program.look(page), 'proven 0', 'the next sign-in binds again')
      t.strictSame(program.binding(), ['register 200'])
    })

    t.test('another device ends the session', async (t) => {
      const context = await openBrowser(t)
      const page = await boundPage(t, context, program)
      await destroySessionsOf(store, 'ada')
      t.equal(await program.look(page), 'unbound 0')
      await context.clearCookies({ name: BOUND })
      t.equal(await program.look(page), 'unbound 0')
      t.strictSame(program.binding(), ['refresh 404'])
      t.equal(await program.press(page, 'add'), 'unbound 1')
    })

    t.test(
      'a restart of the server, and a database that is down for ten seconds, keep the binding',
      async (t) => {
        const context = await openBrowser(t)
        const page = await boundPage(t, context, program)
        await program.restart()
        await context.clearCookies({ name: BOUND })
        t.equal(await program.look(page), 'proven 0')
        program.binding()
        await postgres.kill()
        await context.clearCookies({ name: BOUND })
        const response = await page.goto(program.url)
        t.equal(response?.status(), 503)
        t.strictSame(new Set(program.binding()), new Set(['refresh 503']))
        await delay(10_000)
        await postgres.start()
        t.equal(await program.look(page), 'proven 0')
        t.strictSame(program.binding().slice(-1), ['refresh 200'])
      },
    )

    t.test('a browser that does not know bound sessions loses nothing', async (t) => {
      const context = await openBrowser(t, false)
      const page = await context.newPage()
      program.binding()
      t.equal(await program.look(page), 'unbound 0')
      t.equal(await program.press(page, 'in'), 'unbound 0')
      t.equal(await program.press(page, 'add'), 'unbound 1')
      t.equal(await program.press(page, 'rotate'), 'unbound 1')
      t.equal(await program.press(page, 'out'), 'unbound 0')
      t.strictSame(program.binding(), [])
    })
  })

t.test('a browser that may not sign more proofs for now is refused, and stays signed in', async (t) => {
  const skips: (string | undefined)[] = []
  t.teardown(onSessionEvent('proofRefused', ({ skipped }) => skips.push(skipped)))
  let now = Date.now()
  const program = await started(t, adapters[0] as Adapter, memoryStore({ clock: () => now }))
  const context = await openBrowser(t)
  const page = await boundPage(t, context, program)
  let text = ''
  for (let count = 0; count < 20 && text !== 'unproven 0'; count += 1) {
    // Another minute has another challenge. Right after the registration no cookie is needed.
    now += 60_000
    await context.clearCookies({ name: BOUND })
    text = await program.look(page)
  }
  t.equal(text, 'unproven 0')
  const [refused] = await Promise.all([page.waitForResponse(/add/), page.click('#add')])
  t.equal(refused.status(), 403)
  t.equal(refused.headers()['retry-after'], '5')
  t.strictSame(skips, ['quota_exceeded'])
  t.equal(await program.look(page), 'unproven 0')
})

t.test(
  'copied cookies are of no use in another profile and in curl, after the time of the bound cookie',
  async (t) => {
    let now = Date.now()
    const program = await started(t, adapters[0] as Adapter, memoryStore({ clock: () => now }))
    const [context, other] = [await openBrowser(t), await openBrowser(t)]
    const page = await boundPage(t, context, program)
    const cookies = await context.cookies()
    await other.addCookies(cookies)
    const thief = await other.newPage()
    t.equal(await program.look(thief), 'proven 0', 'for the time of the bound cookie')
    now += 13 * 60_000
    t.equal(await program.look(thief), 'unproven 0')
    const [refused] = await Promise.all([thief.waitForResponse(/add/), thief.click('#add')])
    t.equal(refused.status(), 403)
    const curl = async (...args: readonly string[]): Promise<string> => {
      const cookie = cookies.map(({ name, value }) => `${name}=${value}`).join('; ')
      const out = ['-s', '-k', '-o', '/dev/null', '-w', '%{http_code}', '-H', `Cookie: ${cookie}`]
      return (await promisify(execFile)('curl', [...out, ...args])).stdout
    }
    t.equal(await curl('-X', 'POST', `${program.url}add`), '403')
    t.equal(await curl('-X', 'POST', `${program.url}out`), '403')
    t.equal(await curl(program.url), '200')
    t.equal(await program.look(page), 'unproven 0', 'this browser takes its cookie for valid')
    t.equal(await program.look(page), 'proven 0', 'the cookie was deleted, so the browser refreshes it')
    t.equal(await program.press(page, 'add'), 'proven 1')
  },
)
