// The third experiment of the lab: a thief copies the cookies of a customer into another browser. It runs once with a session
// that is bound to the customer's browser, and once with an ordinary session. Both browsers are made here, since most real
// ones do not know bound sessions yet. Their requests run through keyrow's adapter, with the database of the shop.

import { generateKeyPairSync, type KeyObject, sign } from 'node:crypto'
import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import * as t from 'io-ts'
import {
  currentSession,
  type SessionStore,
  sessionKey,
  sessionRef,
  sessionUpdate,
  signIn,
  signOut,
  updateCurrentSession,
} from 'keyrow'
import { fetchHandler } from 'keyrow/fetch'

const TheftStep = t.strict({
  who: t.union([t.literal('customer'), t.literal('thief')]),
  does: t.string,
  status: t.number,
})
export type TheftStep = t.TypeOf<typeof TheftStep>

const Theft = t.strict({
  steps: t.readonlyArray(TheftStep),
  /** What the thief has put into the cart after the time of the bound cookie. */
  stolen: t.readonlyArray(t.string),
})
export type Theft = t.TypeOf<typeof Theft>

const TheftRun = t.strict({ bound: Theft, ordinary: Theft })
export type TheftRun = t.TypeOf<typeof TheftRun>

/** The result of the visitor's last run, in the visitor's session. */
export const theftKey = sessionKey('lab/theft', TheftRun)

const ORIGIN = 'https://shop.example'

type Handle = (request: Request) => Promise<Response>

/** A browser with cookies. With a key it binds sessions. */
class Browser {
  readonly #handle: Handle
  readonly #cookies: Map<string, string>
  readonly #key: KeyObject | undefined
  #id = ''

  constructor(handle: Handle, cookies: ReadonlyMap<string, string>, key?: KeyObject) {
    this.#handle = handle
    this.#cookies = new Map(cookies)
    this.#key = key
  }

  copyTo(handle: Handle): Browser {
    const copy = new Browser(handle, this.#cookies)
    copy.#id = this.#id
    return copy
  }

  async post(path: string, headers: Readonly<Record<string, string>> = {}): Promise<Response> {
    const cookie = [...this.#cookies].map(([name, value]) => `${name}=${value}`).join('; ')
    const response = await this.#handle(
      new Request(ORIGIN + path, { method: 'POST', headers: { cookie, ...headers } }),
    )
    for (const header of response.headers.getSetCookie()) {
      const [, name = '', value = ''] = /^([^=]+)=([^;]*)/.exec(header) ?? []
      if (value === '') this.#cookies.delete(name)
      else this.#cookies.set(name, value)
    }
    return response
  }

  /** Registers the key, if the response offers that. */
  async register(offer: Response): Promise<Response | undefined> {
    const header = offer.headers.get('secure-session-registration') ?? ''
    const [, path, challenge = ''] = /path="([^"]*)";challenge="([^"]*)"/.exec(header) ?? []
    if (path === undefined || this.#key === undefined) return undefined
    const response = await this.post(path, { 'secure-session-response': proof(this.#key, challenge) })
    const instructions = (await response.json()) as { readonly session_identifier: string }
    this.#id = instructions.session_identifier
    return response
  }

  /** Asks for a new bound cookie, and signs the challenge if this browser has a key. */
  async refresh(): Promise<Response> {
    const id = { 'sec-secure-session-id': this.#id }
    const asked = await this.post('/session-binding/refresh', id)
    const [, challenge] = /^"([^"]*)"/.exec(asked.headers.get('secure-session-challenge') ?? '') ?? []
    if (challenge === undefined) return asked
    const key = this.#key ?? newKey()
    return this.post('/session-binding/refresh', { ...id, 'secure-session-response': proof(key, challenge) })
  }
}

const newKey = (): KeyObject => generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey

const encoded = (value: object): string => Buffer.from(JSON.stringify(value)).toString('base64url')

const proof = (key: KeyObject, challenge: string): string => {
  const jwk = key.export({ format: 'jwk' })
  const header = { alg: 'ES256', typ: 'dbsc+jwt', jwk: { kty: jwk.kty, crv: jwk.crv, x: jwk.x, y: jwk.y } }
  const signed = `${encoded(header)}.${encoded({ jti: challenge })}`
  const signature = sign('sha256', Buffer.from(signed), { key, dsaEncoding: 'ieee-p1363' })
  return `${signed}.${signature.toString('base64url')}`
}

const cart = sessionKey('cart', t.readonlyArray(t.string))

/** The program of the experiment. Each path does one thing, and the response is the cart. */
const program =
  (name: string) =>
  (request: Request): TE.TaskEither<unknown, Response> => {
    const { pathname, searchParams } = new URL(request.url)
    const item = searchParams.get('item') ?? ''
    const act: TE.TaskEither<unknown, unknown> =
      pathname === '/in'
        ? signIn(name)
        : pathname === '/add'
          ? updateCurrentSession(sessionUpdate(cart, (items) => [...items, item], []))
          : TE.right(undefined)
    return pipe(
      act,
      TE.chainW(() => currentSession),
      TE.map((session) => Response.json(sessionRef(cart, [])(session))),
      TE.chainFirstW(() => (pathname === '/out' ? signOut : TE.right(undefined))),
    )
  }

const ELEVEN_MINUTES = 11 * 60_000

const theft = async (store: SessionStore, name: string, isBound: boolean): Promise<Theft> => {
  let aheadMs = 0
  const { clock = Date.now } = store
  const handle = fetchHandler({
    // The clock of the experiment can be put forward.
    store: { ...store, clock: () => clock() + aheadMs },
    onError: (error) => ({ status: (error as { readonly status?: number }).status ?? 500, body: '' }),
    ...(isBound ? { bound: {} } : {}),
  })(program(name))
  const steps: TheftStep[] = []
  const step = (who: TheftStep['who'], does: string, { status }: Response): void => {
    steps.push({ who, does, status })
  }
  const customer = new Browser(handle, new Map(), newKey())
  const offer = await customer.post('/in')
  step('customer', 'signs in', offer)
  const registered = await customer.register(offer)
  if (registered !== undefined) step('customer', 'registers a public key', registered)
  const thief = customer.copyTo(handle)
  step('thief', 'copies the cookies, and adds a boat', await thief.post('/add?item=boat'))
  aheadMs = ELEVEN_MINUTES
  step('thief', 'adds an oar, eleven minutes later', await thief.post('/add?item=oar'))
  if (isBound) {
    step('thief', 'asks for a new bound cookie, with a key of the thief', await thief.refresh())
    step('customer', 'proves to have the key', await customer.refresh())
  }
  step('customer', 'adds tea', await customer.post('/add?item=tea'))
  const found = (await (await customer.post('/out')).json()) as readonly string[]
  return { steps, stolen: found.filter((item) => item === 'oar').map((item) => `${item} is in the cart`) }
}

/** Runs the experiment with a bound session, and with an ordinary one. */
export const runTheft =
  (store: SessionStore, name: string): TE.TaskEither<never, TheftRun> =>
  async () => {
    const [bound, ordinary] = await Promise.all([theft(store, name, true), theft(store, name, false)])
    return E.right({ bound, ordinary })
  }
