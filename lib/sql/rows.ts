// Between rows and values: edits as one jsonb parameter, and snapshots out of what comes back.
import * as E from 'fp-ts/lib/Either.js'
import { flow, pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import { Map as HashMap } from 'immutable'
import * as t from 'io-ts'
import { type Edits, type Entries, noEntries } from '../core/edits.js'
import { DriverError } from '../core/errors.js'
import { deepFreeze, type Json } from '../core/json.js'
import { entriesOf, type Keys, type PartialSnapshot, type Snapshot } from '../core/session.js'
import type { IdempotencyKey, SessionId } from '../core/token.js'
import type { Param, Query, Queryable, Row } from '../db/database.js'
import { arrayText } from '../db/text-format.js'
import type { Absence, Listed, Saved } from '../store/contract.js'

const cell = (key: string, value: string): string => `${JSON.stringify(key)}:[${value}]`

// By hand, since an object built in JavaScript would give `__proto__` a meaning.
const object = (cells: Iterable<string>): string => `{${[...cells].join(',')}}`

/** The keys of `edits` with their values in `entries`: `{"set": [value], "deleted": []}` */
export const editsParam = (edits: Edits, entries: Entries): string =>
  object(
    edits
      .map((_, key) => {
        const value = entries.get(key)
        return cell(key, value === undefined ? '' : JSON.stringify(value))
      })
      .values(),
  )

/** `{"key": [value], …}` */
export const entriesParam = (entries: Entries): string =>
  object(entries.map((value, key) => cell(key, JSON.stringify(value))).values())

/** An array as PostgreSQL reads it. */
export const array = (items: readonly (string | number | boolean)[]): string => `{${items.join(',')}}`

export const texts = (items: readonly (string | undefined)[]): string =>
  arrayText(items.map((item) => item ?? null))

/** The keys that are wanted, and those of them that are not in what is known. */
export const keysParams = (keys: Keys, known: PartialSnapshot | undefined): readonly [string, string] => [
  texts([...keys]),
  texts(known === undefined ? [] : known.keys === undefined ? [] : [...keys.subtract(known.keys)]),
]

const frozen = (json: string): readonly [string, Json][] =>
  Object.entries(deepFreeze(JSON.parse(json)) as Readonly<Record<string, Json>>)

/** The entries with the changes made: the reverse of `editsParam`. */
const withChanges = (entries: Entries, changes: string | null): Entries =>
  changes === null
    ? entries
    : entries.withMutations((hash) => {
        for (const [key, found] of frozen(changes) as readonly [string, readonly Json[]][])
          if (found[0] === undefined) hash.delete(key)
          else hash.set(key, found[0])
      })

/**
 * What is known after a row that told what has changed since its `since`, which is 0 when it could not go on from `known`.
 * `keys` are those that the row tells of, with those that were missing; or it tells of all.
 */
export const snapshotAfter = (
  known: Snapshot | undefined,
  keys: Keys | undefined,
  { since, changes }: { readonly since: number; readonly changes: string | null },
): Pick<Snapshot, 'entries' | 'keys'> => {
  const before = known !== undefined && since === known.revision ? known.entries : noEntries
  return keys === undefined
    ? { entries: withChanges(before, changes) }
    : { entries: entriesOf(withChanges(before, changes), keys), keys }
}

/** What is known, if that is all: a statement that tells of all keys goes on from nothing else. */
export const wholeOf = (known: Snapshot | undefined): Snapshot | undefined =>
  known?.keys === undefined ? known : undefined

const SavedRow = t.type({ revision: t.number, expiration: t.number })

const json = t.union([t.string, t.null])

const LoadedRow = t.intersection([
  SavedRow,
  t.type({ touchDue: t.boolean, expired: t.boolean, versionTag: t.string, since: t.number, entries: json }),
])

export type Decode<A> = (row: Row) => E.Either<DriverError, A>

/** Rows are taken as they are: these codecs change nothing. */
export const decodedRow =
  <A>(codec: t.Type<A>, query: Query): Decode<A> =>
  (row: unknown) =>
    codec.is(row)
      ? E.right(row)
      : E.left(
          new DriverError(`${query.name}: a row of another shape; does the pool transform rows?`, {
            retryable: false,
          }),
        )

export const savedRow = (query: Query): Decode<Saved> => decodedRow(SavedRow, query)

/** `known` is what the caller had, which the row goes on from unless it says that it is everything. */
export const loadedRow = (query: Query) => {
  const decode = decodedRow(LoadedRow, query)
  return (known: Snapshot | undefined): Decode<E.Either<Absence, Snapshot>> =>
    (row) => {
      const decoded = decode(row)
      if (E.isLeft(decoded)) return decoded
      const { revision, expiration, touchDue, expired, versionTag, since, entries } = decoded.right
      if (expired) return E.right(E.left('expired'))
      const all =
        known !== undefined && since === known.revision
          ? withChanges(known.entries, entries)
          : HashMap(frozen(entries ?? '{}'))
      return E.right(
        E.right({ revision, expiration, touchDue, versionTag: versionTag as IdempotencyKey, entries: all }),
      )
    }
}

/** The same of some keys. Where nothing has changed, whoever knew all still does. */
export const loadedKeysRow = (query: Query) => {
  const decode = decodedRow(LoadedRow, query)
  return (known: Snapshot | undefined, keys: Keys): Decode<E.Either<Absence, Snapshot>> =>
    flow(
      decode,
      E.map(({ revision, expiration, touchDue, expired, versionTag, since, entries }) => {
        if (expired) return E.left('expired')
        const isAll = known !== undefined && known.keys === undefined && since === revision
        const now = isAll
          ? { entries: known.entries }
          : snapshotAfter(known, keys, { since, changes: entries })
        return E.right({ revision, expiration, touchDue, versionTag: versionTag as IdempotencyKey, ...now })
      }),
    )
}

/**
 * A save's row: `seen` is the revision that the statement saw before its own, `changes` the others' since `since`,
 * which is 0 when that cannot be told.
 */
export const writtenRow = (query: Query) =>
  decodedRow(t.intersection([SavedRow, t.type({ seen: t.number, since: t.number, changes: json })]), query)

/** A refreshed session's row: what changed after the revision `since`, or, when that is 0, all there is. */
export const refreshedRow = (query: Query) =>
  decodedRow(
    t.intersection([SavedRow, t.type({ versionTag: t.string, since: t.number, changes: json })]),
    query,
  )

export const lockedRow = (query: Query) =>
  decodedRow(t.intersection([SavedRow, t.type({ done: t.boolean, since: t.number })]), query)

const ListedRow = t.type({ id: t.string, created: t.number, expiration: t.number })

export const listedRow = (query: Query): Decode<Listed> =>
  flow(
    decodedRow(ListedRow, query),
    E.map(({ id, created, expiration }) => ({ id: id as SessionId, createdAt: created, expiration })),
  )

export const endedRow = (query: Query): Decode<SessionId> =>
  flow(
    decodedRow(t.type({ id: t.string }), query),
    E.map(({ id }) => id as SessionId),
  )

export const expiredRow = (query: Query) =>
  decodedRow(t.type({ sessions: t.number, due: t.number, settled: t.number, busy: t.boolean }), query)

export const changesRow = (query: Query) => decodedRow(t.type({ changes: json }), query)

/** The rows of a statement, each as the codec wants it. */
export const rowsAs =
  <A>(codec: t.Type<A>) =>
  (
    database: Queryable,
    query: Query,
    params: readonly Param[] = [],
  ): TE.TaskEither<DriverError, readonly A[]> =>
    pipe(database.query(query, params), TE.chainEitherK(E.traverseArray(decodedRow(codec, query))))

/** The one row of a statement that always gives one. */
export const rowAs =
  <A>(codec: t.Type<A>) =>
  (database: Queryable, query: Query, params: readonly Param[] = []): TE.TaskEither<DriverError, A> =>
    pipe(
      rowsAs(codec)(database, query, params),
      TE.chain(([row]) =>
        row === undefined
          ? TE.left(new DriverError(`${query.name} gave no row`, { retryable: false }))
          : TE.right(row),
      ),
    )
