// Tests the compiled example `shop` in its own process, with visitors that have only a cookie. The length of a wait
// decides no result.

import { type ChildProcess, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { request } from 'node:http'
import { connect } from 'node:net'
import { createInterface } from 'node:readline'
import { text } from 'node:stream/consumers'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { newDatabase } from './support/postgres-server.js'

const program = fileURLToPath(new URL('../build/examples/shop/main.js', import.meta.url))
if (!existsSync(program)) {
  t.fail(`${program} is missing: run "npm run build && npx tsc -p examples" first`)
  process.exit(1)
}

type Env = Readonly<Record<string, string>>

interface Ended {
  readonly code: number | null
  readonly out: readonly string[]
  readonly err: readonly string[]
}

interface Shop {
  readonly url: string
  readonly ended: Promise<Ended>
  readonly stop: (signal?: NodeJS.Signals) => Promise<Ended>
}

const children = new Set<ChildProcess>()
const killAll = () => {
  for (const child of children) child.kill('SIGKILL')
}
t.teardown(killAll)
process.on('exit', killAll)

// The program's input is a pipe from this process. When this process ends in any way, the program ends too.
const untilOrphaned = 'data:text/javascript,process.stdin.resume().once("end",()=>process.exit(9)).unref()'

const bounded = async <A>(what: string, task: Promise<A>, milliseconds = 60_000): Promise<A> => {
  const over = new AbortController()
  const late = delay(milliseconds, undefined, { signal: over.signal }).then(() => {
    throw new Error(`${what}: not within ${milliseconds} ms`)
  })
  try {
    return await Promise.race([task, late])
  } finally {
    over.abort()
    late.catch(() => undefined)
  }
}

/** Runs the program. `line` gets each line that the program prints. */
const launch = (cwd: string, env: Env, line: (text: string) => void = () => undefined) => {
  const child = spawn(process.execPath, ['--import', untilOrphaned, program], {
    cwd,
    env: { PATH: process.env['PATH'] ?? '', PORT: '0', ...env },
    stdio: 'pipe',
  })
  children.add(child)
  const out: string[] = []
  createInterface({ input: child.stdout }).on('line', (printed) => {
    out.push(printed)
    line(printed)
  })
  const closed = Promise.all([text(child.stderr), once(child, 'close')])
  const ended = closed.then(([err]): Ended => {
    children.delete(child)
    return { code: child.exitCode, out, err: err.split('\n').filter((row) => row !== '') }
  })
  return { child, ended }
}

const startShop = async (cwd: string, env: Env = {}): Promise<Shop> => {
  let serves: (url: string) => void
  const address = new Promise<string>((resolve) => (serves = resolve))
  const { child, ended } = launch(cwd, env, (line) => {
    const url = /^keyrow shop: (http:\/\/127[.]0[.]0[.]1:\d+)\/$/.exec(line)?.[1]
    if (url !== undefined) serves(url)
  })
  const early = ended.then(({ code, err }) => {
    throw new Error(`the shop ended with ${String(code)}: ${err.join('\n')}`)
  })
  const url = await bounded('the address', Promise.race([address, early]))
  early.catch(() => undefined)
  const stop = (signal: NodeJS.Signals = 'SIGTERM') => {
    child.kill(signal)
    return bounded('the end', ended)
  }
  return { url, ended, stop }
}

interface Asked {
  readonly method?: string
  readonly body?: URLSearchParams
  readonly headers?: Env
}

interface Page {
  readonly status: number
  readonly location: string | null
  readonly cookies: readonly string[]
  readonly body: string
}

/** A simple browser that keeps its cookies. */
class Visitor {
  readonly jar: Map<string, string>

  constructor(
    readonly url: string,
    jar: ReadonlyMap<string, string> = new Map(),
  ) {
    this.jar = new Map(jar)
  }

  get cookie(): string {
    return [...this.jar].map(([name, value]) => `${name}=${value}`).join('; ')
  }

  /** Returns a visitor with the same cookies at another address. */
  at(url: string): Visitor {
    return new Visitor(url, this.jar)
  }

  async ask(path: string, init: Asked = {}): Promise<Page> {
    const headers = {
      origin: this.url,
      ...(this.jar.size > 0 ? { cookie: this.cookie } : {}),
      ...init.headers,
    }
    const response = await fetch(this.url + path, { ...init, redirect: 'manual', headers })
    const cookies = response.headers.getSetCookie()
    for (const cookie of cookies) this.keep(cookie)
    const { status } = response
    return { status, location: response.headers.get('location'), cookies, body: await response.text() }
  }

  post(path: string, form: Env, headers: Env = {}): Promise<Page> {
    return this.ask(path, { method: 'POST', body: new URLSearchParams(form), headers })
  }

  /** Starts a post without its form. The returned function sends the form. */
  async begin(path: string) {
    const headers = { origin: this.url, cookie: this.cookie, expect: '100-continue' }
    const open = request(this.url + path, { method: 'POST', headers })
    const answered = once(open, 'response') as Promise<[{ statusCode: number; resume(): void }]>
    answered.catch(() => undefined)
    open.flushHeaders()
    await bounded('the go-ahead', once(open, 'continue'))
    return async (form: Env): Promise<number> => {
      open.end(new URLSearchParams(form).toString())
      const [response] = await bounded('the answer', answered)
      response.resume()
      return response.statusCode
    }
  }

  private keep(cookie: string): void {
    const [pair = '', ...attributes] = cookie.split('; ')
    const [name = '', value = ''] = pair.split('=')
    if (attributes.includes('Max-Age=0')) this.jar.delete(name)
    else this.jar.set(name, value)
  }
}

/** Returns the cells of a page's tables, row by row. */
const cells = ({ body }: Page): readonly (readonly string[])[] =>
  [...body.matchAll(/<tr>(.*?)<\/tr>/gs)]
    .map(([, row = '']) => [...row.matchAll(/<td>(.*?)<\/td>/gs)].map(([, cell = '']) => cell))
    .filter((row) => row.length > 0)

const total = ({ body }: Page): string | undefined => /Total: .*?(€[\d.,]+)/s.exec(body)?.[1]

const isEmpty = ({ body }: Page): boolean => body.includes('Your cart is empty') && body.includes('/sign-in')

const uuid = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/
const time = /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d/

const looksAround = async (t: Test, visitor: Visitor) => {
  for (const path of ['/', '/cart', '/sign-in', '/session']) {
    const page = await visitor.ask(path)
    t.equal(page.status, 200)
    t.same(page.cookies, [], `${path} gives no cookie`)
  }
  t.match((await visitor.ask('/session')).body, 'no row for you')
}

const fillsCart = async (t: Test, visitor: Visitor) => {
  const added = await visitor.post('/cart/add', { product: 'key' })
  t.match(added, { status: 303, location: '/cart' })
  t.match(added.cookies, [/^session=.+; Path=\/; HttpOnly; SameSite=Lax$/], 'and one cookie')
  await visitor.post('/cart/add', { product: 'key' })
  await visitor.post('/cart/add', { product: 'boat' })
  t.equal(total(await visitor.ask('/cart')), '€498.00')
  await visitor.post('/cart/change', { product: 'key', quantity: '10' })
  await visitor.post('/cart/remove', { product: 'boat' })
  t.equal(total(await visitor.ask('/cart')), '€45.00')
}

// The first request loads the session before the second request begins, and saves it after the second request.
const overlaps = async (t: Test, visitor: Visitor) => {
  const finish = await visitor.begin('/cart/add')
  t.equal((await visitor.post('/cart/add', { product: 'oar' })).status, 303)
  t.equal(await finish({ product: 'chest' }), 303)
  t.equal(total(await visitor.ask('/cart')), '€213.00', 'both kept')
  const again = await visitor.begin('/cart/add')
  t.equal((await visitor.post('/cart/add', { product: 'key' })).status, 303)
  t.equal(await again({ product: 'key' }), 303)
  t.equal(total(await visitor.ask('/cart')), '€222.00', 'and of the same product both count')
}

const signsIn = async (t: Test, visitor: Visitor) => {
  const before = visitor.at(visitor.url)
  t.equal((await visitor.post('/sign-in', { name: 'Ada', password: 'guess' })).status, 403)
  const page = await visitor.post('/sign-in', { name: ' <Ada> & "co" ', password: 'sesame' })
  t.match(page, { status: 303, location: '/' })
  t.not(visitor.cookie, before.cookie)
  t.ok(isEmpty(await before.ask('/cart')), 'the old cookie is dead')
  const cart = await visitor.ask('/cart')
  t.equal(total(cart), '€222.00', 'the cart is still there')
  t.match(cart.body, '&#60;Ada&#62; &#38; &#34;co&#34;', 'and the name, escaped')
}

const showsRows = async (t: Test, visitor: Visitor) => {
  const page = await visitor.ask('/session')
  t.match(cells(page), [
    [uuid],
    ['10'],
    [time],
    [time],
    [time],
    ['cart/boat', '(deleted)', '5'],
    ['cart/chest', '1', '7'],
    ['cart/key', '12', '9'],
    ['cart/oar', '1', '6'],
    ['keyrow:principal', /Ada/, '10'],
  ])
  const secret = visitor.cookie.split('.')[1] ?? ''
  const hash = createHash('sha256').update(secret).digest()
  t.ok(secret.length > 40 && !page.body.includes(secret), 'without the secret')
  for (const form of [hash.toString('hex'), hash.toString('base64')]) t.notOk(page.body.includes(form))
}

const signsOut = async (t: Test, visitor: Visitor) => {
  const before = visitor.at(visitor.url)
  t.match(await visitor.post('/sign-out', {}), { status: 303, location: '/' })
  t.equal(visitor.cookie, '', 'the cookie is taken away')
  t.ok(isEmpty(await before.ask('/cart')), 'and opens nothing')
  t.match((await before.ask('/session')).body, 'no row for you')
}

const signsOutEverywhere = async (t: Test, url: string) => {
  const signedIn = async (name: string) => {
    const visitor = new Visitor(url)
    await visitor.post('/cart/add', { product: 'key' })
    await visitor.post('/sign-in', { name, password: 'sesame' })
    return visitor
  }
  const [here, there, other] = [await signedIn('Ada'), await signedIn('Ada'), await signedIn('Bob')]
  t.match((await there.ask('/cart')).body, /Ada<.*formaction="\/sign-out\/everywhere"/s)
  t.match(await here.post('/sign-out/everywhere', {}), { status: 303, location: '/' })
  t.equal(here.cookie, '', 'the cookie is taken away')
  t.ok(isEmpty(await there.ask('/cart')), 'the other browser is signed out too')
  t.match((await there.ask('/session')).body, 'no row for you')
  t.match(await other.ask('/cart'), { body: /Bob</ }, 'somebody else is not')
  t.match(await there.post('/sign-out/everywhere', {}), { status: 303, cookies: [] }, 'nobody to sign out')
}

// The visitor goes back, answers again, signs in in the middle, and pays in five tabs at once.
const checksOut = async (t: Test, url: string) => {
  const visitor = new Visitor(url)
  const own = { 'sec-fetch-site': 'same-origin' }
  const form = ({ body }: Page) => /action="(\/checkout[^"]*)"/.exec(body)?.[1] ?? ''
  const next = async (page: Promise<Page>) => visitor.ask((await page).location ?? '')
  t.equal((await next(visitor.ask('/checkout'))).status, 409, 'the cart is empty')
  await visitor.post('/cart/add', { product: 'key' })
  const first = form(await next(visitor.ask('/checkout')))
  const wrong = await visitor.post(first, { name: 'Ada <co>', street: '', city: 'Oslo' }, own)
  t.match(wrong, { status: 422, body: /value="Ada &#60;co&#62;"/ })
  const address = { name: 'Ada', street: 'Elm', city: 'Oslo' }
  const oslo = await visitor.post(first, address, own)
  const bergen = await visitor.post(first, { ...address, city: 'Bergen' }, own)
  t.match(await visitor.ask('/flows'), {
    body: /2 answers.*address, customer → sign in.*address, customer → sign in/s,
  })
  const signIn = (await visitor.ask(oslo.location ?? '')).location ?? ''
  t.match(signIn, /^\/sign-in\?k=/)
  const k = signIn.slice('/sign-in?k='.length)
  t.match((await visitor.ask(signIn)).body, `name="k" value="${k}"`)
  const confirm = await next(visitor.post('/sign-in', { name: 'Grace', password: 'sesame', k }))
  t.match(confirm.body, /Elm, Oslo. Signed in as Grace/)
  const paid = await Promise.all(Array.from({ length: 5 }, () => visitor.post(form(confirm), {})))
  t.equal(new Set(paid.map(({ location }) => location)).size, 1)
  const order = await visitor.ask(paid[0]?.location ?? '')
  t.match(order.body, 'You were charged once.')
  t.ok(
    isEmpty(await visitor.ask('/cart')) || (await visitor.ask('/cart')).body.includes('Your cart is empty'),
  )
  for (const path of [first, bergen.location ?? '', form(confirm)])
    t.equal((await visitor.ask(path)).location, paid[0]?.location, 'an old page leads to the order')
  t.match((await new Visitor(url).ask(paid[0]?.location ?? '')).body, 'There is no such order.')
}

