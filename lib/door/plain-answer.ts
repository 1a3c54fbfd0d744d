// An answer in plain text, to a request that failed.

import type { ServerResponse } from 'node:http'
import type { FailureAnswer } from './failure.js'
import { forgetMessage } from './headers.js'

/** The response's own methods. */
interface Real {
  readonly writeHead: (status: number) => unknown
  readonly end: (body: string) => unknown
}

/** An answer that cannot be sent, such as one with the status 0, becomes a plain 500. */
export const sendAnswer = (
  res: ServerResponse,
  real: Real,
  answer: FailureAnswer,
  addCookie: () => void,
): void => {
  for (const { status, headers, body } of [
    answer,
    { status: 500, body: 'Something went wrong.\n' } as FailureAnswer,
  ])
    try {
      for (const name of res.getHeaderNames()) res.removeHeader(name)
      res.setHeader('Content-Type', 'text/plain; charset=utf-8')
      res.setHeader('Cache-Control', 'no-store')
      for (const [name, value] of Object.entries(headers ?? {})) res.setHeader(name, value)
      addCookie()
      res.setHeader('Content-Length', Buffer.byteLength(body))
      forgetMessage(res)
      real.writeHead(status)
      real.end(body)
      return
    } catch {
      // The next one is sent; after the last, the connection is cut.
    }
  res.destroy()
}
