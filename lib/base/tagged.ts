// What a replayed update throws.
import * as E from 'fp-ts/lib/Either.js'
import type * as TE from 'fp-ts/lib/TaskEither.js'
import { isSessionError } from './errors.js'

/** One of our errors, thrown by a replayed update, is the save's `Left`; anything else stays a throw. */
export const tagged =
  <L, A>(task: TE.TaskEither<L, A>): TE.TaskEither<L, A> =>
  () =>
    attempted(task)

/** Runs it at once. */
export const attempted = async <L, A>(task: TE.TaskEither<L, A>): Promise<E.Either<L, A>> => {
  try {
    return await task()
  } catch (error) {
    if (isSessionError(error)) return E.left(error as L)
    throw error
  }
}
