// The stream of a response over HTTP/2, which a program can reach past the response. What it does there is done by
// the response while that waits: nothing goes out before the save, and the cookie is not missing.

import type { ServerResponse } from 'node:http'
import type { ServerHttp2Stream } from 'node:http2'
import { appendHeader, headersSent } from './headers.js'
import type { Call } from './holding.js'
import { ResponseRefused } from './refused.js'

export interface OverStream {
  readonly stream?: ServerHttp2Stream | undefined
}

type StreamMethods = Record<'respond' | 'respondWithFD' | 'respondWithFile' | 'write' | 'end', Call>

/** Has the stream's own methods lead to the response for as long as `isWaiting` says so. */
export const holdStream = (res: ServerResponse & OverStream, isWaiting: () => boolean): void => {
  const { stream } = res
  if (stream === undefined) return
  const methods = stream as unknown as StreamMethods
  const put = (name: keyof StreamMethods, instead: Call): void => {
    const real: Call = methods[name].bind(stream)
    methods[name] = (...args: readonly unknown[]) => (isWaiting() ? instead(...args) : real(...args))
  }
  const answer = res as unknown as StreamMethods
  put('respond', (headers, options) => respond(res, headers as Headers | undefined, options as Options))
  put('write', (...args) => answer.write(...args))
  const end: Call = methods.end.bind(stream)
  // Node.js itself ends the stream of a client that has gone.
  put('end', (...args) => (stream.aborted || stream.destroyed ? end(...args) : answer.end(...args)))
  for (const name of ['respondWithFD', 'respondWithFile'] as const)
    put(name, () => {
      throw new ResponseRefused(
        `stream.${name} would answer before the session is saved: pipe the file to the response`,
      )
    })
}

type Headers = Readonly<Record<string, number | string | readonly string[] | undefined>>

type Options = { readonly endStream?: boolean; readonly waitForTrailers?: boolean } | undefined

const respond = (res: ServerResponse, headers: Headers = {}, options: Options = {}): void => {
  if (options.waitForTrailers === true)
    throw new ResponseRefused('stream.respond: trailers are added by the method addTrailers of the response')
  if (res.headersSent) throw headersSent(res, 'respond')
  const { ':status': status = 200, ...named } = headers
  for (const [name, value] of Object.entries(named))
    if (value !== undefined && !name.startsWith(':')) appendHeader(res, name, [value].flat().map(String))
  res.statusCode = Number(status)
  if (options.endStream === true) res.end()
  else res.flushHeaders()
}
