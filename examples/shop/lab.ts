// The experiments of the lab. Each experiment runs two requests that overlap, on keyrow and on a store that saves whole
// sessions. Both use the database of the shop, and sessions of their own, which are deleted afterwards.

import { setTimeout as pause } from 'node:timers/promises'
import * as E from 'fp-ts/lib/Either.js'
import { identity, pipe } from 'fp-ts/lib/function.js'
import * as O from 'fp-ts/lib/Option.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import * as t from 'io-ts'
import {
  buildSession,
  destroySession,
  loadSession,
  type Session,
  type SessionError,
  type SessionStore,
  saveSession,
  sessionFor,
  sessionKey,
  sessionPrincipal,
  sessionRef,
  sessionSet,
  sessionToken,
  sessionUpdate,
  updateCurrentSession,
  withSession,
} from 'keyrow'
import type { Database, Query } from 'keyrow/store'
import { statementsOf } from './log.js'

/** A part of a request, in milliseconds since the begin of the experiment. */
const Step = t.strict({
  request: t.union([t.literal('slow'), t.literal('quick')]),
  does: t.union([t.literal('load'), t.literal('work'), t.literal('save'), t.literal('sign out')]),
  from: t.number,
  to: t.number,
  statements: t.number,
  failed: t.boolean,
})
export type Step = t.TypeOf<typeof Step>

const Outcome = t.strict({
  steps: t.readonlyArray(Step),
  lost: t.readonlyArray(t.string),
})
export type Outcome = t.TypeOf<typeof Outcome>

const Run = t.strict({ keyrow: Outcome, whole: Outcome })
export type Run = t.TypeOf<typeof Run>

export type ExperimentName = 'tabs' | 'sign-out'

/** The result of the visitor's last run of an experiment, in the visitor's session. */
export const runKey = (name: ExperimentName) => sessionKey(`lab/${name}`, Run)

const SLOW_MS = 400
const QUICK_AFTER_MS = 100
const QUICK_MS = 80

/** What an experiment needs of a store. A request loads the session, works, and then saves. */
interface Subject {
  /** Begins a session. The cart has tea, and the theme is light. */
  readonly begin: () => Promise<void>
  readonly request: (line: Line, work: Work) => Promise<void>
  readonly signOut: (line: Line) => Promise<void>
  /** Returns what the session contains now, as sentences. */
  readonly contents: () => Promise<readonly string[]>
  readonly end: () => Promise<void>
}

interface Work {
  readonly ms: number
  /** The work takes until this promise resolves, too. */
  readonly until?: Promise<unknown>
  readonly item: string
  readonly theme?: string
}

interface Line {
  /** Resolves when the request has loaded its session. */
  readonly loaded: Promise<void>
  /** Runs a part of a request, and adds it to the steps. */
  readonly step: <A>(does: Step['does'], act: () => Promise<A>) => Promise<A>
  /** Runs a request that works and then saves. `act` calls its parameter when the work is done. */
  readonly workAndSave: (act: (worked: () => void) => Promise<E.Either<unknown, unknown>>) => Promise<void>
}

const recorder = () => {
  const steps: Step[] = []
  const start = performance.now()
  const now = (): number => Math.round(performance.now() - start)
  const line = (request: Step['request']): Line => {
    let noteLoaded: () => void = () => undefined
    const loaded = new Promise<void>((resolve) => (noteLoaded = resolve))
    const step: Line['step'] = async (does, act) => {
      const from = now()
      const { result, statements } = await statementsOf(act)
      steps.push({ request, does, from, to: now(), statements: statements.length, failed: false })
      if (does === 'load') noteLoaded()
      return result
    }
    const workAndSave: Line['workAndSave'] = async (act) => {
      const from = now()
      let worked = from
      const { result, statements } = await statementsOf(() => act(() => (worked = now())))
      const common = { request, failed: false, statements: 0 }
      steps.push({ ...common, does: 'work', from, to: worked })
      steps.push({
        ...common,
        does: 'save',
        from: worked,
        to: now(),
        statements: statements.length,
        failed: E.isLeft(result),
      })
    }
    return { loaded, step, workAndSave }
  }
  return { steps, line }
}

/** Runs `quick` while the slow request works. The slow request saves after `quick` has ended. */
const overlapping = async (
  { loaded }: Line,
  slow: (until: Promise<unknown>) => Promise<unknown>,
  quick: () => Promise<unknown>,
): Promise<void> => {
  const done = loaded.then(() => pause(QUICK_AFTER_MS)).then(quick)
  await Promise.all([slow(done), done])
}

const experiments: Readonly<
  Record<
    ExperimentName,
    {
      readonly run: (subject: Subject, slow: Line, quick: Line) => Promise<void>
      /** What the session must contain afterwards. */
      readonly wanted: (name: string) => readonly string[]
    }
  >
> = {
  tabs: {
    run: (subject, slow, quick) =>
      overlapping(
        slow,
        (until) => subject.request(slow, { ms: SLOW_MS, item: 'boat', until }),
        () => subject.request(quick, { ms: QUICK_MS, item: 'oar', theme: 'dark' }),
      ),
    wanted: (name) => [
      `${name} is signed in`,
      'tea is in the cart',
      'boat is in the cart',
      'oar is in the cart',
      'the theme is dark',
    ],
  },
  'sign-out': {
    run: (subject, slow, quick) =>
      overlapping(
        slow,
        (until) => subject.request(slow, { ms: SLOW_MS, item: 'boat', until }),
        () => subject.signOut(quick),
      ),
    wanted: () => [],
  },
}

