// Defines flows and their steps. A flow is a generator function that yields steps. The answers and the values of effects
// are recorded in a journal. To find a page, keyrow runs the function again, and gives it the recorded values. So the
// function must be pure between its steps: no clock, no random numbers, no reading of the session.

import type { TaskEither } from 'fp-ts/lib/TaskEither.js'
import type { DeepReadonly } from '../core/json.js'
import type { AnyKey } from '../core/key.js'
import { numberOption } from '../core/options.js'
import { type AnySchema, codecOf, type OutputOf, type Schema } from '../core/schema.js'
import type { Database } from '../db/database.js'
import type { Session } from '../store/contract.js'

/** An HTTP response. */
export interface Reply {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly body: string
}

/** A page as HTML, or as a whole response. */
export type Html = string | Reply

/** A page, or a promise or a task that makes the page. A task's error fails the request. */
export type Rendered = Html | Promise<Html> | TaskEither<unknown, Html>

/** The data of one showing of a page. */
export interface Page {
  /** The URL to which the page's form posts the answer. */
  readonly url: string
  /** The reasons why the last answer did not fit its codec. Empty at the first showing. */
  readonly problems: readonly string[]
  /** The fields of the last answer if it did not fit, without its secrets. Empty at the first showing. */
  readonly given: Readonly<Record<string, unknown>>
}

export type Codec = AnyKey['codec']

export interface PageStep {
  readonly kind: 'suspend' | 'forward'
  readonly name: string
  readonly codec: Codec
  readonly page: (at: Page) => Rendered
  readonly once: boolean
}

export interface DispatchStep {
  readonly kind: 'dispatch'
  readonly name: string
  readonly choices: Readonly<Record<string, Codec>>
  readonly page: (at: Readonly<Record<string, Page>>) => Rendered
}

export interface TangentStep<L> {
  readonly kind: 'tangent'
  readonly name: string
  readonly codec: Codec
  readonly to: (k: string) => string
  readonly task: ((token: string) => TaskEither<L, unknown>) | undefined
  readonly page: ((at: { readonly url: string }) => Rendered) | undefined
}

export interface CallStep {
  readonly kind: 'call'
  readonly name: string
  readonly codec: Codec
  readonly flow: AnyFlow
  readonly input: unknown
}

export interface EffectStep<L> {
  readonly kind: 'effect' | 'once'
  readonly name: string
  readonly codec: Codec
  readonly task: (key: string) => TaskEither<L, unknown>
  readonly claimMs: number
}

export interface TransactionStep<L> {
  readonly kind: 'transaction'
  readonly name: string
  readonly codec: Codec
  readonly database: Database
  readonly task: (tx: Database) => TaskEither<L, unknown>
  readonly scope: 'flow' | 'branch'
}

interface EditStep {
  readonly kind: 'edit'
  readonly name: string
  readonly edit: (session: Session) => Session
}

export interface GuardStep<L> {
  readonly kind: 'guard'
  readonly name: string
  readonly task: () => TaskEither<L, unknown>
}

interface SinceStep {
  readonly kind: 'since'
  readonly name: string
  readonly version: number
}

/** A step of a flow. `L` is the type of the errors of its task. */
export type Step<L> =
  | PageStep
  | DispatchStep
  | TangentStep<L>
  | CallStep
  | EffectStep<L>
  | TransactionStep<L>
  | EditStep
  | GuardStep<L>
  | SinceStep

/** The result of a function that makes a step. A flow gets the step's value with `yield*`. */
export type Steps<A, L = never> = Generator<Step<L>, A>

/** The type of the errors of the tasks in a flow's steps. */
export type ErrorOf<S> = S extends { readonly task: (...given: never[]) => TaskEither<infer L, unknown> }
  ? L
  : never

type Body = (input: unknown) => Generator<Step<unknown>, unknown>

/** The definition of a flow. `I` is its input, `A` is its result, and `L` are the errors of its tasks. */
export interface Flow<I, A, L> {
  readonly name: string
  readonly version: number
  readonly accepts: readonly number[]
  readonly input: Codec
  readonly result: Codec | undefined
  readonly idleMs: number | undefined
  readonly maxAgeMs: number | undefined
  readonly body: Body
  /** Has no value. It gives the type parameters a place. */
  readonly types?: (input: I) => TaskEither<L, A>
}

export type AnyFlow = Flow<never, unknown, unknown>

export interface FlowDefinition<I, A> {
  /** The name of the flow, at most 100 characters. It is stored with each instance of the flow. */
  readonly name: string
  /**
   * The version of the body, at least 1. Increase the version when the body changes. Instances of older versions go on
   * with the new body. Default: 1.
   */
  readonly version?: number
  /** The older versions whose instances may go on. Default: all. */
  readonly accepts?: readonly number[]
  /** The codec of the input, which is stored with the first answer. */
  readonly input: Schema<I>
  /** The codec of the result. A flow that another flow calls needs it. */
  readonly result?: Schema<A>
  /** An instance expires after this many milliseconds without an answer. Default: when the session expires. */
  readonly idleMs?: number
  /** The maximum age of an instance in milliseconds. Default: until the session expires. */
  readonly maxAgeMs?: number
}

