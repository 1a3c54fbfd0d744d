// Converts edits and keys to parameters. Checks the shape of rows, and converts the rows to snapshots.

import { type Edits, type Entries, noEntries } from '../core/edits.js'
import { DriverError } from '../core/errors.js'
import { deepFreeze, type Json } from '../core/json.js'
import { A, E, HashMap, type O, pipe, TE, t } from '../core/prelude.cjs'
import {
  entriesOf,
  type Header,
  type Keys,
  makeSnapshot,
  type PartialSnapshot,
  type Snapshot,
} from '../core/session.js'
import type { IdempotencyKey, SessionId } from '../core/token.js'
import { deviceOf } from '../core/well-known-keys.js'
import type { Param, Query, Queryable } from '../db/database.js'
import { arrayText } from '../db/text-format.js'
import type { Absence, Listed } from '../store/contract.js'

// The store reads all rows with the next four functions. Each function runs a statement and checks its rows.

export const rowsAs =
  <A>(codec: t.Type<A>) =>
  (
    database: Queryable,
    query: Query,
    params: readonly Param[] = [],
  ): TE.TaskEither<DriverError, readonly A[]> =>
    rowsTo(codec)(database, query, params, E.right)

/** Runs a statement, and passes its rows to `f`. For the statements of most requests, since it makes only one promise. */
export const rowsTo =
  <A>(codec: t.Type<A>) =>
  <L, B>(
    database: Queryable,
    query: Query,
    params: readonly Param[],
    f: (rows: readonly A[]) => E.Either<L, B>,
  ): TE.TaskEither<DriverError | L, B> =>
  () =>
    database
      .query(query, params)()
      .then((result): E.Either<DriverError | L, B> => {
        if (E.isLeft(result)) return result
        return result.right.every((row) => codec.is(row))
          ? f(result.right)
          : E.left(misread(query, 'a row of another shape; does the pool transform rows?'))
      })

/** Returns the first row of a statement, if there is one. */
export const optionalRowAs =
  <A>(codec: t.Type<A>) =>
  (database: Queryable, query: Query, params?: readonly Param[]): TE.TaskEither<DriverError, O.Option<A>> =>
  () =>
    rowsAs(codec)(database, query, params)().then(E.map(A.head))

/** Returns the row of a statement that always returns a row. */
export const rowAs =
  <A>(codec: t.Type<A>) =>
  (database: Queryable, query: Query, params?: readonly Param[]): TE.TaskEither<DriverError, A> =>
    pipe(
      optionalRowAs(codec)(database, query, params),
      TE.chain(TE.fromOption(() => misread(query, 'it gave no row'))),
    )

const misread = (query: Query, problem: string): DriverError =>
  new DriverError(`${query.name}: ${problem}`, { retryable: false })

const json = t.union([t.string, t.null])

export const SavedRow = t.type({ revision: t.number, expiration: t.number })

export const LoadedRow = t.type({
  ...SavedRow.props,
  touchDue: t.boolean,
  expired: t.boolean,
  versionTag: t.string,
  since: t.number,
  entries: json,
})
export type LoadedRow = t.TypeOf<typeof LoadedRow>

// The row that a save returns. `seen` is the header's revision in the statement's snapshot, before this save. `changes`
// are the changes of other saves after the revision `since`. `since` is 0 if the caller's revision is too old or the
// database was restored.
export const WrittenRow = t.type({ ...SavedRow.props, seen: t.number, since: t.number, changes: json })
export type WrittenRow = t.TypeOf<typeof WrittenRow>

/** The row that a refresh returns. It has the changes after the revision `since`, or all entries if `since` is 0. */
export const RefreshedRow = t.type({
  ...SavedRow.props,
  versionTag: t.string,
  since: t.number,
  changes: json,
})

export const LockedRow = t.type({ ...SavedRow.props, done: t.boolean, since: t.number })
export type LockedRow = t.TypeOf<typeof LockedRow>

export const ChangesRow = t.type({ changes: json })

const ListedRow = t.type({
  id: t.string,
  created: t.number,
  expiration: t.number,
  lastSeen: t.number,
  device: t.union([t.string, t.null]),
})

export const listedSessions = (
  database: Queryable,
  query: Query,
  params: readonly Param[],
): TE.TaskEither<DriverError, readonly Listed[]> =>
  pipe(
    rowsAs(ListedRow)(database, query, params),
    TE.map(
      A.map(({ id, created, device, ...times }) => ({
        ...times,
        id: id as SessionId,
        createdAt: created,
        device: device === null ? undefined : deviceOf(JSON.parse(device)),
      })),
    ),
  )

