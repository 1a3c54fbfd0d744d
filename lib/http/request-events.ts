// Runs the event listeners of a request and its response with the current session. Node.js emits events in the async
// context of the connection, which has no current session. So keyrow calls `emit` in the scope of the request.
import type { ServerResponse } from 'node:http'
import type { BindingReply } from '../bound/endpoints.js'
import type { TE } from '../core/prelude.cjs'
import {
  answeredBy,
  type Handled,
  type PendingResponse,
  runRequest,
  type SessionRequest,
} from './session-request.js'

// Express replaces the prototypes of requests and responses. V8 before version 13 (Node.js 24) then makes a hidden
// class for each member that is added to such an object. The many classes slow down every access to members. Objects
// with a deleted member share one class. So keyrow adds one extra member and deletes it again.
const MAKES_CLASSES = Number.parseInt(process.versions.v8, 10) < 13
const DELETED = Symbol('deleted by keyrow')

/** Adds the first member to a request or a response. Further members may then be assigned as usual. */
export const addMember = (object: object, symbol: symbol, value: unknown): void => {
  const members = object as Record<symbol, unknown>
  const isReset = MAKES_CLASSES && Object.getPrototypeOf(object) !== object.constructor.prototype
  if (isReset) members[DELETED] = undefined
  members[symbol] = value
  if (isReset) Reflect.deleteProperty(members, DELETED)
}

export type Call = (...args: readonly unknown[]) => unknown

const BOUND = Symbol('bound by keyrow')

interface BoundEmitter {
  emit: Call
  /** The original `emit` of the emitter, and the function that enters the scope of the emitter's request. */
  readonly [BOUND]: { readonly enter: SessionRequest['enter']; readonly emit: Call } | undefined
}

/** All emitters share this function. A separate function would give each emitter a hidden class of its own. */
function emitBound(this: BoundEmitter, ...args: readonly unknown[]): unknown {
  const bound = this[BOUND]
  return bound?.enter(() => Reflect.apply(bound.emit, this, args))
}

/** Makes the listeners of these emitters run in the scope of the request. A later call replaces the scope. */
export const bindEvents = ({ enter }: SessionRequest, emitters: readonly object[]): void => {
  for (const emitter of emitters as readonly BoundEmitter[]) {
    const before = emitter[BOUND]
    addMember(emitter, BOUND, { enter, emit: before?.emit ?? emitter.emit })
    if (before === undefined) emitter.emit = emitBound
  }
}

export const sendReply = (res: ServerResponse, { status, headers, body }: BindingReply): void => {
  res.writeHead(status, { ...headers, 'Content-Length': Buffer.byteLength(body) }).end(body)
}

/**
 * Like `runRequest`, but also makes the listeners of the request and the response run in the scope of the request. Sends the
 * responses that keyrow itself gives.
 */
export const runWithEvents = (
  [req, res]: readonly [object, ServerResponse],
  begin: TE.TaskEither<unknown, SessionRequest>,
  defer: () => PendingResponse,
  handler: (sessionRequest: SessionRequest) => Handled,
): Promise<void> => {
  const bound = (sessionRequest: SessionRequest): Handled => {
    bindEvents(sessionRequest, [req, res])
    return answeredBy(
      sessionRequest,
      (reply) => sendReply(res, reply),
      () => handler(sessionRequest),
    )
  }
  return runRequest(begin, bound, defer)
}
