// Defines the type of a store under test, and functions for the checks of the laws.

import assert from 'node:assert/strict'
import { applyEdits, type Edits } from '../core/edits.js'
import { KeyNotLoaded } from '../core/errors.js'
import type { Json } from '../core/json.js'
import { E, O, pipe, TE } from '../core/prelude.cjs'
import type { Snapshot } from '../core/session.js'
import { newIdempotencyKey } from '../core/token.js'
import { sessionDel, sessionRef, sessionSet, sessionUpdate } from '../core/values.js'
import type { Database } from '../db/database.js'
import { buildSession, type LoadOptions, loadSession, saveSession, sessionToken } from '../request/verbs.js'
import { currentSession, updateCurrentSession, withSession } from '../request/with-session.js'
import type { Change, Lifetime, Session, SessionStore } from '../store/contract.js'

/** A store under test. It may contain sessions of other checks. */
export interface Subject {
  readonly store: SessionStore
  /** The database of the store, if sessions can be saved in transactions of this database. */
  readonly database?: Database
  /** Moves the store's clock forward by this number of milliseconds. */
  readonly elapse: (milliseconds: number) => Promise<void>
  readonly close: () => Promise<void>
}

/** Opens a store with this lifetime. */
export type OpenSubject = (lifetime: Partial<Lifetime>) => Promise<Subject>

/** One check of a law. `law` is the law's number in the README. */
export interface Law {
  readonly law: number
  readonly name: string
  readonly lifetime?: Partial<Lifetime>
  readonly check: (subject: Subject) => Promise<void>
}

type Check = Law['check'] | Pick<Law, 'lifetime' | 'check'>

const TITLES = {
  1: 'pure',
  2: 'one load, one save',
  3: 'cost follows the change',
  4: 'no lost keys',
  5: 'no lost updates',
  6: 'no resurrection',
  7: 'a failed request leaves nothing behind',
  8: "nothing after the end, nobody else's",
  9: 'nesting joins',
  10: 'saved before answered',
  11: "time, and truth, are the primary's",
  12: 'the credential is not the id',
  13: 'collection is polite',
} as const

/** Makes the named checks of one law. A check runs on a store with this `lifetime`, unless the check gives another. */
export const lawsOf = (
  law: keyof typeof TITLES,
  checks: Readonly<Record<string, Check>>,
  lifetime: Partial<Lifetime> = {},
): readonly Law[] =>
  Object.entries(checks).map(([name, check]) => ({
    law,
    name: `${TITLES[law]}: ${name}`,
    lifetime,
    ...(typeof check === 'function' ? { check } : check),
  }))

/** Runs the task and returns the value of its `Right`. Throws the error of a `Left`. */
export const right = async <L, A>(task: TE.TaskEither<L, A>): Promise<A> => {
  const result = await task()
  if (E.isLeft(result)) throw result.left as Error
  return result.right
}

/** Runs the task and returns the error of its `Left`. Fails if the task results in a `Right`. */
export const left = async <L, A>(task: TE.TaskEither<L, A>): Promise<L> => {
  const result = await task()
  if (E.isRight(result)) assert.fail('expected a Left')
  return result.left
}

export const tagOf = (error: unknown): unknown => (error as { readonly _tag?: unknown })._tag

export type Task = TE.TaskEither<unknown, unknown>

/** Runs the tasks one after the other. Fails unless each task results in a `Left` with this tag. */
export const assertLeft = async (tag: string, ...tasks: readonly Task[]): Promise<void> => {
  for (const task of tasks) assert.equal(tagOf(await left(task)), tag)
}

/** Values to set, or a function that edits a session. */
type Editing = Readonly<Record<string, Json>> | ((session: Session) => Session)

export const edited = (session: Session, ...edits: readonly Editing[]): Session =>
  edits
    .flatMap((edit) =>
      typeof edit === 'function' ? edit : Object.entries(edit).map(([key, value]) => sessionSet(key, value)),
    )
    .reduce((current, edit) => edit(current), session)

export const saveNow = (session: Session, ...edits: readonly Editing[]): Promise<Session> =>
  right(saveSession(edited(session, ...edits)))

export const stored = (store: SessionStore, ...edits: readonly Editing[]): Promise<Session> =>
  saveNow(buildSession(store), ...edits)

/** Loads the session by its token. Returns `undefined` if the token opens no session. */
export const reloaded = async (session: Session, options?: LoadOptions): Promise<Session | undefined> =>
  pipe(await right(loadSession(session.handle, sessionToken(session), options)), O.toUndefined)

/** Loads the session by its token. Fails if the token opens no session. */
export const reload = async (session: Session, options?: LoadOptions): Promise<Session> =>
  (await reloaded(session, options)) ?? assert.fail('the session is not there')

/** Loads the session by its token, and returns the stored values. */
export const storedValues = async (session: Session): Promise<Readonly<Record<string, unknown>>> =>
  (await reload(session)).store.toObject()

export const snapshotOf = ({ snapshot }: Session): Snapshot =>
  O.toNullable(snapshot) ?? assert.fail('it was never stored')

export const expirationOf = ({ expiration }: Session): number =>
  O.toNullable(expiration) ?? assert.fail('it was never stored')