const isRefused = async (t: Test, visitor: Visitor) => {
  const status = async (page: Promise<Page>) => (await page).status
  t.equal(await status(visitor.ask('/nowhere')), 404)
  t.equal(await status(visitor.ask('/cart', { method: 'DELETE' })), 405)
  t.equal(await status(visitor.ask('/cart/add')), 405)
  t.equal(await status(visitor.post('/cart/add', { product: 'x'.repeat(17_000) })), 413)
  t.equal(await status(visitor.post('/cart/add', { product: 'moon' })), 422)
  for (const quantity of ['0', '100', '1.5', '', 'many'])
    t.equal(await status(visitor.post('/cart/change', { product: 'key', quantity })), 422)
  t.equal(await status(visitor.post('/sign-in', { name: '\0', password: 'sesame' })), 422)
  const foreign = { 'sec-fetch-site': 'cross-site' }
  t.equal(await status(visitor.post('/cart/add', { product: 'key' }, foreign)), 403)
  t.equal(visitor.cookie, '', 'and stores nothing')
}

/** Runs a visit, during which the shop is stopped and started again. */
const visit = async (t: Test, cwd: string, env: Env = {}) => {
  const first = await startShop(cwd, env)
  const early = new Visitor(first.url)
  await t.test('looks around', (t) => looksAround(t, early))
  await t.test('is refused', (t) => isRefused(t, early))
  await t.test('fills a cart', (t) => fillsCart(t, early))
  const stopped = await first.stop()
  t.equal(stopped.code, 0)
  t.match(stopped.err, [/^keyrow: POST \/cart\/add failed \(403\): RequestRejected/])
  t.equal(stopped.err.length, 1)
  t.same(bills(stopped, 'GET / 200'), ['no statement'])

  const second = await startShop(cwd, env)
  const late = early.at(second.url)
  t.equal(total(await late.ask('/cart')), '€45.00', 'finds the cart after a restart')
  await t.test('adds in two tabs at once', (t) => overlaps(t, late))
  await t.test('signs in', (t) => signsIn(t, late))
  await t.test('looks at its rows', (t) => showsRows(t, late))
  await Promise.all(Array.from({ length: 10 }, () => late.ask('/')))
  await t.test('signs out', (t) => signsOut(t, late))
  await t.test('checks out', (t) => checksOut(t, second.url))
  await t.test('signs out everywhere', (t) => signsOutEverywhere(t, second.url))
  return second
}

