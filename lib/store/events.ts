// What happens to sessions, told on `node:diagnostics_channel`: one channel for each kind of event, named
// `keyrow:` and the kind. Telling costs nothing while nobody listens. An event has ids, counts and times, and
// never a token, a secret or a value.
import { type Channel, channel, subscribe, unsubscribe } from 'node:diagnostics_channel'
import * as E from 'fp-ts/lib/Either.js'
import type { TaskEither } from 'fp-ts/lib/TaskEither.js'
import { DriverError, SaveConflict, SchemaMismatch, type SessionError, SessionGone } from '../core/errors.js'
import type { SessionId } from '../core/token.js'

/** The kinds of events, and what each of them tells. Durations are milliseconds. */
export interface SessionEvents {
  /** A session was stored for the first time. */
  readonly created: { readonly id: SessionId; readonly entries: number; readonly durationMs: number }
  /** A token opened a session. */
  readonly loaded: { readonly id: SessionId; readonly entries: number; readonly durationMs: number }
  /** Edits were stored. `rounds`: 2 when other requests had saved in between, so that updates ran again. */
  readonly saved: {
    readonly id: SessionId
    readonly edits: number
    readonly rounds: number
    readonly durationMs: number
  }
  /** Another request was first, and this one failed with a `SaveConflict`. */
  readonly conflict: { readonly id: SessionId; readonly what: string }
  /** A session has a new secret. */
  readonly rotated: { readonly id: SessionId; readonly durationMs: number }
  /** A session was ended: by `destroySession`, or by `destroySessionsOf`. */
  readonly destroyed: { readonly id: SessionId; readonly durationMs: number }
  /** The right token of an expired session was shown. */
  readonly expired: { readonly id: SessionId }
  /** A token was shown that opens nothing: not a token at all, or one that nobody was given (any more). */
  readonly badToken: { readonly reason: 'malformed' | 'unknown'; readonly id?: SessionId }
  /** A client has shown more different bad tokens than a guard allows; told once for each window of time. */
  readonly tokenAbuse: { readonly address: string; readonly tokens: number; readonly blocked: boolean }
  /** Garbage was collected: how many sessions, in how many batches. */
  readonly expiredDeleted: {
    readonly sessions: number
    readonly batches: number
    readonly finished: boolean
    readonly durationMs: number
  }
  /** The schema was made (`from` is 0) or upgraded. */
  readonly upgraded: {
    readonly schema: string
    readonly from: number
    readonly to: number
    readonly durationMs: number
  }
  /** The store failed: the database was not reached, refused, or does not hold our schema. */
  readonly failed: {
    readonly operation: string
    /** `unknown`: not an error of keyrow's, but one that the program's own code threw. */
    readonly error: SessionError['_tag'] | 'unknown'
    readonly sqlState?: string | undefined
    readonly retryable?: boolean | undefined
  }
}

export type SessionEventName = keyof SessionEvents

const channelName = (name: SessionEventName): string => `keyrow:${name}`

// Looked up once: Node.js keeps them by weak references, which cost more than what is told; and Bun forgets a channel
// that nobody else keeps together with those who listen to it.
const channels = new Map<SessionEventName, Channel>()

const channelOf = (name: SessionEventName): Channel => {
  const found = channels.get(name) ?? channel(channelName(name))
  channels.set(name, found)
  return found
}

/** Tells whoever listens. */
export const publish = <N extends SessionEventName>(name: N, event: SessionEvents[N]): void => {
  const found = channelOf(name)
  if (found.hasSubscribers) found.publish(Object.freeze(event))
}

/**
 * Calls `listener` for each event of one kind, at once and in the async context that it happens in. Gives the
 * function that ends this. What the listener throws is an uncaught exception of the process, not the request's.
 *
 * @example
 * ```ts
 * import { buildSession, onSessionEvent, saveSession, sessionSet } from 'keyrow'
 * import { memoryStore } from 'keyrow/memory'
 *
 * const stop = onSessionEvent('created', ({ entries }) => console.log(entries))
 * await saveSession(sessionSet('theme', 'dark')(buildSession(memoryStore())))() // 1
 * stop()
 * ```
 */
export const onSessionEvent = <N extends SessionEventName>(
  name: N,
  listener: (event: SessionEvents[N]) => void,
): (() => void) => {
  const heard = (event: unknown): void => listener(event as SessionEvents[N])
  channelOf(name)
  subscribe(channelName(name), heard)
  return () => {
    unsubscribe(channelName(name), heard)
  }
}

/** Tells why an operation failed, if the store did. Not the error's message: the server may have quoted what was sent. */
export const publishFailure = (operation: string, error: unknown): void => {
  if (error instanceof SaveConflict) publish('conflict', { id: error.id as SessionId, what: error.what })
  else if (error instanceof DriverError || error instanceof SchemaMismatch) {
    const { sqlState, retryable } = error instanceof DriverError ? error : {}
    publish('failed', { operation, error: error._tag, sqlState, retryable })
  } else if (!(error instanceof SessionGone)) publish('failed', { operation, error: 'unknown' })
}

// Tells what an operation did, or why it failed, as events.

/** The same task; when it has succeeded, `tell` is called with its result and how long it took. */
export const publishing =
  <L, A>(
    operation: string,
    task: TaskEither<L, A>,
    publishResult: (result: A, durationMs: number) => void = () => undefined,
  ): TaskEither<L, A> =>
  async () => {
    const start = performance.now()
    const result = await task()
    publishOutcome(operation, start, result, publishResult)
    return result
  }

/** The same of what has come out of an operation begun at `start`: for those that run in each request. */
export const publishOutcome = <A>(
  operation: string,
  start: number,
  outcome: E.Either<unknown, A>,
  publishResult: (result: A, durationMs: number) => void,
): void => {
  if (E.isRight(outcome)) publishResult(outcome.right, performance.now() - start)
  else publishFailure(operation, outcome.left)
}
