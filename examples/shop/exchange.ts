// Parses forms into typed values, sends answers, and makes the page for a failed request. An answer is a plain value
// until it is sent.

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

/** The error of an invalid request. */
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

/** Reads the fields of a form. */
export const readFields = (req: IncomingMessage): TE.TaskEither<Refused, URLSearchParams> =>
  pipe(
    () => readBody(req),
    TE.map((body) => new URLSearchParams(body)),
  )

/** Reads and parses the form of a request. */
export const readForm =
  <A>(parse: (fields: URLSearchParams) => O.Option<A>) =>
  (req: IncomingMessage): TE.TaskEither<Refused, A> =>
    pipe(
      readFields(req),
      TE.map(parse),
      TE.chain(TE.fromOption(() => new Refused(422, 'The form was not filled in the way it asks for.'))),
    )

const readBody = async (req: IncomingMessage): Promise<E.Either<Refused, string>> => {
  const chunks: Uint8Array[] = []
  let bytes = 0
  try {
    // The connection must stay open, so that a client that sends too much data gets an answer.
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

/**
 * Returns the answer to a POST request. The browser then loads the page with GET, so a reload does not send the form
 * again.
 */
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

/** For a failure other than `Refused`, `defaultErrorResponse` logs the failure and chooses the text of the page. */
export const onError: OnError = (failure, request) => {
  if (failure instanceof Refused) {
    const { status, headers, message } = failure
    return { status, headers: { ...pageHeaders, ...headers }, body: failurePage(message) }
  }
  const { status, headers, body } = defaultErrorResponse(failure, request)
  return { status, headers: { ...pageHeaders, ...headers }, body: failurePage(body) }
}
