// The session store over any `Database`: one statement for each operation.

import * as E from 'fp-ts/lib/Either.js'
import { constVoid, identity, pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import type { StoreError } from '../base/errors.js'
import { DriverError, SchemaMismatch } from '../base/errors.js'
import type { Database } from '../port/database.js'
import { withHandles } from '../port/handles.js'
import { type Lifetime, lifetimeOf } from '../port/lifetime.js'
import { readCommitted } from '../port/read-committed.js'
import type { Change, SessionStore } from '../port/session-store.js'
import { type KnownIds, knownIds } from '../session/ids.js'
import { distributedStatements } from './distributed.js'
import { distributedListingOver } from './distributed-store.js'
import { LIVES, STILL_LIVES } from './expressions.js'
import { listingStatements } from './listing.js'
import { listingOver } from './listing-store.js'
import { manyStatements } from './many.js'
import { manyOver } from './many-store.js'
import { operationsOver } from './operations.js'
import { type RetryPolicy, retried, retryPolicyOf } from './retry.js'
import { prepareSchema, saysMissing } from './schema.js'
import { bare, DEFAULT_SCHEMA, quotedSchema } from './schema-state.js'
import { sessionStatements } from './statements.js'

export interface SessionStoreOptions extends Partial<Lifetime> {
  /** The PostgreSQL schema that holds the tables: lower-case letters, digits and `_`. Default: `keyrow`. */
  readonly schema?: string
  /** Whether to make the tables where they are missing, and to upgrade older ones. Default: true. */
  readonly upgradeSchema?: boolean
  /** How an operation that failed on its way is tried again. */
  readonly retry?: Partial<RetryPolicy>
  /**
   * Whether the tables are spread over several servers (Citus): then only forms of statements are used that
   * run there. Default: false.
   */
  readonly distributed?: boolean
}

/**
 * A session store in a database. It is ready at once; the tables are made (or found) before its first
 * statement. Throws a `RangeError` for options that make no sense.
 *
 * @example
 * ```ts
 * import { sessionStore } from 'keyrow'
 * import { pgliteDatabase } from 'keyrow/pglite'
 *
 * const database = pgliteDatabase()
 * const store = sessionStore(database, { idleMs: 20 * 60_000 })
 * console.log((await store.prepare())._tag) // Right
 * await database.close()
 * ```
 */
export const sessionStore = (database: Database, options: SessionStoreOptions = {}): SessionStore => {
  const schema = quotedSchema(options.schema ?? DEFAULT_SCHEMA)
  const { distributed = false } = options
  const [lifetime, ids] = [lifetimeOf(options), knownIds()]
  const shared = { schema, lifetime, ids, distributed, tried: new WeakSet<Change>() }
  const again = retried(retryPolicyOf(options.retry ?? {}))
  const own = readCommitted(database)
  const upgrade = options.upgradeSchema ?? true
  const root = preparation(
    pipe(
      prepareSchema(own, schema, upgrade),
      TE.tapIO((state) => () => {
        if (state.ids !== undefined) ids.learn(state.ids.key, lifetime.absoluteMs - state.ids.age)
      }),
      TE.map(constVoid),
    ),
  )
  return withHandles(storeOver({ ...shared, database: own, preparation: root, again }), (tx) => {
    // What is made there may be rolled back: nothing is learned from it.
    const inside = root.isDone()
      ? { ...root, run: TE.right(undefined) }
      : preparation(pipe(prepareSchema(tx, schema, upgrade), TE.map(constVoid)))
    return storeOver({ ...shared, database: tx, preparation: inside, again: identity })
  })
}

/** What a store's operations are made of, and how they are offered. */
interface Offer {
  readonly database: Database
  readonly schema: string
  readonly lifetime: Lifetime
  readonly ids: KnownIds
  readonly distributed: boolean
  readonly tried: WeakSet<Change>
  readonly preparation: Preparation
  readonly again: ReturnType<typeof retried>
}

const storeOver = (offer: Offer): SessionStore => {
  const offered = offering(offer)
  const inner = operations(offer)
  return {
    lifetime: offer.lifetime,
    ids: offer.ids,
    prepare: offer.again(offer.preparation.run),
    load: offered(inner.load),
    refresh: offered(inner.refresh),
    create: offered(inner.create),
    touch: offered(inner.touch),
    save: offered(inner.save),
    rotate: offered(inner.rotate),
    destroy: offered(inner.destroy),
    sessionsOf: offered(inner.sessionsOf),
    endAll: offered(inner.endAll),
    collect: offered(inner.collect),
    ...(offer.database.refusal === undefined ? {} : { refusal: offer.database.refusal }),
    ...(offer.database.current === undefined ? {} : { current: offer.database.current }),
    ...(inner.many === undefined
      ? {}
      : { many: { load: offered(inner.many.load), save: offered(inner.many.save) } }),
  }
}

/**
 * An operation as the store offers it: once the tables are there, tried again where that helps. When it finds that they
 * are gone (or of an older version, after a restore), they are prepared again, and it is run once more.
 */
const offering =
  ({ schema, database, preparation, again }: Offer) =>
  <P extends readonly unknown[], L, A>(operation: (...params: P) => TE.TaskEither<L, A>) =>
  (...params: P): TE.TaskEither<L | StoreError, A> => {
    const attempt = async (): Promise<E.Either<L | StoreError, A>> => {
      const prepared = await preparation.run()
      return E.isLeft(prepared) ? prepared : operation(...params)()
    }
    return again(async () => {
      let result = await attempt()
      if (!isMissing(result)) return result
      preparation.forget()
      // A transaction in which a statement has failed does nothing more.
      if (database.within === undefined) result = await attempt()
      return isMissing(result) ? E.left(new SchemaMismatch(bare(schema), gone(result.left))) : result
    })
  }

const isMissing = (result: E.Either<unknown, unknown>): result is E.Left<DriverError> =>
  E.isLeft(result) && result.left instanceof DriverError && saysMissing(result.left)

const gone = ({ message }: DriverError): string =>
  `${message}; its tables were changed while this process used them, and the next operation prepares them again`

const operations = ({ database, schema, lifetime, distributed, tried }: Offer) => {
  const sql = sessionStatements(schema, distributed ? LIVES : STILL_LIVES)
  const listing = distributed
    ? distributedListingOver(database, distributedStatements(schema))
    : listingOver(database, listingStatements(schema))
  const own = operationsOver({ database, sql, lifetime, tried })
  const many = distributed
    ? undefined
    : manyOver(database, manyStatements(schema), lifetime, own.refresh, tried)
  return { ...own, ...listing, many }
}

interface Preparation {
  /** Runs the preparation for the first call, and again only after it has failed or was forgotten. */
  readonly run: TE.TaskEither<StoreError, void>
  readonly isDone: () => boolean
  readonly forget: () => void
}

const preparation = (task: TE.TaskEither<StoreError, void>): Preparation => {
  let running: Promise<E.Either<StoreError, void>> | undefined
  let done = false
  return {
    run: () => {
      running ??= task().then((result) => {
        done = E.isRight(result)
        if (!done) running = undefined
        return result
      })
      return running
    },
    isDone: () => done,
    // Not while it runs: what found the tables missing began before that.
    forget: () => {
      if (done) running = undefined
      done = false
    },
  }
}
