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