/** Runs an experiment on both stores at the same time. `name` is the user of the sessions. */
export const runExperiment =
  (
    database: Database,
    store: SessionStore,
    experiment: ExperimentName,
    name: string,
  ): TE.TaskEither<never, Run> =>
  async () => {
    const { run, wanted } = experiments[experiment]
    const outcome = async (subject: Subject): Promise<Outcome> => {
      await subject.begin()
      const { steps, line } = recorder()
      await run(subject, line('slow'), line('quick'))
      const found = await subject.contents()
      await subject.end()
      const lost = lostOf(wanted(name), found)
      return { steps: steps.sort((a, b) => a.from - b.from), lost }
    }
    const [keyrow, whole] = await Promise.all([
      outcome(onKeyrow(store, name)),
      outcome(onWhole(database, name)),
    ])
    return E.right({ keyrow, whole })
  }

/** Returns what is missing, or what is there although nothing should be. */
const lostOf = (wanted: readonly string[], found: readonly string[]): readonly string[] =>
  wanted.length === 0 ? found : wanted.filter((fact) => !found.includes(fact))

const cart = sessionKey('cart', t.readonlyArray(t.string))
const theme = sessionKey('theme', t.string)

const facts = (
  name: string | undefined,
  items: readonly string[],
  color: string | undefined,
): readonly string[] => [
  ...(name === undefined ? [] : [`${name} is signed in`]),
  ...items.map((item) => `${item} is in the cart`),
  ...(color === undefined ? [] : [`the theme is ${color}`]),
]

const right = async <A>(task: TE.TaskEither<SessionError, A>): Promise<A> =>
  pipe(
    await task(),
    E.getOrElseW((error) => {
      throw error
    }),
  )

const onKeyrow = (store: SessionStore, name: string): Subject => {
  let token = ''
  const load = async (): Promise<Session | undefined> => O.toUndefined(await right(loadSession(store, token)))
  return {
    begin: async () => {
      const filled = pipe(
        buildSession(store),
        sessionFor(name),
        sessionSet(cart, ['tea']),
        sessionSet(theme, 'light'),
      )
      token = sessionToken(await right(saveSession(filled)))
    },
    request: async ({ step, workAndSave }, { ms, item, theme: color, until }) => {
      const session = await step('load', load)
      if (session === undefined) return
      // `withSession` saves the session when its body has ended.
      await workAndSave((worked) =>
        withSession(session, () =>
          pipe(
            TE.fromTask(() => Promise.all([pause(ms), until])),
            TE.chain(() => updateCurrentSession(sessionUpdate(cart, (items) => [...items, item], []))),
            TE.chain(() => updateCurrentSession(color === undefined ? identity : sessionSet(theme, color))),
            TE.chainFirstIOK(() => worked),
          ),
        )(),
      )
    },
    signOut: async ({ step }) => {
      const session = await step('load', load)
      if (session !== undefined) await step('sign out', () => right(destroySession(session)))
    },
    contents: async () => {
      const session = await load()
      return session === undefined
        ? []
        : facts(
            O.toUndefined(sessionRef(sessionPrincipal)(session)),
            sessionRef(cart, [])(session),
            sessionRef(theme, 'light')(session),
          )
    },
    end: async () => {
      const session = await load()
      if (session !== undefined) await right(destroySession(session))
    },
  }
}

interface Document {
  readonly name: string
  readonly items: readonly string[]
  readonly theme: string
}

// Like the usual stores of express-session: a request reads the session as one document, and writes the whole document.
const onWhole = (database: Database, name: string): Subject => {
  const id = crypto.randomUUID()
  const query = (query: Query, ...params: readonly string[]) => right(database.query(query, [id, ...params]))
  const load = async () => (await query(LOAD_WHOLE))[0]?.['document'] as Document | undefined
  const save = (document: Document) => query(SAVE_WHOLE, JSON.stringify(document))
  return {
    begin: async () => {
      await save({ name, items: ['tea'], theme: 'light' })
    },
    request: async ({ step }, { ms, item, theme: color, until }) => {
      const document = await step('load', load)
      if (document === undefined) return
      await step('work', () => Promise.all([pause(ms), until]))
      await step('save', () =>
        save({ ...document, items: [...document.items, item], theme: color ?? document.theme }),
      )
    },
    signOut: async ({ step }) => {
      await step('load', load)
      await step('sign out', () => query(DELETE_WHOLE))
    },
    contents: async () => {
      const document = await load()
      return document === undefined ? [] : facts(document.name, document.items, document.theme)
    },
    end: async () => {
      await query(DELETE_WHOLE)
    },
  }
}

/** Creates the table of the store that saves whole sessions. */
export const PREPARE_WHOLE: Query = {
  name: 'whole.prepare',
  text: 'create table if not exists lab_session (id text primary key, document jsonb not null)',
}

const LOAD_WHOLE: Query = { name: 'whole.load', text: 'select document from lab_session where id = $1::text' }

const SAVE_WHOLE: Query = {
  name: 'whole.save',
  text: `
insert into lab_session (id, document) values ($1::text, $2::text::jsonb)
on conflict (id) do update set document = excluded.document`,
}

const DELETE_WHOLE: Query = { name: 'whole.delete', text: 'delete from lab_session where id = $1::text' }