export const sessionIds = (
  database: Queryable,
  query: Query,
  params: readonly Param[],
): TE.TaskEither<DriverError, readonly SessionId[]> =>
  pipe(rowsAs(t.type({ id: t.string }))(database, query, params), TE.map(A.map(({ id }) => id as SessionId)))

const member = (key: string, value: string): string => `${JSON.stringify(key)}:[${value}]`

// The JSON is built as text, since a member `__proto__` of a JavaScript object would have a special meaning.
const object = (members: Iterable<string>): string => `{${[...members].join(',')}}`

/** Returns the keys of `edits` with their values in `entries`, as `{"key": [value], "deletedKey": []}`. */
export const editsParam = (edits: Edits, entries: Entries): string =>
  object(
    edits
      .map((_, key) => {
        const value = entries.get(key)
        return member(key, value === undefined ? '' : JSON.stringify(value))
      })
      .values(),
  )

/** Returns all entries, as `{"key": [value], …}`. */
export const entriesParam = (entries: Entries): string =>
  object(entries.map((value, key) => member(key, JSON.stringify(value))).values())

export const array = (items: readonly (string | number | boolean)[]): string => `{${items.join(',')}}`

export const texts = (items: readonly (string | undefined)[]): string =>
  arrayText(items.map((item) => item ?? null))

/** Returns two parameters: the wanted keys, and those of them that a partially loaded `known` lacks. */
export const keysParams = (keys: Keys, known: PartialSnapshot | undefined): readonly [string, string] => [
  texts([...keys]),
  texts(known?.keys === undefined ? [] : [...keys.subtract(known.keys)]),
]

const frozen = (json: string): readonly [string, Json][] =>
  Object.entries(deepFreeze(JSON.parse(json)) as Readonly<Record<string, Json>>)

/** Applies changes, in the format of `editsParam`, to entries. */
const withChanges = (entries: Entries, changes: string | null): Entries =>
  changes === null
    ? entries
    : entries.withMutations((hash) => {
        for (const [key, found] of frozen(changes) as readonly [string, readonly Json[]][])
          if (found[0] === undefined) hash.delete(key)
          else hash.set(key, found[0])
      })

// Applies the changes of a row to `known`. The changes begin after the revision `since`, which is 0 if the row has all
// entries. `keys` are the keys that were read, or `undefined` for all keys.
export const entriesAfter = (
  known: Snapshot | undefined,
  keys: Keys | undefined,
  { since, changes }: { readonly since: number; readonly changes: string | null },
): Entries => {
  const before = known !== undefined && since === known.revision ? known.entries : noEntries
  const entries = withChanges(before, changes)
  return keys === undefined ? entries : entriesOf(entries, keys)
}

/** Returns the snapshot if all keys are loaded. Only such a snapshot can be the base of a load of all keys. */
export const fullSnapshot = (known: Snapshot | undefined): Snapshot | undefined =>
  known?.keys === undefined ? known : undefined

type Loaded = E.Either<Absence, Snapshot>

const EXPIRED: Loaded = E.left('expired')

export const headerOf = ({
  revision,
  expiration,
  touchDue,
  versionTag,
}: Pick<LoadedRow, 'revision' | 'expiration' | 'touchDue' | 'versionTag'>): Header => ({
  revision,
  expiration,
  touchDue,
  versionTag: versionTag as IdempotencyKey,
})

/** Returns the snapshot of a load of all keys. The changes are applied to `known`, unless the row has all entries. */
export const loadedSnapshot = (row: LoadedRow, known: Snapshot | undefined): Loaded => {
  if (row.expired) return EXPIRED
  const entries =
    known !== undefined && row.since === known.revision
      ? withChanges(known.entries, row.entries)
      : HashMap(frozen(row.entries ?? '{}'))
  return E.right(makeSnapshot(headerOf(row), entries, undefined))
}

/** Returns the snapshot of a load of some keys. If nothing has changed, a fully loaded session stays fully loaded. */
export const loadedKeysSnapshot = (row: LoadedRow, known: Snapshot | undefined, keys: Keys): Loaded => {
  if (row.expired) return EXPIRED
  const full = fullSnapshot(known)
  return E.right(
    full !== undefined && row.since === row.revision
      ? makeSnapshot(headerOf(row), full.entries, undefined)
      : makeSnapshot(
          headerOf(row),
          entriesAfter(known, keys, { since: row.since, changes: row.entries }),
          keys,
        ),
  )
}
