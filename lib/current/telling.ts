// Tells what an operation did, or why it failed, as events.

import * as E from 'fp-ts/lib/Either.js'
import type { TaskEither } from 'fp-ts/lib/TaskEither.js'
import { publishFailure } from '../port/events.js'

/** The same task; when it has succeeded, `tell` is called with its result and how long it took. */
export const telling =
  <L, A>(
    operation: string,
    task: TaskEither<L, A>,
    tell: (result: A, durationMs: number) => void = () => undefined,
  ): TaskEither<L, A> =>
  async () => {
    const start = performance.now()
    const result = await task()
    tellOutcome(operation, start, result, tell)
    return result
  }

/** The same of what has come out of an operation begun at `start`: for those that run in each request. */
export const tellOutcome = <A>(
  operation: string,
  start: number,
  outcome: E.Either<unknown, A>,
  tell: (result: A, durationMs: number) => void,
): void => {
  if (E.isRight(outcome)) tell(outcome.right, performance.now() - start)
  else publishFailure(operation, outcome.left)
}