const bills = ({ out }: Ended, request: string): readonly (string | undefined)[] =>
  out.filter((line) => line.startsWith(`${request} `)).map((line) => /\((.*)\)$/.exec(line)?.[1])

/** Checks the statements of each request of `visit` after the restart. */
const checkBills = (t: Test, ended: Ended) => {
  t.equal(ended.code, 0)
  t.same(ended.err, [])
  const change = 'session.load: 1 row, session.save: 1 row'
  // An update after another request's save reads the session before it writes.
  const replayed =
    'session.load: 1 row, session.save: 0 rows, session.lock: 1 row, session.changes: 1 row, session.save: 1 row'
  t.same(bills(ended, 'POST /cart/add 303').slice(0, 4), [change, replayed, change, replayed])
  t.same(bills(ended, 'POST /sign-out 303'), [
    'session.load: 1 row, session.fence: 0 rows, session.destroy: 0 rows',
  ])
  const all = 'session.load: 1 row, principals.endAll: 2 rows'
  t.same(bills(ended, 'POST /sign-out/everywhere 303'), [all, 'session.load: 0 rows'])
  const looks = bills(ended, 'GET / 200').slice(0, 10)
  t.same(looks, Array(10).fill('session.load: 1 row'), 'each request pays its own')
}

t.test('in a directory', async (t) => {
  const cwd = t.testdir({})
  const shop = await visit(t, cwd)
  await t.test('another shop in the same directory', async (t) => {
    const other = await bounded('the end', launch(cwd, {}).ended)
    t.match(other, { code: 1, out: [], err: [/^keyrow shop: .* in use by another process/] })
    t.equal(other.err.length, 1)
    t.equal((await new Visitor(shop.url).ask('/')).status, 200, 'the first goes on')
  })
  checkBills(t, await shop.stop('SIGINT'))
})

