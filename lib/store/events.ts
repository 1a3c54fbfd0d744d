// Publishes events about sessions on `node:diagnostics_channel`. Each kind of event has a channel, whose name is
// `keyrow:` and the kind. Without subscribers an event costs almost nothing. No event has a token, a secret or a value.

import { type Channel, channel, subscribe, unsubscribe } from 'node:diagnostics_channel'
import type { TaskEither } from 'fp-ts/lib/TaskEither.js'
import { DriverError, SaveConflict, SchemaMismatch, type SessionError, SessionGone } from '../core/errors.js'
import { E } from '../core/prelude.cjs'
import type { SessionId } from '../core/token.js'

/** The kinds of events and their data. Durations are in milliseconds. */
export interface SessionEvents {
  /** A session was stored for the first time. */
  readonly created: { readonly id: SessionId; readonly entries: number; readonly durationMs: number }
  /** A token opened a session. */
  readonly loaded: { readonly id: SessionId; readonly entries: number; readonly durationMs: number }
  /** Edits were stored. `rounds` is 2 if the save ran in a transaction that locks the header, otherwise 1. */
  readonly saved: {
    readonly id: SessionId
    readonly edits: number
    readonly rounds: number
    readonly durationMs: number
  }
  /** A request failed with a `SaveConflict`, since another request made a conflicting change first. */
  readonly conflict: { readonly id: SessionId; readonly what: string }
  /** The secret of a session was replaced. */
  readonly rotated: { readonly id: SessionId; readonly durationMs: number }
  /** A session was ended by `destroySession` or `destroySessionsOf`. */
  readonly destroyed: { readonly id: SessionId; readonly durationMs: number }
  /** A request had the token of an expired session. */
  readonly expired: { readonly id: SessionId }
  /** A request had a token that opens no session: a malformed or foreign token, or the token of an ended session. */
  readonly badToken: { readonly reason: 'malformed' | 'unknown'; readonly id?: SessionId }
  /** A client exceeded the guard's limit of foreign tokens. The guard publishes one event per client and window. */
  readonly tokenAbuse: { readonly address: string; readonly tokens: number; readonly blocked: boolean }
  /** Expired sessions were deleted. */
  readonly expiredDeleted: {
    readonly sessions: number
    readonly batches: number
    readonly finished: boolean
    readonly durationMs: number
  }
  /** The schema was created (`from` is 0) or upgraded. */
  readonly upgraded: {
    readonly schema: string
    readonly from: number
    readonly to: number
    readonly durationMs: number
  }
  /** A flow was stored with or before its first answer. `evicted` is the number of flows that were evicted for it. */
  readonly flowBegun: {
    readonly id: SessionId
    readonly flow: string
    readonly name: string
    readonly evicted: number
  }
  /** An answer was stored. `step` is the step that the flow has reached. */
  readonly flowAdvanced: {
    readonly id: SessionId
    readonly flow: string
    readonly name: string
    readonly step: string
  }
  /** A flow has ended with a result. */
  readonly flowEnded: { readonly id: SessionId; readonly flow: string; readonly name: string }
  /** A page of a flow could not be used. `reason` is the reason of a `FlowExpired`, or `changed`. */
  readonly flowRejected: { readonly name: string; readonly reason: string }
  /** A process that knew nothing of a session has read its copy in a shared cache. `rejected`: it is no copy of the session. */
  readonly copyRead: { readonly id: SessionId; readonly result: 'found' | 'missing' | 'rejected' }
  /** A command of a shared cache has failed. `kind` is the kind of the `CacheError`. */
  readonly cacheFailed: {
    readonly operation: 'get' | 'set' | 'swap' | 'drop'
    readonly kind: 'timeout' | 'unavailable' | 'paused' | 'invalid' | 'closed'
  }
  /** Late saves of one or several sessions were stored with one statement. */
  readonly lateStored: { readonly sessions: number; readonly saves: number; readonly durationMs: number }
  /** Late saves were dropped, since their session has ended, or since only their own process can save them again. */
  readonly lateDropped: { readonly id: SessionId; readonly saves: number }
  /** A browser has registered its key for a session. From then on the session is bound to this browser. */
  readonly deviceBound: { readonly id: SessionId; readonly algorithm: 'ES256' | 'RS256' }
  /** The browser of a bound session has proved again that it has the key. */
  readonly proofRefreshed: { readonly id: SessionId }
  /**
   * A registration or a proof was refused. The reason `unproven` stands for a request of a bound session that needed a
   * proof and had none. `skipped` is then what the browser says of it, such as `quota_exceeded`.
   */
  readonly proofRefused: {
    readonly id?: SessionId
    readonly reason: ProofRefusal
    readonly skipped?: string
  }
  /** An operation failed with an error other than `SaveConflict` and `SessionGone`. */
  readonly failed: {
    readonly operation: Operation
    /** `DriverError`, `SchemaMismatch`, or `unknown` for any other error, such as an error of the program's code. */
    readonly error: SessionError['_tag'] | 'unknown'
    readonly sqlState?: string | undefined
    readonly retryable?: boolean | undefined
  }
}

