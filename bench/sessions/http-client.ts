// An HTTP client that needs little processor time, so that the measured servers determine the results. It keeps its
// connections open, and sends one request at a time on a connection. It parses only the necessary parts of a response.

import { once } from 'node:events'
import { connect, type Socket } from 'node:net'

interface Answer {
  readonly status: number
  /** The first `Set-Cookie`, without its attributes. */
  readonly cookie: string | undefined
}

interface Waiting {
  readonly resolve: (answer: Answer) => void
  readonly reject: (error: Error) => void
}

export interface HttpClient {
  /** Sends a request. Throws an error if the status of the response is not 200. */
  readonly ask: (method: 'GET' | 'POST', path: string, cookie?: string) => Promise<Answer>
  readonly close: () => void
}

/** Parses a response that has a `Content-Length`. Returns `undefined` if the text is not yet complete. */
const answerIn = (text: string): Answer | undefined => {
  const end = text.indexOf('\r\n\r\n')
  if (end < 0) return undefined
  const head = text.slice(0, end)
  const length = /^content-length: (\d+)/im.exec(head)?.[1]
  if (length === undefined) throw new Error(`an answer without a length: ${head}`)
  if (text.length < end + 4 + Number(length)) return undefined
  return { status: Number(head.slice(9, 12)), cookie: /^set-cookie: ([^;\r]+)/im.exec(head)?.[1] }
}

/** Sends a request on one connection, and returns the response. Only one request at a time may be under way. */
type Line = (request: string) => Promise<Answer>

const lineOver = (socket: Socket): Line => {
  let waiting: Waiting | undefined
  let text = ''
  const fail = (error: Error): void => waiting?.reject(error)
  // With latin1 each character is one byte.
  socket.setEncoding('latin1').on('data', (chunk: string) => {
    text += chunk
    try {
      const answer = answerIn(text)
      if (answer === undefined) return
      text = ''
      waiting?.resolve(answer)
    } catch (error) {
      fail(error as Error)
    }
  })
  socket.on('error', fail).on('close', () => fail(new Error('the server closed the connection')))
  return (request) =>
    new Promise((resolve, reject) => {
      waiting = { resolve, reject }
      socket.write(request)
    })
}

export const httpClient = (port: number): HttpClient => {
  const sockets: Socket[] = []
  const free: { readonly socket: Socket; readonly send: Line }[] = []
  const open = async () => {
    const socket = connect(port, '127.0.0.1').setNoDelay()
    sockets.push(socket)
    await once(socket, 'connect')
    return { socket, send: lineOver(socket) }
  }
  const ask: HttpClient['ask'] = async (method, path, cookie) => {
    // The server may have closed connections that were idle for a long time.
    let line = free.pop()
    while (line?.socket.writable === false) line = free.pop()
    line ??= await open()
    const body = method === 'POST' ? 'Content-Length: 0\r\n' : ''
    const sent = cookie === undefined ? '' : `Cookie: ${cookie}\r\n`
    const answer = await line.send(`${method} ${path} HTTP/1.1\r\nHost: 127.0.0.1\r\n${sent}${body}\r\n`)
    free.push(line)
    if (answer.status !== 200) throw new Error(`${method} ${path} was answered with ${String(answer.status)}`)
    return answer
  }
  return { ask, close: () => sockets.forEach((socket) => void socket.destroy()) }
}