t.test('on PostgreSQL', async (t) => {
  const server = await newDatabase()
  t.teardown(() => server.stop())
  const cwd = t.testdir({})
  const env = { DATABASE_URL: server.url }
  const shop = await visit(t, cwd, env)
  t.notOk(existsSync(`${cwd}/.data`))

  await t.test('a port that is taken', async (t) => {
    const other = await bounded('the end', launch(cwd, { ...env, PORT: new URL(shop.url).port }).ended)
    t.match(other, { code: 1, out: [], err: [/^keyrow shop: .* address already in use/] })
    t.equal(other.err.length, 1)
  })
  await t.test('a stop ends what runs, within bounds', async (t) => {
    const visitor = new Visitor(shop.url)
    const finish = await visitor.begin('/cart/add')
    await visitor.begin('/cart/add')
    const stopped = shop.stop()
    await bounded('the last connection', refused(new URL(shop.url)))
    t.equal(await finish({ product: 'key' }), 303, 'the request that was running is answered')
    checkBills(t, await stopped)
  })
})

/** Waits until the server accepts no connections any more. */
const refused = async ({ hostname, port }: URL): Promise<void> => {
  for (;;) {
    const socket = connect(Number(port), hostname)
    try {
      await once(socket, 'connect')
    } catch {
      return
    } finally {
      socket.destroy()
    }
  }
}

t.test('without a database', async (t) => {
  const env = { DATABASE_URL: 'postgres://shop:hidden@127.0.0.1:1/shop' }
  const { code, out, err } = await bounded('the end', launch(t.testdir({}), env).ended)
  t.match({ code, out, err }, { code: 1, out: [], err: [/^keyrow shop: .*ECONNREFUSED/] })
  t.equal(err.length, 1)
  t.notMatch(err[0], 'hidden')
})
