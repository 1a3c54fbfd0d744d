// Uses the recipe for OpenID Connect with a real provider.

import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import Provider from 'oidc-provider'
import t from 'tap'
import ts from 'typescript'
import { codeBlocks } from './support/code-blocks.js'
import { startProgram } from './support/example.js'

const block = (await codeBlocks()).find(({ code }) => code.includes("from 'openid-client'"))?.code ?? ''
const recipe = ts.transpileModule(block, {
  compilerOptions: { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext },
}).outputText

/** A browser that keeps the cookies of each origin. */
const browser = () => {
  const jars = new Map<string, Map<string, string>>()
  const jarOf = ({ origin }: URL): Map<string, string> => {
    const jar = jars.get(origin) ?? new Map<string, string>()
    jars.set(origin, jar)
    return jar
  }
  const visit = async (address: string, init: RequestInit = {}): Promise<Response> => {
    const url = new URL(address)
    const jar = jarOf(url)
    const cookie = [...jar].map(([name, value]) => `${name}=${value}`).join('; ')
    const response = await fetch(url, { ...init, redirect: 'manual', headers: { cookie } })
    for (const given of response.headers.getSetCookie()) {
      const [, name = '', value = ''] = /^([^=]+)=([^;]*)/.exec(given) ?? []
      if (value === '') jar.delete(name)
      else jar.set(name, value)
    }
    return response
  }
  /** Follows redirects, and returns the last response with its address and the addresses before it. */
  const follow = async (address: string, init: RequestInit = {}) => {
    const path = [address]
    let response = await visit(address, init)
    for (let to = response.headers.get('location'); to !== null; to = response.headers.get('location')) {
      path.push(new URL(to, path.at(-1)).href)
      response = await visit(path.at(-1) ?? '')
    }
    return { path, text: await response.text(), status: response.status }
  }
  return { follow, cookiesOf: (url: string) => jarOf(new URL(url)) }
}

t.test(
  'OpenID Connect: the user signs in once, with a new secret, and no answer is used twice',
  async (t) => {
    t.ok(recipe)
    console.warn = () => undefined
    const server = createServer().listen(0, '127.0.0.1')
    await new Promise((resolve) => server.once('listening', resolve))
    t.teardown(() => server.close())
    const issuer = `http://127.0.0.1:${String((server.address() as AddressInfo).port)}`
    const shop = await startProgram(t, 'recipe-oidc', recipe, '', { OIDC_ISSUER: issuer })
    const provider = new Provider(issuer, {
      clients: [{ client_id: 'shop', client_secret: 'secret', redirect_uris: [`${shop}/callback`] }],
      cookies: { keys: ['a key of the spec'] },
    })
    server.on('request', (req, res) => void provider.callback()(req, res))

    const { follow, cookiesOf } = browser()
    t.match(await follow(shop), { text: 'You are nobody.' })
    const login = await follow(`${shop}/sign-in`)
    t.match(login.path.at(-1), `${issuer}/interaction/`)
    const before = cookiesOf(shop).get('session')
    t.ok(before, 'the state is in a session')
    const post = (body: Record<string, string>, to: string) =>
      follow(to, { method: 'POST', body: new URLSearchParams(body) })
    const consent = await post({ prompt: 'login', login: 'ada', password: 'any' }, login.path.at(-1) ?? '')
    const done = await post({ prompt: 'consent' }, consent.path.at(-1) ?? '')
    t.equal(done.text, 'You are ada.\n')
    t.not(cookiesOf(shop).get('session'), before)
    const callback = done.path.find((address) => address.startsWith(`${shop}/callback`)) ?? ''
    t.ok(callback)
    t.equal((await follow(callback)).status, 500, 'the same answer again')
    t.equal((await browser().follow(callback)).status, 500, 'the answer in another browser')
    t.match(await follow(shop), { text: 'You are ada.' })
  },
)
