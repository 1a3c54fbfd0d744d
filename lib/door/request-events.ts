// Listeners on a request and on its response run with the current session. Node.js emits these events from the
// connection's own async context, in which nothing is bound; so `emit` itself runs in the scope of the request.

import type { RequestLife } from './request-life.js'
import { addMember } from './shapes.js'

type Emit = (...args: readonly unknown[]) => boolean

interface Emitter {
  emit: Emit
}

interface Bound {
  readonly enter: RequestLife['enter']
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
export const bindEvents = (life: RequestLife, ...emitters: readonly object[]): void => {
  for (const emitter of emitters as readonly BoundEmitter[]) {
    const before = emitter[BOUND]
    addMember(emitter, BOUND, { enter: life.enter, emit: before?.emit ?? emitter.emit } satisfies Bound)
    if (before === undefined) emitter.emit = emitBound
  }
}
