// Between rows and values: edits as one jsonb parameter, and snapshots out of what comes back.
import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import { Map as HashMap } from 'immutable'
import * as t from 'io-ts'
import { DriverError } from '../base/errors.js'
import { deepFreeze } from '../base/frozen.js'
import type { Json } from '../base/json.js'
import type { Query, Row } from '../port/database.js'
import type { Saved } from '../port/session-store.js'
import type { Edits, Entries } from '../session/edits.js'
import type { Snapshot } from '../session/session.js'

const cell = (key: string, value: string): string => `${JSON.stringify(key)}:[${value}]`

// By hand, since an object built in JavaScript would give `__proto__` a meaning.
const object = (cells: Iterable<string>): string => `{${[...cells].join(',')}}`

/** `{"set": [value], "deleted": []}` */
export const editsParam = (edits: Edits): string =>
  object(edits.map((edit, key) => cell(key, edit._tag === 'Set' ? JSON.stringify(edit.value) : '')).values())

/** `{"key": [value], …}` */
export const entriesParam = (entries: Entries): string =>
  object(entries.map((value, key) => cell(key, JSON.stringify(value))).values())

const SavedRow = t.type({ revision: t.number, expiration: t.number })

const SnapshotRow = t.intersection([
  SavedRow,
  t.type({ due: t.boolean, entries: t.union([t.string, t.null]) }),
])

const decoded =
  <A>(codec: t.Decoder<unknown, A>, query: Query) =>
  (row: Row): E.Either<DriverError, A> =>
    pipe(
      codec.decode(row),
      E.mapLeft(
        () =>
          new DriverError(`${query.name}: a row of another shape; does the pool transform rows?`, {
            retryable: false,
          }),
      ),
    )

export const savedRow = (query: Query): ((row: Row) => E.Either<DriverError, Saved>) =>
  decoded(SavedRow, query)

export const snapshotRow =
  (query: Query) =>
  (row: Row): E.Either<DriverError, Snapshot> =>
    pipe(
      decoded(SnapshotRow, query)(row),
      E.map(({ revision, expiration, due, entries }) => ({
        revision,
        expiration,
        due,
        entries: HashMap(
          Object.entries(deepFreeze(JSON.parse(entries ?? '{}')) as Readonly<Record<string, Json>>),
        ),
      })),
    )
