// The base of all errors of keyrow. A bundler may load several copies of keyrow into one process: `instanceof` accepts
// the errors of all copies, by a brand and a tag.

const BRAND = Symbol.for('keyrow:error')

interface ErrorClass {
  readonly prototype: object
}

/** Makes `instanceof` accept the errors of all copies: by their family, and for `classes` by their tag too. */
export const brandErrors = (
  base: ErrorClass,
  family: string,
  classes: Readonly<Record<string, ErrorClass>>,
): void => {
  Object.defineProperty(base.prototype, BRAND, { value: family })
  for (const [tag, type] of [[undefined, base] as const, ...Object.entries(classes)])
    Object.defineProperty(type, Symbol.hasInstance, {
      value(this: ErrorClass, value: unknown): boolean {
        if (typeof value !== 'object' || value === null) return false
        if (Object.prototype.isPrototypeOf.call(this.prototype, value)) return true
        // A class that a program derives has instances of its own only.
        if (this !== type || Reflect.get(value, BRAND) !== family) return false
        return tag === undefined || Reflect.get(value, '_tag') === tag
      },
    })
}

const BODIES: Readonly<Record<string, string>> = {
  EncodeError: 'That cannot be stored.\n',
  SessionGone: 'Your session has ended; nothing was stored.\n',
  SaveConflict: 'Another request was first; nothing was stored.\n',
  DriverError: 'The service is not available at the moment.\n',
  SchemaMismatch: 'The service is not available at the moment.\n',
}
export const RETRY_LATER: Readonly<Record<string, string>> = { 'Retry-After': '5' }

/** An error with the HTTP response to a request that failed with it. Frameworks read these members, and may assign them. */
export abstract class ErrorWithStatus extends Error {
  abstract readonly _tag: string
  /** The HTTP status of the response to a request that failed with this error. */
  abstract readonly status: number
  /** The headers of that response, which Express, Fastify and Koa send. */
  declare readonly headers?: Readonly<Record<string, string>>
  override get name(): string {
    return this._tag
  }
  /** `status` by the name that Fastify reads. */
  get statusCode(): number {
    return this.status
  }
  set statusCode(status: number) {
    Object.assign(this, { status })
  }
  /** The whole response, for Hono. */
  getResponse(): Response {
    return new Response(responseBody(this), { status: this.status, headers: this.headers ?? {} })
  }
}

/** The text that the client gets. */
export const responseBody = ({ _tag, status, message }: ErrorWithStatus): string =>
  status === 403 ? `${message}\n` : (status !== 500 && BODIES[_tag]) || 'Something went wrong.\n'
