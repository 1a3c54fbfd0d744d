// Forms become typed values, answers are values until they are sent, and a failed request gets a page with the
// reason.

import type { IncomingMessage, ServerResponse } from 'node:http'
import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import type * as O from 'fp-ts/lib/Option.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import { defaultErrorResponse, type OnError } from 'keyrow/node'
import { contentSecurityPolicy } from './html.js'
import { failurePage } from './pages.js'

const MAX_BODY_BYTES = 16 * 1024

type Headers = Readonly<Record<string, string>>

/** A request with a fault of its own. */
export class Refused {
  readonly _tag = 'Refused'

  constructor(
    readonly status: number,
    readonly message: string,
    readonly headers: Headers = {},
  ) {}
}

export interface Answer {
  readonly status: number
  readonly headers: Headers
  readonly body: string
}

/** The path alone: a query may contain data that do not belong in a log. */
export const pathOf = (req: IncomingMessage): string => (req.url ?? '/').replace(/\?.*$/s, '')

/** Reads the form of a request, and parses it. */
export const readForm =
  <A>(parse: (fields: URLSearchParams) => O.Option<A>) =>
  (req: IncomingMessage): TE.TaskEither<Refused, A> =>
    pipe(
      () => readBody(req),
      TE.map((body) => parse(new URLSearchParams(body))),
      TE.chain(TE.fromOption(() => new Refused(422, 'The form was not filled in the way it asks for.'))),
    )

const readBody = async (req: IncomingMessage): Promise<E.Either<Refused, string>> => {
  const chunks: Uint8Array[] = []
  let bytes = 0
  try {
    // The connection stays open, so that a client that sends too much gets an answer.
    for await (const chunk of req.iterator({ destroyOnReturn: false }) as AsyncIterable<Uint8Array>) {
      bytes += chunk.length
      if (bytes > MAX_BODY_BYTES) return E.left(new Refused(413, 'That is more than a form can hold.'))
      chunks.push(chunk)
    }
    return E.right(Buffer.concat(chunks).toString())
  } catch {
    return E.left(new Refused(400, 'The request broke off.'))
  }
}

const pageHeaders: Headers = {
  'Content-Type': 'text/html; charset=utf-8',
  'Content-Security-Policy': contentSecurityPolicy,
  'Cache-Control': 'no-store',
  'X-Content-Type-Options': 'nosniff',
}

export const page = (body: string): Answer => ({ status: 200, headers: pageHeaders, body })

/** After a POST: the browser loads the page by GET, so that a reload sends no form. */
export const seeOther = (location: string): Answer => ({
  status: 303,
  headers: { Location: location },
  body: '',
})

export const send =
  (res: ServerResponse) =>
  ({ status, headers, body }: Answer): void => {
    res.writeHead(status, { ...headers, 'Content-Length': Buffer.byteLength(body) }).end(body)
  }

/** keyrow's own answer and log line, as a page, for all other failures. */
export const onError: OnError = (failure, request) => {
  if (failure instanceof Refused) {
    const { status, headers, message } = failure
    return { status, headers: { ...pageHeaders, ...headers }, body: failurePage(message) }
  }
  const { status, headers, body } = defaultErrorResponse(failure, request)
  return { status, headers: { ...pageHeaders, ...headers }, body: failurePage(body) }
}
