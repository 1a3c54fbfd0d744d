// Converts the handler of a flow to a handler of each framework. The framework's session adapter must run before. The
// frameworks' objects are known by the few members that are used, so no framework is imported.

import type { IncomingMessage, ServerResponse } from 'node:http'
import { EncodeError, orThrow } from '../core/errors.js'
import { E, pipe, TE } from '../core/prelude.cjs'
import { sendReply } from '../http/request-events.js'
import { FlowFull } from './errors.js'
import type { FlowHandler, FlowRequest } from './handler.js'
import type { Reply } from './steps.js'

/** The maximum length of a form in bytes. */
const MAX_BODY_BYTES = 256 * 1024

const tooLong = new FlowFull('of this form', 'value')

/** Returns the fields of a form. A name with several values becomes an array. */
const fieldsOf = (form: URLSearchParams): Record<string, string | readonly string[]> => {
  const fields = new Map<string, string | readonly string[]>()
  for (const [name, value] of form) {
    const before = fields.get(name)
    fields.set(
      name,
      before === undefined ? value : [...(typeof before === 'string' ? [before] : before), value],
    )
  }
  return Object.fromEntries(fields)
}

/** Reads a form that the framework has not parsed. The form is URL-encoded or JSON. */
const readForm = async (req: IncomingMessage): Promise<E.Either<FlowFull | EncodeError, unknown>> => {
  const chunks: Uint8Array[] = []
  let bytes = 0
  // The connection must stay open, so that a client that sends too much gets a response.
  for await (const chunk of req.iterator({ destroyOnReturn: false }) as AsyncIterable<Uint8Array>) {
    bytes += chunk.length
    if (bytes > MAX_BODY_BYTES) return E.left(tooLong)
    chunks.push(chunk)
  }
  return parsedForm(req.headers['content-type'], Buffer.concat(chunks).toString())
}

const parsedForm = (type: string | null | undefined, text: string): E.Either<EncodeError, unknown> => {
  if (!type || type.startsWith('application/x-www-form-urlencoded'))
    return E.right(fieldsOf(new URLSearchParams(text)))
  if (!type.startsWith('application/json')) return unreadable(`a form of the type ${type} cannot be read`)
  try {
    return E.right(JSON.parse(text))
  } catch {
    return unreadable('the form is not JSON')
  }
}

const unreadable = (reason: string): E.Either<EncodeError, never> =>
  E.left(new EncodeError('form', [], reason))

interface Parts {
  readonly req: IncomingMessage
  readonly url: string | undefined
  /** The form, if the framework has parsed it. */
  readonly body: unknown
}

const handled =
  <L>(handler: FlowHandler<L>) =>
  ({ req, url = '/', body }: Parts): TE.TaskEither<unknown, Reply> =>
  async () => {
    const { method = 'GET', headers } = req
    const isParsed = method === 'GET' || method === 'HEAD' || body !== undefined
    const form = isParsed ? E.right(body) : await readForm(req)
    return E.isLeft(form) ? form : handler({ method, url, headers, body: form.right })()
  }

/** Runs the task. The promise rejects with the error of the flow, so that the framework handles it. */
const replied = <A>(task: TE.TaskEither<unknown, A>): Promise<A> => orThrow(task as TE.TaskEither<Error, A>)

/** Converts a flow's handler to a handler of `sessionListener` in `keyrow/node`. */
export const nodeFlow =
  <L>(handler: FlowHandler<L>) =>
  (req: IncomingMessage, res: ServerResponse): TE.TaskEither<unknown, void> =>
    pipe(
      handled(handler)({ req, url: req.url, body: undefined }),
      TE.map((reply) => sendReply(res, reply)),
    )

/** The members of Express's request that are used. `body` is the form, if a middleware has parsed it. */
type ExpressRequest = IncomingMessage & { readonly originalUrl?: string; readonly body?: unknown }

/** Converts a flow's handler to a handler of Express, for example `app.all('/checkout', expressFlow(handler))`. */
export const expressFlow =
  <L>(handler: FlowHandler<L>) =>
  (req: ExpressRequest, res: ServerResponse, next: (error: unknown) => void): void => {
    replied(handled(handler)({ req, url: req.originalUrl ?? req.url, body: req.body }))
      .then((reply) => sendReply(res, reply))
      .catch(next)
  }

interface FastifyRequest {
  readonly raw: IncomingMessage
  readonly url: string
  readonly body: unknown
}

interface FastifyReply {
  readonly code: (status: number) => FastifyReply
  readonly headers: (headers: Record<string, string>) => FastifyReply
  readonly send: (body: string) => FastifyReply
}

/** Converts a flow's handler to a handler of Fastify. A plugin such as `@fastify/formbody` must parse the form. */
export const fastifyFlow =
  <L>(handler: FlowHandler<L>) =>
  async (request: FastifyRequest, reply: FastifyReply): Promise<unknown> => {
    const { status, headers, body } = await replied(
      handled(handler)({ req: request.raw, url: request.url, body: request.body ?? undefined }),
    )
    return reply.code(status).headers(headers).send(body)
  }

interface KoaContext {
  readonly req: IncomingMessage
  readonly request: { readonly originalUrl: string; readonly body?: unknown }
  readonly set: (headers: Record<string, string>) => void
  status: number
  body: unknown
}

/** Converts a flow's handler to a middleware of Koa. */
export const koaFlow =
  <L>(handler: FlowHandler<L>) =>
  async (ctx: KoaContext): Promise<void> => {
    const { req, request } = ctx
    const { status, headers, body } = await replied(
      handled(handler)({ req, url: request.originalUrl, body: request.body }),
    )
    ctx.status = status
    ctx.set(headers)
    ctx.body = body
  }

/** Reads a body. Returns `undefined` if the body is too long. The rest is then not read. */
const textOf = async (body: Request['body']): Promise<string | undefined> => {
  const chunks: Uint8Array[] = []
  let bytes = 0
  for await (const chunk of (body ?? []) as AsyncIterable<Uint8Array>) {
    bytes += chunk.length
    if (bytes > MAX_BODY_BYTES) return undefined
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString()
}

const webRequestOf = async (request: Request): Promise<E.Either<unknown, FlowRequest>> => {
  const { method, url, headers } = request
  const { pathname, search } = new URL(url)
  const base = { method, url: pathname + search, headers }
  if (method === 'GET' || method === 'HEAD') return E.right({ ...base, body: undefined })
  const text = await textOf(request.body)
  if (text === undefined) return E.left(tooLong)
  const form = parsedForm(headers.get('content-type'), text)
  return E.map((body: unknown) => ({ ...base, body }))(form)
}

/** Converts a flow's handler to a handler of `fetchHandler` in `keyrow/fetch`. */
export const fetchFlow =
  <L>(handler: FlowHandler<L>) =>
  (request: Request): TE.TaskEither<unknown, Response> =>
    pipe(
      () => webRequestOf(request),
      TE.chainW(handler),
      TE.map(({ status, headers, body }) => new Response(status === 303 ? null : body, { status, headers })),
    )

/** Converts a flow's handler to a handler of Hono. */
export const honoFlow = <L>(handler: FlowHandler<L>) => {
  const respond = fetchFlow(handler)
  return (c: { readonly req: { readonly raw: Request } }): Promise<Response> => replied(respond(c.req.raw))
}
