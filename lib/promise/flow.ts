// Exports flows in a form for `async` functions, under the same names. The tasks of effects and guards are `async`
// functions. An error that such a function throws fails the request with the same error.

import type { DeepReadonly } from '../core/json.js'
import type { Schema } from '../core/schema.js'
import type { Database } from '../db/database.js'
import * as steps from '../flow/index.js'
import { bodyTask, lifted } from './sql.js'

export {
  type ChosenOf,
  call,
  dispatch,
  type EffectOptions,
  type Eventually,
  edit,
  expressFlow,
  type Flow,
  FlowBusy,
  FlowChanged,
  type FlowDefinition,
  type FlowError,
  FlowExpired,
  type FlowExpiredReason,
  FlowFull,
  type FlowHandler,
  type FlowOptions,
  type FlowRequest,
  fastifyFlow,
  fetchFlow,
  flow,
  flowHandler,
  forward,
  type Html,
  honoFlow,
  isFlowError,
  koaFlow,
  nodeFlow,
  type Page,
  type Rendered,
  type Reply,
  type Returned,
  type RunningFlow,
  type Secret,
  type Step,
  type Steps,
  type SuspendOptions,
  secretAnswer,
  since,
  suspend,
  type TransactionOptions,
} from '../flow/index.js'

/** Runs an async function once in each branch of the flow, and records its value. `key` is an idempotency key. */
export const effect = <A>(
  name: string,
  result: Schema<A>,
  task: (key: string) => A | Promise<A>,
  options?: steps.EffectOptions,
): steps.Steps<DeepReadonly<A>> =>
  steps.effect(name, result, (key) => bodyTask('effect', () => task(key)), options)

/** Runs an async function once in the whole flow. All branches and tabs get the same value. */
export const once = <A>(
  name: string,
  result: Schema<A>,
  task: (key: string) => A | Promise<A>,
  options?: steps.EffectOptions,
): steps.Steps<DeepReadonly<A>> =>
  steps.once(name, result, (key) => bodyTask('once', () => task(key)), options)

/** Runs an async function in a transaction, exactly once. Its changes and its recorded value are committed together. */
export const effectInTransaction = <A>(
  database: Database,
  name: string,
  result: Schema<A>,
  task: (tx: Database) => A | Promise<A>,
  options?: steps.TransactionOptions,
): steps.Steps<DeepReadonly<A>, Error> =>
  steps.effectInTransaction(
    database,
    name,
    result,
    (tx) => bodyTask('effectInTransaction', () => task(tx)),
    options,
  )

/** Runs a check in each request that passes this step. If the function throws, the request fails with this error. */
export const guard = (name: string, check: () => unknown): steps.Steps<void> =>
  steps.guard(
    name,
    bodyTask('guard', () => check()),
  )

export interface TangentOptions {
  /** Sends a token with which the tangent can be answered from outside of the session. Runs again if it has failed. */
  readonly send?: (token: string) => unknown
  /** Makes the page that is shown after the answer from outside. Default: a page with the button "Go on". */
  readonly page?: (at: { readonly url: string }) => steps.Rendered
}

/** Leaves the flow for another page of the site, and comes back with a value. */
export const tangent = <A>(
  step: string,
  answer: Schema<A>,
  to: (k: string) => string,
  { send, page }: TangentOptions = {},
): steps.Steps<DeepReadonly<A>> =>
  steps.tangent(step, answer, to, {
    ...(send === undefined ? {} : { send: (token: string) => bodyTask('tangent', () => send(token)) }),
    ...(page === undefined ? {} : { page }),
  })

/** Answers a tangent of the current session, and returns the path of the flow's next page. */
export const returnFrom = lifted(steps.returnFrom)

/** Answers a tangent from outside of its session. A token can be used once. */
export const answerByToken = lifted(steps.answerByToken)

/** Returns the flows of a session that can be answered, the most recently used first. */
export const flowsOf = lifted(steps.flowsOf)

/** Deletes the flow of the current session to which `k` belongs. An unknown `k` changes nothing. */
export const dropFlow = lifted(steps.dropFlow)