/**
 * Defines a flow: a generator function whose steps are pages, effects and edits. keyrow runs the function again on the
 * recorded answers to find the page of a request. So the function must be pure between its steps.
 *
 * The idea is from Racket's `send/suspend` and Jifty's continuations. keyrow stores the answers, not closures.
 *
 * @throws `RangeError` for an invalid version, and `TypeError` for a name that is empty or too long
 *
 * @example
 * ```ts
 * import * as t from 'io-ts'
 * import { flow, suspend } from 'keyrow/flow'
 *
 * const greeting = flow({ name: 'greeting', input: t.type({}) }, function* () {
 *   const { name } = yield* suspend('name', t.type({ name: t.string }), ({ url }) =>
 *     `<form method="post" action="${url}"><input name="name"><button>Go on</button></form>`,
 *   )
 *   return `Hello ${name}`
 * })
 * console.log(greeting.name, greeting.version) // greeting 1
 * ```
 */
export const flow = <I, A, S extends Step<unknown>>(
  definition: FlowDefinition<I, A>,
  body: (input: DeepReadonly<I>) => Generator<S, A>,
): Flow<I, A, ErrorOf<S>> => {
  const { name, version = 1, accepts, input, result, idleMs, maxAgeMs } = definition
  const checked = numberOption('version', version, 1, 1_000_000, 'integer')
  return Object.freeze({
    name: nameOf(name),
    version: checked,
    accepts: accepts ?? Array.from({ length: checked }, (_, index) => index + 1),
    input: codecOf(input),
    result: result && codecOf(result),
    idleMs: timeOf('idleMs', idleMs),
    maxAgeMs: timeOf('maxAgeMs', maxAgeMs),
    body: body as Body,
  })
}

const timeOf = (name: string, value: number | undefined): number | undefined =>
  value === undefined ? undefined : numberOption(name, value, 1, Number.MAX_SAFE_INTEGER)

const nameOf = (name: string): string => {
  if (typeof name !== 'string' || name === '' || name.length > 100 || name.startsWith('keyrow:'))
    throw new TypeError(
      `a flow or a step has a name of 1 to 100 characters that does not begin with 'keyrow:', not ${JSON.stringify(name)}`,
    )
  return name
}

/** Makes the generator of one step. The runner passes the step's value to `next`. */
function* one<A, L>(step: Step<L>): Steps<A, L> {
  nameOf(step.name)
  return (yield step) as A
}

export interface SuspendOptions {
  /**
   * Whether only the first answer counts. With `true`, each later answer to the same page leads to the page after the
   * first answer. Default: false.
   */
  readonly once?: boolean
}

/**
 * Shows a page and waits for its answer. The answer is the form that the visitor posts to `url`. An answer that does not
 * fit the codec shows the page again with `problems`. An answer is stored as one row.
 *
 * @example
 * ```ts
 * import * as t from 'io-ts'
 * import { flow, suspend } from 'keyrow/flow'
 *
 * const survey = flow({ name: 'survey', input: t.type({}) }, function* () {
 *   const first = yield* suspend('first', t.type({ tea: t.string }), ({ url }) => `<form action="${url}">…</form>`)
 *   return first.tea
 * })
 * console.log(survey.name) // survey
 * ```
 */
export const suspend = <A>(
  step: string,
  answer: Schema<A>,
  page: (at: Page) => Rendered,
  { once: isOnce = false }: SuspendOptions = {},
): Steps<DeepReadonly<A>> => one({ kind: 'suspend', name: step, codec: codecOf(answer), page, once: isOnce })

/**
 * Shows a page like `suspend`, and cuts the flow: no earlier page can be answered any more. The URL of an earlier page
 * leads to where the flow is now.
 */
export const forward = <A>(
  step: string,
  answer: Schema<A>,
  page: (at: Page) => Rendered,
  { once: isOnce = false }: SuspendOptions = {},
): Steps<DeepReadonly<A>> => one({ kind: 'forward', name: step, codec: codecOf(answer), page, once: isOnce })

/** The answer to a `dispatch`: the chosen tag, and the value of its form. */
export type ChosenOf<C extends Readonly<Record<string, AnySchema>>> = {
  [K in keyof C]: { readonly tag: K; readonly value: DeepReadonly<OutputOf<C[K]>> }
}[keyof C]

/** Shows a page with several forms. Each form has a codec and a URL of its own. The idea is from Racket's `send/suspend/dispatch`. */
export const dispatch = <C extends Readonly<Record<string, AnySchema>>>(
  step: string,
  choices: C,
  page: (at: { readonly [K in keyof C]: Page }) => Rendered,
): Steps<ChosenOf<C>> =>
  one({
    kind: 'dispatch',
    name: step,
    choices: Object.fromEntries(
      Object.entries(choices).map(([tag, schema]) => [tag, codecOf(schema)] as const),
    ),
    page: page as DispatchStep['page'],
  })

