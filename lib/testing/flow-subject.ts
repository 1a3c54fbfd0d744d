// Defines flows and a browser for the checks of the laws of flows.

import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { E, O, pipe, TE, t } from '../core/prelude.cjs'
import {
  type FlowHandler,
  type FlowRequest,
  flow,
  flowHandler,
  type Page,
  type Reply,
  type Step,
  suspend,
} from '../flow/index.js'
import { buildSession, loadSession, sessionToken } from '../request/verbs.js'
import { currentSession, withSession } from '../request/with-session.js'
import type { Session, SessionStore } from '../store/contract.js'
import { type Law, right } from './subject.js'

const TITLES = {
  1: 'journal',
  2: 'back',
  3: 'fork',
  4: 'same answer, same page',
  5: 'reading is free',
  6: 'once',
  7: 'cut',
  8: 'saved before answered',
  9: 'call and return',
  10: 'bound',
  11: 'belongs',
  12: 'anywhere',
  13: "time is the store's",
  14: 'change is told',
  15: 'cost',
} as const

export const flowLawsOf = (
  law: keyof typeof TITLES,
  checks: Readonly<Record<string, Law['check']>>,
  lifetime: Law['lifetime'] = {},
): readonly Law[] =>
  Object.entries(checks).map(([name, check]) => ({ law, name: `${TITLES[law]}: ${name}`, lifetime, check }))

export const Word = t.type({ word: t.string })
export const Nothing = t.type({})

/** A page that shows its URL in the first line, and then a text. */
export const page =
  (text: string) =>
  ({ url, problems }: Page): string =>
    [url, text, ...problems].join('\n')

export const urlOf = (shown: string): string => shown.split('\n')[0] ?? ''
export const textOf = (shown: string): string => shown.split('\n')[1] ?? ''

export const freshName = (): string => `flow ${randomUUID()}`

/** Makes the handler of a flow without input. Its result is a part of the path to which it leads. */
export const served = <S extends Step<unknown>>(
  body: () => Generator<S, unknown>,
  { name = freshName(), ...rest }: Partial<Parameters<typeof flow>[0]> = {},
): FlowHandler<unknown> =>
  flowHandler(flow<unknown, unknown, S>({ name, input: Nothing as t.Type<unknown>, ...rest }, body), {
    at: '/flow',
    start: () => ({}),
    done: (result) => `/done/${String(result)}`,
  })

/** The handler of a flow with three pages, which returns the three words. */
export const threeWords = () =>
  served(function* () {
    const first = yield* suspend('first', Word, page('first'))
    const second = yield* suspend('second', Word, page(`second ${first.word}`))
    const third = yield* suspend('third', Word, page(`third ${first.word} ${second.word}`))
    return [first.word, second.word, third.word].join('-')
  })

/** Opens the first page of a flow in a new browser. */
export const begin = async (store: SessionStore, handler: FlowHandler<unknown>) => {
  const browser = new Browser(store)
  const first = urlOf(await browser.page(handler, '/flow'))
  return { browser, first }
}

/** Counts the runs of a task. */
export const counter = () => {
  const keys: string[] = []
  const task = (key: string): TE.TaskEither<never, number> =>
    TE.fromIO(() => {
      keys.push(key)
      return keys.length
    })
  return { keys, task }
}

/** Plays a browser. It keeps the token of its session. */
export class Browser {
  readonly #store: SessionStore
  #token: string | undefined

  constructor(store: SessionStore, token?: string) {
    this.#store = store
    this.#token = token
  }

  /** Returns another browser window with the same cookie. */
  clone(): Browser {
    return new Browser(this.#store, this.#token)
  }

  /** Loads the session of the cookie, or makes a new one. */
  async session(): Promise<Session> {
    if (this.#token === undefined) return buildSession(this.#store)
    return pipe(
      await right(loadSession(this.#store, this.#token)),
      O.getOrElse(() => buildSession(this.#store)),
    )
  }

  /** Runs a task in a request of this browser. */
  async run<L, A>(task: TE.TaskEither<L, A>): Promise<E.Either<unknown, A>> {
    return withSession(await this.session(), () =>
      pipe(
        task,
        TE.chainFirstW(() =>
          pipe(
            currentSession,
            TE.tapIO((session) => () => {
              this.#token = sessionToken(session)
            }),
          ),
        ),
      ),
    )()
  }

  async send<L>(handler: FlowHandler<L>, method: string, url: string, body?: unknown): Promise<Reply> {
    const request: FlowRequest = { method, url, headers: { 'sec-fetch-site': 'same-origin' }, body }
    const reply = await this.run(handler(request))
    if (E.isLeft(reply)) throw reply.left as Error
    return reply.right
  }

  /** Gets a page, and the first page by the path of the flow. Fails if the response is no page. */
  async page<L>(handler: FlowHandler<L>, url: string): Promise<string> {
    const found = await this.send(handler, 'GET', url)
    const reply = url.includes('k=')
      ? found
      : await this.send(handler, 'GET', found.headers['Location'] ?? '')
    assert.equal(reply.status, 200, reply.headers['Location'] ?? reply.body)
    return reply.body
  }

  /** Posts an answer, and returns the URL of the next page. Fails if the answer does not fit. */
  async answer<L>(handler: FlowHandler<L>, url: string, body: unknown = {}): Promise<string> {
    const reply = await this.send(handler, 'POST', url, body)
    assert.equal(reply.status, 303, reply.body)
    return reply.headers['Location'] ?? ''
  }
}
