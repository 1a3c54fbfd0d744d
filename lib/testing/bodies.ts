// Small bodies for `withSession`, for the laws of the current session.

import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import { currentSession, updateCurrentSession } from '../current/current-session.js'
import { sessionRef, sessionSet } from '../session/values.js'

export const currentVisits = pipe(currentSession, TE.map(sessionRef('visits', 0)))

export const set = (key: string, value: number) => updateCurrentSession(sessionSet(key, value))

/** Runs the tasks one after the other; gives what the last one gave. */
export const inOrder = <L, A>(
  first: TE.TaskEither<L, A>,
  ...rest: readonly TE.TaskEither<L, A>[]
): TE.TaskEither<L, A> =>
  rest.reduce(
    (before, next) =>
      pipe(
        before,
        TE.chain(() => next),
      ),
    first,
  )

/** A promise, and the function that fulfils it. */
export const gate = (): readonly [Promise<void>, () => void] => {
  let open = (): void => undefined
  const opened = new Promise<void>((resolve) => {
    open = resolve
  })
  return [opened, open]
}
