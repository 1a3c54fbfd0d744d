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

// As `writeHead` would itself: a header given there replaces one that was set before.
export const setHeaders = (
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
