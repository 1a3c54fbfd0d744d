// Listeners on a request and on its response run with the current session. Node.js emits these events from the
// connection's own async context, in which nothing is bound; so `emit` itself runs in the scope of the request.
import type { SessionRequest } from './session-request.js'

// Members that are added to an object of Node.js's own, a request or a response, without making it slow.

/**
 * Before version 13 (Node.js 24) V8 makes a new shape for each member that is added to an object whose prototype was
 * set anew, as Express does: so each one has its own shapes, and is slow in all that is done with it. From an
 * object that has lost a member it makes no more of them; all such objects have one shape.
 */
const MAKES_SHAPES = Number.parseInt(process.versions.v8, 10) < 13
const LOST = Symbol('deleted at once')

/** Adds the first of a row of members; the others may be set plainly after it. */
export const addMember = (object: object, symbol: symbol, value: unknown): void => {
  const members = object as Record<symbol, unknown>
  const isReset = MAKES_SHAPES && Object.getPrototypeOf(object) !== object.constructor.prototype
  if (isReset) members[LOST] = undefined
  members[symbol] = value
  if (isReset) Reflect.deleteProperty(members, LOST)
}

type Emit = (...args: readonly unknown[]) => boolean

interface Emitter {
  emit: Emit
}

interface Bound {
  readonly enter: SessionRequest['enter']
  /** The emitter's own. */
  readonly emit: Emit
}

const BOUND = Symbol('bound by keyrow')

type BoundEmitter = Emitter & Record<symbol, Bound | undefined>

/** One function for all emitters: each with a function of its own would be of a shape of its own to the engine. */
function emitBound(this: BoundEmitter, ...args: readonly unknown[]): boolean {
  const { enter, emit } = this[BOUND] as Bound
  return enter(() => Reflect.apply(emit, this, args))
}

/** From now on the listeners of these emitters run in the scope of the request. A scope further in takes its place. */
export const bindEvents = (sessionRequest: SessionRequest, ...emitters: readonly object[]): void => {
  for (const emitter of emitters as readonly BoundEmitter[]) {
    const before = emitter[BOUND]
    addMember(emitter, BOUND, {
      enter: sessionRequest.enter,
      emit: before?.emit ?? emitter.emit,
    } satisfies Bound)
    if (before === undefined) emitter.emit = emitBound
  }
}
