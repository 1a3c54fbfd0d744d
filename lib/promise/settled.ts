// How one face becomes the other: an effect a promise, a failure a throw.
import * as E from 'fp-ts/lib/Either.js'
import * as TE from 'fp-ts/lib/TaskEither.js'

/** The right of an `Either`; its left is thrown. */
export const given = <L extends Error, A>(either: E.Either<L, A>): A => {
  if (E.isLeft(either)) throw either.left
  return either.right
}

/** Runs a task; its left is what the promise rejects with. */
export const settled = async <L extends Error, A>(task: TE.TaskEither<L, A>): Promise<A> =>
  given(await task())

/** What is known without waiting, as a promise. */
export const settledAtOnce = <L extends Error, A>(ask: () => E.Either<L, A>): Promise<A> =>
  new Promise((resolve) => resolve(given(ask())))

/** The body of `verb` as a task; what it throws comes out as itself. */
export const bodyTask = <A>(verb: string, body: () => A | Promise<A>): TE.TaskEither<never, A> =>
  TE.fromTask(async () => notTask(verb, await body()))

/** A `TaskEither` of the other face that slipped in would never be run, and what it does lost in silence. */
const notTask = <A>(verb: string, value: A): A => {
  if (typeof value === 'function')
    throw new TypeError(`${verb}: the body gave a function; is it a task of \`keyrow\`, which has to be run?`)
  return value
}
