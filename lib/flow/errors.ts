// Defines the errors of flows, as the closed union `FlowError`.

import { brandErrors, ErrorWithStatus } from '../core/errors.js'

/**
 * The reason why a page of a flow can no longer be used.
 *
 * - `unknown`: the session has no such flow or no such page. The session may have ended.
 * - `expired`: the flow's `idleMs` or `maxAgeMs`, or the session's lifetime, is over.
 * - `cut`: the flow has come to a `forward` page, so earlier pages cannot be answered.
 * - `finished`: the flow has ended with a result.
 * - `evicted`: the session had too many flows, and this flow was the least recently used.
 * - `principal`: the flow belongs to another principal.
 * - `used`: the token was used before. Only `answerByToken` has this reason.
 */
export type FlowExpiredReason = 'unknown' | 'expired' | 'cut' | 'finished' | 'evicted' | 'principal' | 'used'

/** A page of a flow can no longer be used. `latest` is the path where the flow is now, if it is anywhere. */
export class FlowExpired extends ErrorWithStatus {
  readonly _tag = 'FlowExpired'
  readonly status = 410

  constructor(
    readonly reason: FlowExpiredReason,
    readonly flow: string,
    readonly latest?: string,
    /** The answer that the request contained. It is `undefined` if the answer may contain a secret. */
    readonly given?: unknown,
  ) {
    super(`a page of the flow ${flow} cannot be used: ${reason}`)
  }
}

/**
 * The definition of a flow does not fit its stored journal. `at` is the index of the first record that does not fit,
 * `recorded` is this record, and `asked` is the step of the definition. `drops` names the effects that would be lost if
 * the visitor went back to the last page that fits.
 */
export class FlowChanged extends ErrorWithStatus {
  readonly _tag = 'FlowChanged'
  readonly status = 409

  constructor(
    readonly flow: string,
    readonly at: number,
    readonly recorded: string,
    readonly asked: string,
    readonly drops: readonly string[] = [],
  ) {
    super(
      `the flow ${flow} does not fit its journal: record ${String(at)} is ${recorded}, but the body asks for ${asked}`,
    )
  }
}

/** Another request has been running the same effect for too long. The visitor may try again. */
export class FlowBusy extends ErrorWithStatus {
  readonly _tag = 'FlowBusy'
  readonly status = 503
  override readonly headers: Readonly<Record<string, string>>

  constructor(
    readonly flow: string,
    readonly effect: string,
    readonly retryAfterMs: number,
  ) {
    super(`the effect ${effect} of the flow ${flow} is being run by another request`)
    this.headers = { 'Retry-After': String(Math.ceil(retryAfterMs / 1000)) }
  }
}

/** A limit of flows was exceeded: the number of answers, the size of a value, or the size of the journal. */
export class FlowFull extends ErrorWithStatus {
  readonly _tag = 'FlowFull'
  readonly status = 413

  constructor(
    readonly flow: string,
    readonly what: 'answers' | 'journal' | 'value',
  ) {
    super(`the flow ${flow} has reached a limit: ${what}`)
  }
}

for (const [tag, type] of Object.entries({ FlowExpired, FlowChanged, FlowBusy, FlowFull }))
  brandErrors(type, `Flow:${tag}`, {})

export type FlowError = FlowExpired | FlowChanged | FlowBusy | FlowFull

/**
 * Returns whether a thrown value is an error of a flow, even if another copy of keyrow in this process made it.
 *
 * @example
 * ```ts
 * import { FlowFull, isFlowError } from 'keyrow/flow'
 *
 * console.log(isFlowError(new FlowFull('checkout', 'answers')), isFlowError(new Error('other'))) // true false
 * ```
 */
export const isFlowError = (error: unknown): error is FlowError =>
  [FlowExpired, FlowChanged, FlowBusy, FlowFull].some((one) => error instanceof one)