export interface TangentOptions<L> {
  /**
   * Sends a token with which the tangent can be answered from outside of the session, for example in a mail. The task
   * runs when the flow reaches the tangent, and again with the same token if it has failed. `answerByToken` gives the
   * answer. The flow's URL then shows `page`.
   */
  readonly send?: (token: string) => TaskEither<L, unknown>
  /**
   * Makes the page that is shown after the answer from outside. Its form posts to `url`, without fields, and the flow
   * goes on. Default: a page with the button "Go on".
   */
  readonly page?: (at: { readonly url: string }) => Rendered
}

/**
 * Leaves the flow for another page of the site, and comes back with a value. The visitor is redirected to the path that
 * `to` returns. `returnFrom(k, value)` answers the tangent. A visitor cannot answer it with a form of his own. The idea
 * is Jifty's.
 */
export const tangent = <A, L = never>(
  step: string,
  answer: Schema<A>,
  to: (k: string) => string,
  { send, page }: TangentOptions<L> = {},
): Steps<DeepReadonly<A>, L> =>
  one({ kind: 'tangent', name: step, codec: codecOf(answer), to, task: send, page })

/** Calls another flow and waits for its result. The called flow has rows and limits of its own, and needs a handler. */
export const call = <J, B, L>(called: Flow<J, B, L>, input: J): Steps<DeepReadonly<B>> => {
  const { name, result } = called
  if (result === undefined)
    throw new TypeError(`the flow ${name} cannot be called: it has no codec \`result\``)
  return one({ kind: 'call', name, codec: result, flow: called, input })
}

export interface EffectOptions {
  /**
   * The time for which a request claims the effect, in milliseconds. If the request dies, another request runs the
   * effect again after this time, with the same key. Default: 30 seconds.
   */
  readonly claimMs?: number
}

const claimOf = ({ claimMs = 30_000 }: EffectOptions): number =>
  numberOption('claimMs', claimMs, 1, 3_600_000)

/**
 * Runs a task once in each branch of the flow, and records its value. While a request runs the task, no other request
 * starts it. `key` is the same each time the task is run, so pass it on as an idempotency key.
 *
 * @example
 * ```ts
 * import * as t from 'io-ts'
 * import * as TE from 'fp-ts/lib/TaskEither.js'
 * import { effect, flow, suspend } from 'keyrow/flow'
 *
 * const order = flow({ name: 'order', input: t.type({}) }, function* () {
 *   yield* suspend('start', t.type({}), ({ url }) => `<form method="post" action="${url}"><button>Buy</button></form>`)
 *   return yield* effect('price', t.number, () => TE.right(20))
 * })
 * console.log(order.name) // order
 * ```
 */
export const effect = <A, L>(
  name: string,
  result: Schema<A>,
  task: (key: string) => TaskEither<L, A>,
  options: EffectOptions = {},
): Steps<DeepReadonly<A>, L> =>
  one({ kind: 'effect', name, codec: codecOf(result), task, claimMs: claimOf(options) })

/** Runs a task once in the whole flow. All branches and tabs get the same value. Otherwise like `effect`. */
export const once = <A, L>(
  name: string,
  result: Schema<A>,
  task: (key: string) => TaskEither<L, A>,
  options: EffectOptions = {},
): Steps<DeepReadonly<A>, L> =>
  one({ kind: 'once', name, codec: codecOf(result), task, claimMs: claimOf(options) })

export interface TransactionOptions {
  /** Whether the task runs once in the whole flow, or once in each branch. Default: `flow`. */
  readonly scope?: 'flow' | 'branch'
}

/**
 * Runs a task in a transaction, exactly once. The task's changes and its recorded value are committed together.
 * `database` must be the database of the session's store.
 */
export const effectInTransaction = <A, L>(
  database: Database,
  name: string,
  result: Schema<A>,
  task: (tx: Database) => TaskEither<L, A>,
  { scope = 'flow' }: TransactionOptions = {},
): Steps<DeepReadonly<A>, L> =>
  one({ kind: 'transaction', name, codec: codecOf(result), database, task, scope })

/** Edits the current session. The edit is saved in the same transaction as the row of the answer. */
export const edit = (name: string, f: (session: Session) => Session): Steps<void> =>
  one({ kind: 'edit', name, edit: f })

/** Runs a check in each request that passes this step. The check is never recorded, so it sees the present. */
export const guard = <L>(name: string, check: TaskEither<L, unknown>): Steps<void, L> =>
  one({ kind: 'guard', name, task: () => check })

/** Returns whether this instance was begun by `version` of the definition or by a later version. */
export const since = (version: number): Steps<boolean> =>
  one({ kind: 'since', name: 'since', version: numberOption('version', version, 1, 1_000_000, 'integer') })
