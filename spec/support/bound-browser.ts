// A browser that knows Device Bound Session Credentials, as Chromium 156 was seen to behave: it registers a key when a
// response offers that, and signs a challenge when the bound cookie is missing. Each step can be taken alone, too.

import { generateKeyPairSync, type KeyObject, sign } from 'node:crypto'

const encoded = (value: object): string => Buffer.from(JSON.stringify(value)).toString('base64url')

export interface Keys {
  readonly algorithm: 'ES256' | 'RS256'
  readonly privateKey: KeyObject
  readonly jwk: object
}

export const newKeys = (algorithm: Keys['algorithm'] = 'ES256'): Keys => {
  const { privateKey, publicKey } =
    algorithm === 'ES256'
      ? generateKeyPairSync('ec', { namedCurve: 'P-256' })
      : generateKeyPairSync('rsa', { modulusLength: 2048 })
  return { algorithm, privateKey, jwk: publicKey.export({ format: 'jwk' }) }
}

/** Makes a proof. `changes` replaces members of its header. */
export const proofOf = (
  { algorithm, privateKey, jwk }: Keys,
  challenge: string,
  changes: Readonly<Record<string, unknown>> = {},
): string => {
  const signed = `${encoded({ alg: algorithm, typ: 'dbsc+jwt', jwk, ...changes })}.${encoded({ jti: challenge })}`
  const key = { key: privateKey, dsaEncoding: 'ieee-p1363' } as const
  return `${signed}.${sign('sha256', Buffer.from(signed), key).toString('base64url')}`
}

interface Sent {
  readonly method?: string
  readonly headers?: Readonly<Record<string, string>>
}

interface Instructions {
  readonly session_identifier: string
  readonly refresh_url: string
  readonly credentials: readonly { readonly name: string; readonly attributes: string }[]
}

export class BoundBrowser {
  readonly jar = new Map<string, string>()
  readonly keys: Keys
  instructions: Instructions | undefined
  /** The challenge of the last response that had one. */
  challenge: string | undefined
  readonly #url: string

  constructor(url: string, keys = newKeys()) {
    this.#url = url
    this.keys = keys
  }

  /** Sends a request with the cookies, as a proxy with TLS would forward it. */
  async send(path: string, { method = 'GET', headers = {} }: Sent = {}): Promise<Response> {
    const cookie = [...this.jar].map(([name, value]) => `${name}=${value}`).join('; ')
    const response = await fetch(this.#url + path, {
      method,
      headers: { 'x-forwarded-proto': 'https', cookie, ...headers },
      redirect: 'manual',
    })
    for (const header of response.headers.getSetCookie()) {
      const [, name = '', value = ''] = /^([^=]+)=([^;]*)/.exec(header) ?? []
      if (/max-age=0/i.test(header)) this.jar.delete(name)
      else this.jar.set(name, value)
    }
    const asked = /^"([^"]+)";id="([^"]+)"$/.exec(response.headers.get('secure-session-challenge') ?? '')
    if (asked !== null) this.challenge = asked[1]
    return response
  }

  /** Registers the key, if the response offers that. */
  async register(offer: Response): Promise<Response | undefined> {
    const header = offer.headers.get('secure-session-registration')
    const [, path = '', challenge = ''] =
      /^\(ES256 RS256\);path="([^"]+)";challenge="([^"]+)"$/.exec(header ?? '') ?? []
    if (header === null) return undefined
    const response = await this.send(path, {
      method: 'POST',
      headers: { 'secure-session-response': proofOf(this.keys, challenge) },
    })
    if (response.status === 200) this.instructions = (await response.json()) as Instructions
    return response
  }

  /** Asks for a new bound cookie, with this proof. */
  refreshWith(proof: string | undefined): Promise<Response> {
    const { session_identifier: id = '', refresh_url: path = '/session-binding/refresh' } =
      this.instructions ?? {}
    return this.send(path, {
      method: 'POST',
      headers: {
        'sec-secure-session-id': id,
        ...(proof === undefined ? {} : { 'secure-session-response': proof }),
      },
    })
  }

  /** Refreshes the bound cookie. Without a challenge, or with one that is too old, it first gets one. */
  async refresh(): Promise<Response> {
    const answer = async (): Promise<Response> => {
      const { challenge } = this
      this.challenge = undefined
      return this.refreshWith(challenge === undefined ? undefined : proofOf(this.keys, challenge))
    }
    const first = await answer()
    return this.challenge === undefined ? first : answer()
  }

  /** The bound cookie has ended. */
  loseBoundCookie(): void {
    this.jar.delete('__Host-session-bound')
  }

  /** Returns a browser with a copy of the cookies, and with keys of its own. */
  thief(): BoundBrowser {
    const other = new BoundBrowser(this.#url)
    for (const [name, value] of this.jar) other.jar.set(name, value)
    other.instructions = this.instructions
    return other
  }
}