/** Returns the parameter `change` of a store's `save`, for these edits of a stored session. */
export const changeOf = (session: Session, edits: Edits): Change => {
  const since = snapshotOf(session)
  return { save: newIdempotencyKey(), edits, since, entries: applyEdits(edits, since.entries) }
}

/** Saves these edits of a stored session by a direct call of the store's `save`. */
export const saveEdits = (session: Session, edits: Edits) =>
  session.handle.save(session.id, changeOf(session, edits))

/** Wraps the store. `calls` gets the name of each call of the store, and the key of each saved edit. */
export const counted = (store: SessionStore) => {
  const calls: string[] = []
  const count =
    <P extends readonly unknown[], R>(name: string, operation: (...params: P) => R) =>
    (...params: P): R => {
      calls.push(name)
      return operation(...params)
    }
  const countedStore: SessionStore = {
    lifetime: store.lifetime,
    ...(store.ids === undefined ? {} : { ids: store.ids }),
    prepare: store.prepare,
    create: count('create', store.create),
    load: count('load', store.load),
    save: count('save', (id, change) => {
      calls.push(...change.edits.keySeq().map((key) => `edit ${key}`))
      return store.save(id, change)
    }),
    touch: count('touch', store.touch),
    refresh: count('refresh', store.refresh),
    rotate: count('rotate', store.rotate),
    destroy: count('destroy', store.destroy),
    sessionsOf: count('sessionsOf', store.sessionsOf),
    endAll: count('endAll', store.endAll),
    deleteExpired: count('deleteExpired', store.deleteExpired),
  }
  return { store: countedStore, calls }
}

/** Stores a session and loads it again. `calls` has the calls of the store since this load (see `counted`). */
export const countedSession = async (subject: Subject, ...edits: readonly Editing[]) => {
  const { store, calls } = counted(subject.store)
  const session = await reload(await stored(store, ...edits))
  calls.length = 0
  return { session, store, calls }
}

export const several = <A>(count: number, make: (index: number) => Promise<A>): Promise<A[]> =>
  Promise.all(Array.from({ length: count }, (_, index) => make(index)))

/**
 * Stores a session with 20 keys and loads it 20 times. Each of the 20 sessions then adds a key and deletes a key, and
 * all are saved at once. Fails if a change is lost, and returns the sessions as saved.
 */
export const changedAtOnce = async (
  store: SessionStore,
  load: (session: Session, index: number) => Promise<Session>,
): Promise<readonly Session[]> => {
  const names = Array.from({ length: 20 }, (_, index) => `old ${index}`)
  const session = await stored(store, ...names.map((name) => sessionSet(name, 'old')))
  const loaded = await several(20, (index) => load(session, index))
  const saved = await Promise.all(
    loaded.map((mine, index) => saveNow(mine, { [`new ${index}`]: index }, sessionDel(`old ${index}`))),
  )
  const expected = Object.fromEntries(names.map((_, index) => [`new ${index}`, index]))
  assert.deepEqual(await storedValues(session), expected)
  return saved
}

export const newPrincipal = (name = 'ada'): string => `${name} ${Math.random()}`

export const currentVisits = pipe(currentSession, TE.map(sessionRef('visits', 0)))

export const set = (key: string, value: number) => updateCurrentSession(sessionSet(key, value))

export const increment = (key: string, by?: number) => updateCurrentSession(add(key, by))

export const onCurrent = <L, A>(operation: (session: Session) => TE.TaskEither<L, A>) =>
  pipe(currentSession, TE.chainW(operation))

/** Runs the tasks one after the other until a task fails. Returns the result of the last task that ran. */
export const inOrder = <A>(
  ...tasks: readonly [...Task[], TE.TaskEither<unknown, A>]
): TE.TaskEither<unknown, A> =>
  (tasks as readonly Task[]).reduce((before, next) =>
    pipe(
      before,
      TE.chain(() => next),
    ),
  ) as TE.TaskEither<unknown, A>

/** Runs the tasks one after the other in a request with this session. */
export const request = <A>(session: Session, ...tasks: readonly [...Task[], TE.TaskEither<unknown, A>]) =>
  withSession(session, () => inOrder(...tasks))

/** Returns a promise, and the function that fulfils it. */
export const gate = (): readonly [Promise<void>, () => void] => {
  let open = (): void => undefined
  const opened = new Promise<void>((resolve) => {
    open = resolve
  })
  return [opened, open]
}

/** Runs a request. After its end, runs `late` in the request's async context, and returns the result of `late`. */
export const outlive = <A>(
  session: Session,
  body: Task,
  late: (current: Session) => Promise<A>,
  outcome: E.Either<unknown, unknown> = E.right('done'),
): Promise<A> =>
  new Promise((resolve, reject) => {
    const [ended, end] = gate()
    const lingering = onCurrent((current) => {
      ended.then(() => late(current)).then(resolve, reject)
      return TE.fromEither(outcome)
    })
    const run: (task: Task) => Promise<unknown> = E.isRight(outcome) ? right : left
    run(request(session, body, lingering)).then(end, reject)
  })

export const add = (key: string, by = 1) => sessionUpdate(key, (value) => Number(value) + by, 0)

export const lazily = (session: Session, ...keys: readonly string[]): Promise<Session> =>
  reload(session, { keys })

export const notLoaded = (key: string) => (error: unknown) =>
  error instanceof KeyNotLoaded && error.key === key

export const abc = { a: 1, b: 2, c: 3 }
