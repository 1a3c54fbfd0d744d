// The headers that `writeHead` takes, in all the forms that Node.js knows, as pairs.

import type { OutgoingHttpHeader, OutgoingHttpHeaders, ServerResponse } from 'node:http'

type Value = string | readonly string[]

const textOf = (value: OutgoingHttpHeader): Value =>
  Array.isArray(value) ? value.map(String) : String(value)

/** Of an object; of `[name, value, name, value]`; or of `[[name, value], [name, value]]`. */
const headerPairs = (
  headers: OutgoingHttpHeaders | readonly OutgoingHttpHeader[],
): readonly (readonly [string, Value])[] => {
  if (!Array.isArray(headers))
    return Object.entries(headers).flatMap(([name, value]) =>
      value === undefined ? [] : [[name, textOf(value)] as const],
    )
  const list = headers as readonly OutgoingHttpHeader[]
  if (list.every((pair) => Array.isArray(pair)))
    return list.map(([name, value]) => [String(name), textOf(value ?? '')])
  return list.flatMap((name, index) =>
    index % 2 === 0 ? [[String(name), textOf(list[index + 1] ?? '')] as const] : [],
  )
}

/**
 * Takes what `writeHead` was given, in all its forms, as `writeHead` would itself: a header given there replaces one
 * that was set before. Throws what `writeHead` throws.
 */
export const setHead = (res: ServerResponse, [given, ...rest]: readonly unknown[]): void => {
  const status = Math.trunc(Number(given))
  if (!(status >= 100 && status <= 999))
    throw coded(RangeError, 'ERR_HTTP_INVALID_STATUS_CODE', `Invalid status code: ${String(given)}`)
  const [message, headers] = typeof rest[0] === 'string' ? rest : [undefined, rest[0] ?? rest[1]]
  const text = message ?? (res.req.httpVersionMajor < 2 ? res.statusMessage : undefined)
  if (typeof text === 'string' && /[^\t\u0020-\u007e\u0080-\u00ff]/.test(text))
    throw coded(TypeError, 'ERR_INVALID_CHAR', 'Invalid character in statusMessage')
  setHeaders(res, headers as OutgoingHttpHeaders | readonly OutgoingHttpHeader[] | undefined)
  res.statusCode = status
  if (typeof message === 'string') res.statusMessage = message
}

const setHeaders = (
  res: ServerResponse,
  headers: OutgoingHttpHeaders | readonly OutgoingHttpHeader[] | undefined,
): void => {
  if (headers === undefined) return
  const pairs = headerPairs(headers)
  for (const [name] of pairs) res.removeHeader(name)
  for (const [name, value] of pairs) appendHeader(res, name, value)
}

/** Also for the responses of HTTP/2, which have learned to do it late. */
export const appendHeader = (res: ServerResponse, name: string, value: Value): void => {
  const before = res.getHeader(name)
  res.setHeader(name, before === undefined ? value : [before, value].flat().map(String))
}

/** HTTP/2 has no such message, and warns of it. */
export const forgetMessage = (res: ServerResponse): void => {
  if (res.req.httpVersionMajor < 2) res.statusMessage = ''
}

const coded = (kind: ErrorConstructor, code: string, message: string): Error =>
  Object.assign(new kind(message), { code })

// The errors of Node.js for these mistakes, by their codes: programs, and frameworks, look for them.

export const headersSent = ({ req }: ServerResponse, method: string): Error => {
  const verb = /^(set|append|remove|write)/.exec(method)?.[0] ?? 'set'
  return req.httpVersionMajor < 2
    ? coded(Error, 'ERR_HTTP_HEADERS_SENT', `Cannot ${verb} headers after they are sent to the client`)
    : coded(Error, 'ERR_HTTP2_HEADERS_SENT', 'Response has already been initiated.')
}

export const writeAfterEnd = (): Error => coded(Error, 'ERR_STREAM_WRITE_AFTER_END', 'write after end')

export const unwritable = (chunk: unknown): Error =>
  chunk === null
    ? coded(TypeError, 'ERR_STREAM_NULL_VALUES', 'May not write null values to stream')
    : coded(TypeError, 'ERR_INVALID_ARG_TYPE', 'the chunk of a response must be a string or a Uint8Array')