/**
 * Why a registration or a proof was refused. `noSession`: no cookie opens a session that fits the request.
 * `alreadyBound`: the session has a key already. `challenge`: the signed challenge is unknown or too old.
 */
export type ProofRefusal =
  | 'unproven'
  | 'noSession'
  | 'alreadyBound'
  | 'noProof'
  | 'malformed'
  | 'algorithm'
  | 'key'
  | 'signature'
  | 'challenge'

type Operation =
  | 'load'
  | 'create'
  | 'save'
  | 'touch'
  | 'refresh'
  | 'loadKeys'
  | 'rotate'
  | 'destroy'
  | 'sessionsOf'
  | 'destroySessionsOf'
  | 'deleteExpired'

export type SessionEventName = keyof SessionEvents

const channelName = (name: SessionEventName): string => `keyrow:${name}`

// This map is faster than the lookup in Node.js, which uses weak references. Without this map, Bun would delete a
// channel together with its subscribers.
const channels = new Map<SessionEventName, Channel>()

const channelOf = (name: SessionEventName): Channel => {
  const found = channels.get(name) ?? channel(channelName(name))
  channels.set(name, found)
  return found
}

/** Whether an event of this name has subscribers. If not, frequent operations do not build the event. */
export const isObserved = (name: SessionEventName): boolean => channelOf(name).hasSubscribers

/** Publishes an event if the channel has subscribers. */
export const publish = <N extends SessionEventName>(name: N, event: SessionEvents[N]): void => {
  const found = channelOf(name)
  if (found.hasSubscribers) found.publish(Object.freeze(event))
}

/**
 * Calls `listener` for each event of one kind, synchronously and in the async context of the code that publishes the
 * event. Returns the function that removes the listener. An error thrown by the listener becomes an uncaught exception.
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
  const subscriber = (event: unknown): void => listener(event as SessionEvents[N])
  channelOf(name)
  subscribe(channelName(name), subscriber)
  return () => {
    unsubscribe(channelName(name), subscriber)
  }
}

/** Publishes the failure of an operation without the error's message, in which the server may quote values. */
export const publishFailure = (operation: Operation, error: unknown): void => {
  if (error instanceof SaveConflict) publish('conflict', { id: error.id as SessionId, what: error.what })
  else if (error instanceof DriverError || error instanceof SchemaMismatch) {
    const { sqlState, retryable } = error instanceof DriverError ? error : {}
    publish('failed', { operation, error: error._tag, sqlState, retryable })
  } else if (!(error instanceof SessionGone)) publish('failed', { operation, error: 'unknown' })
}

/** Wraps a task. Calls `publishResult` with the task's result and duration, or publishes the failure of the task. */
export const publishing =
  <L, A>(
    operation: Operation,
    task: TaskEither<L, A>,
    publishResult: (result: A, durationMs: number) => void = () => undefined,
  ): TaskEither<L, A> =>
  async () => {
    const start = performance.now()
    const result = await task()
    if (E.isRight(result)) publishResult(result.right, performance.now() - start)
    else publishFailure(operation, result.left)
    return result
  }
