// Saves a session. First an optimistic statement tries to write. It writes only if the session is live. For updates,
// the header must also have the revision from which the new values were computed. If this statement writes nothing, a
// transaction locks the header, reads the changes, applies the updates again, and writes. So no update is lost.

import { applyEdits, type Edits, type Entries, hasUpdates } from '../core/edits.js'
import { DriverError, type SaveConflict, SessionGone, type StoreError, withEffect } from '../core/errors.js'
import { E, O, pipe, TE } from '../core/prelude.cjs'
import { hasUnloadedUpdates, keysAfter, makeSnapshot, type Snapshot } from '../core/session.js'
import type { IdempotencyKey, SessionId } from '../core/token.js'
import { LIFETIME, ownLifetimeOf, PRINCIPAL } from '../core/well-known-keys.js'
import { type Database, ON_PRIMARY, type Param, type Query, type Queryable } from '../db/database.js'
import type { Attempt } from '../db/deadline.js'
import type { Change, Lifetime, SavedSnapshot, SessionStore } from '../store/contract.js'
import {
  baseRevision,
  changesOfKeysSince,
  changesSince,
  commitParts,
  type Durability,
  epoch,
  extendedExpiry,
  initialExpiry,
  isRecent,
  keysArray,
  ms,
  RECENT_SAVES,
  statementsOf,
  TOMBSTONE_REVISIONS,
  withSave,
} from './fragments.js'
import {
  ChangesRow,
  editsParam,
  entriesAfter,
  keysParams,
  LockedRow,
  optionalRowAs,
  rowAs,
  rowsAs,
  texts,
  WrittenRow,
} from './rows.js'

// `changes` is the SQL for the changes of all or some keys. A full save, which has `lifetime`, also deletes old
// tombstones, and writes the principal and the lifetime. `lifetime` names three parameters: whether the session gets a
// new lifetime, its own idle time or null, and its absolute time. Only a new lifetime may make an expiration earlier.
interface SaveParts {
  readonly changes: string
  readonly lifetime?: NewLifetime
  readonly durability?: Durability
}

type NewLifetime = readonly [begins: string, idle: string, absolute: string]

const saved = (
  schema: string,
  isAlive: string,
  { changes, lifetime, durability = 'full' }: SaveParts,
): string => {
  const { cte, from } = commitParts(durability)
  return `
with ${cte}head as (
  update ${schema}.session s
  set revision = revision + 1, ${lifetime === undefined ? `expires_at = ${extendedExpiry('$3')}` : newLifetime(lifetime)},
      recent_saves = ${withSave('$4')}${from}
  where id = $1::uuid and ${isAlive}
    and (not $7::boolean or ${baseRevision('s', '$5', '$6')} = revision) and not ${isRecent('$4')}
    and revision - $5::float8 < ${String(RECENT_SAVES)}
  returning revision, expires_at, ${baseRevision('s', '$5', '$6')} as since
), written as (
  insert into ${schema}.entry (session_id, key, value, revision)
  select $1::uuid, e.key, e.value -> 0, head.revision
  from head cross join jsonb_each($2::text::jsonb) as e
  on conflict (session_id, key) do update set value = excluded.value, revision = excluded.revision
)${lifetime === undefined ? '' : maintenance(schema, lifetime)}
select head.revision::float8 as revision, ${epoch('head.expires_at')} as expiration, head.since,
       case when head.since = head.revision - 1 then head.since
            else (select revision::float8 from ${schema}.session where id = $1::uuid) end as seen,
       case when head.since between 1 and head.revision - 2 then ${changes} end as changes
from head`
}

const newLifetime = ([begins, idle, absolute]: NewLifetime): string => `
      expires_at = case when ${begins}::boolean then ${initialExpiry(`coalesce(${idle}::float8, $3::float8)`, absolute)} else ${extendedExpiry('$3')} end,
      absolute_expires_at = case when ${begins}::boolean then now() + ${ms(absolute)} else absolute_expires_at end,
      idle_ms = case when ${begins}::boolean then ${idle}::float8 else idle_ms end`

// The condition on the revision is checked before the scan. In most full saves it is false, and no entry is read.
const maintenance = (schema: string, [begins]: NewLifetime): string => `, tombstones as (
  delete from ${schema}.entry e
  where (select head.revision % ${String(TOMBSTONE_REVISIONS)} = 0 from head)
    and e.session_id = $1::uuid and e.value is null
    and e.revision <= (select head.revision from head) - ${String(TOMBSTONE_REVISIONS)}
    and not $2::text::jsonb ? e.key
), listed as (
  insert into ${schema}.listing (session_id, principal, collect_at)
  select $1::uuid, $2::text::jsonb -> '${PRINCIPAL}' ->> 0, head.expires_at
  from head where $2::text::jsonb ? '${PRINCIPAL}' or ${begins}::boolean
  on conflict (session_id) do update
  set principal = case when $2::text::jsonb ? '${PRINCIPAL}' then excluded.principal else listing.principal end,
      collect_at = case when ${begins}::boolean then excluded.collect_at else listing.collect_at end
)`

const changesOfAll = (schema: string): string => changesSince(schema, '$1::uuid', 'head.since')

const changesOfSome = (schema: string): string =>
  changesOfKeysSince(schema, '$1::uuid', 'head.since', [keysArray('$8'), "'{}'"])

const locked = (schema: string, isAlive: string, more: readonly string[] = []): string => `
select ${[
  'revision::float8 as revision',
  `${epoch('expires_at')} as expiration`,
  `${isRecent('$2')} as done`,
  `${baseRevision('s', '$3', '$4')} as since`,
  ...more,
].join(',\n       ')}
from ${schema}.session s
where id = $1::uuid and ${isAlive}
for no key update`

/** Limits a timeout to some seconds for the rest of the transaction. A shorter timeout is not changed. */
export const atMost = (timeout: string, name: string, seconds = 5): string =>
  `case when extract(epoch from current_setting('${timeout}', true)::interval) not between 0.001 and ${String(seconds)}
            then set_config('${timeout}', '${String(seconds * 1_000)}', true) end as ${name}`

export const saveStatements = statementsOf('session', {
  // $1 id, $2 `{"key": [value], "deletedKey": []}`, $3 idle time, $4 idempotency key, $5 base revision, $6 version tag
  // of $5, $7 whether the header must still have revision $5. $7 is true in a save of updates without the row lock,
  // since the new values were computed from the base revision. The result has no row if the session is gone, has
  // another revision although $7 is true, or already has this save. There is also no row if the base revision is so old
  // that the header may have lost the idempotency key of this save. A deletion is an upsert too, since a DELETE would
  // miss a row that a concurrent save inserted. `changes` and the revision `seen` come from the statement's snapshot.
  // If this save waited for other saves, `seen` is not the revision before this save, and `changes` lacks their writes.
  // `since` is computed after this save, so 63 other saves after the base revision make it 0.
  save: (schema, isAlive, durability) =>
    saved(schema, isAlive, { changes: changesOfAll(schema), durability }),

  // Like `save`, with $8 loaded keys. `changes` has only these keys.
  saveKeys: (schema, isAlive, durability) =>
    saved(schema, isAlive, { changes: changesOfSome(schema), durability }),

  saveFull: (schema, isAlive, durability) =>
    saved(schema, isAlive, { changes: changesOfAll(schema), lifetime: ['$8', '$9', '$10'], durability }),

  saveKeysFull: (schema, isAlive, durability) =>
    saved(schema, isAlive, { changes: changesOfSome(schema), lifetime: ['$9', '$10', '$11'], durability }),

  // $1 id, $2 idempotency key, $3 base revision, $4 version tag of $3. This statement begins the transaction of a save
  // under the row lock. If the client then sends nothing for five seconds, the server ends the transaction. Since
  // PostgreSQL 17, five seconds are also the limit of the whole transaction.
  lock: (schema, isAlive) =>
    locked(schema, isAlive, [
      atMost('idle_in_transaction_session_timeout', 'idle'),
      atMost('transaction_timeout', 'bound'),
    ]),

  // Like `lock`, but in a transaction of the program. The timeouts of this transaction are not changed.
  lockInTransaction: (schema, isAlive) => locked(schema, isAlive),

  // $1 id, $2 revision. The second statement of a save under the row lock. It sees every commit that preceded the lock.
  changes: (schema) =>
    `select ${changesSince(schema, '$1::uuid', '$2::float8')} as changes where ${ON_PRIMARY}`,

  // $1 id, $2 revision, $3 wanted keys, $4 wanted keys that are not loaded
  changesOfKeys: (schema) =>
    `select ${changesOfKeysSince(schema, '$1::uuid', '$2::float8', [keysArray('$3'), keysArray('$4')])} as changes where ${ON_PRIMARY}`,
})

type SaveStatements = ReturnType<typeof saveStatements>

export interface Saving {
  readonly database: Database
  readonly sql: SaveStatements
  /** The statements for a save of a principal or a lifetime, which always waits until it is on disk. */
  readonly durable: SaveStatements
  readonly lifetime: Lifetime
  readonly refresh: SessionStore['refresh']
}

type Outcome<L = never> = TE.TaskEither<L | DriverError, SavedSnapshot>

type SaveError = StoreError | SessionGone | SaveConflict

export const saveOver =
  (saving: Saving) =>
  (id: SessionId, change: Change): Attempt<SaveError, SavedSnapshot> =>
  (mayBeDone) =>
    save(saving, id, mayBeDone ? { ...change, mayBeDone } : change)

const save = (saving: Saving, id: SessionId, change: Change): Promise<E.Either<SaveError, SavedSnapshot>> => {
  const { database, refresh } = saving
  const underLock = () => database.transaction((tx) => lockAndReapply(saving, tx, id, change))()
  // For the update of an unloaded key, the value must first be read under the lock.
  if (hasUnloadedUpdates(change.since, change.edits)) return underLock()
  return write(saving, database, id, change, hasUpdates(change.edits))().then(
    (rows): E.Either<SaveError, SavedSnapshot> | Promise<E.Either<SaveError, SavedSnapshot>> => {
      if (E.isLeft(rows)) return rows
      const [row] = rows.right
      if (row === undefined) return underLock()
      const saved = mergedWithoutRead(change, change.save, row)
      return saved === undefined
        ? afterWrite(merged(refresh, id, change, change.save, row))()
        : E.right(saved)
    },
  )
}

/** If the read after a write fails, the save may be done, so the effect is `unknown`. */
const afterWrite = <A>(reading: TE.TaskEither<StoreError, A>): TE.TaskEither<StoreError, A> =>
  pipe(
    reading,
    TE.mapLeft((error) => (error instanceof DriverError ? withEffect(error, 'unknown') : error)),
  )

const write = (
  { sql, durable, lifetime }: Saving,
  database: Queryable,
  id: SessionId,
  { edits, entries, save, since }: Change,
  onlyAtRevision: boolean,
): TE.TaskEither<DriverError, readonly WrittenRow[]> => {
  const { revision, versionTag, keys } = since
  const params = [id, editsParam(edits, entries), lifetime.idleMs, save, revision, versionTag, onlyAtRevision]
  const loaded = keys === undefined ? [] : [texts([...keys])]
  const statements = edits.has(PRINCIPAL) || edits.has(LIFETIME) ? durable : sql
  const [plain, full] =
    keys === undefined
      ? [statements.save, statements.saveFull]
      : [statements.saveKeys, statements.saveKeysFull]
  return needsFullSave(edits, revision)
    ? readWritten(database, full, [...params, ...loaded, ...lifetimeParams(lifetime, edits, entries)])
    : readWritten(database, plain, [...params, ...loaded])
}

const readWritten = rowsAs(WrittenRow)

/** Returns three parameters: whether the session gets a new lifetime, its own idle time, and its absolute time. */
const lifetimeParams = (lifetime: Lifetime, edits: Edits, entries: Entries): readonly Param[] => {
  const own = ownLifetimeOf(entries)
  return [edits.has(LIFETIME), own?.idleMs ?? null, (own ?? lifetime).absoluteMs]
}

// Whether the save writes the principal or the lifetime, or may reach a revision at which tombstones are deleted. Other
// requests may have saved meanwhile, so the new revision is up to `RECENT_SAVES` higher than `revision`.
const needsFullSave = (edits: Edits, revision: number): boolean =>
  edits.has(PRINCIPAL) ||
  edits.has(LIFETIME) ||
  revision % TOMBSTONE_REVISIONS >= TOMBSTONE_REVISIONS - RECENT_SAVES

type Made = Pick<Change, 'edits' | 'entries' | 'since'>

/** Returns the snapshot after a save in one statement, without the changes of other requests. */
const written = (
  { edits, entries, since }: Made,
  versionTag: IdempotencyKey,
  { revision, expiration }: WrittenRow,
): Snapshot =>
  makeSnapshot({ revision, expiration, touchDue: false, versionTag }, entries, keysAfter(since, edits))

// Returns the snapshot after a save, with the changes of other requests. If the row may lack some of these changes, the
// result is `undefined`, and the caller reads the session again.
export const mergedWithoutRead = (
  made: Made,
  versionTag: IdempotencyKey,
  row: WrittenRow,
): Snapshot | undefined => {
  const { edits, since } = made
  if (row.since !== since.revision || row.seen !== row.revision - 1) return undefined
  return row.changes === null
    ? written(made, versionTag, row)
    : written(
        { edits, since, entries: applyEdits(edits, entriesAfter(since, since.keys, row)) },
        versionTag,
        row,
      )
}

// Reads the session again after a save. If the session has ended before this read, the snapshot lacks the changes of
// other requests.
export const merged = (
  refresh: SessionStore['refresh'],
  id: SessionId,
  made: Made,
  versionTag: IdempotencyKey,
  row: WrittenRow,
): TE.TaskEither<StoreError, Snapshot> =>
  pipe(
    refresh(id, made.since, keysAfter(made.since, made.edits)),
    TE.map(O.getOrElse(() => written(made, versionTag, row))),
  )

const lockAndReapply = (
  saving: Saving,
  tx: Queryable,
  id: SessionId,
  change: Change,
): Outcome<SessionGone> => {
  const { save, since, mayBeDone = false } = change
  return pipe(
    optionalRowAs(LockedRow)(tx, lockOf(saving), [id, save, since.revision, since.versionTag]),
    TE.chainW(TE.fromOption(() => new SessionGone(id))),
    TE.filterOrElseW(
      ({ revision, done }) => done || !mayBeDone || revision - since.revision < RECENT_SAVES,
      () => undecidable(saving),
    ),
    TE.bindTo('locked'),
    TE.bindW('present', ({ locked }) => presentOf(saving, tx, id, change, locked)),
    TE.chainW(({ locked, present: snapshot }) => {
      return locked.done ? TE.right(snapshot) : writeLocked(saving, tx, id, change, snapshot)
    }),
  )
}

const lockOf = ({ sql, database }: Saving): Query =>
  database.transactionScope === undefined ? sql.lock : sql.lockInTransaction

const undecidable = ({ sql }: Saving): DriverError =>
  new DriverError(
    `${sql.save.name}: its first attempt got no answer, and since then too many saves were made: ` +
      'it is unknown whether that attempt was stored',
    { retryable: false },
  )

/** Returns the locked session with all entries, or with the loaded and edited ones. Reads only the newer entries. */
const presentOf = (
  { sql }: Saving,
  tx: Queryable,
  id: SessionId,
  { since: known, edits, save }: Change,
  { revision, expiration, since }: LockedRow,
): TE.TaskEither<DriverError, Snapshot> => {
  const keys = keysAfter(known, edits)
  // The version tag is the idempotency key of this save, so it is valid only after the write. No read uses it earlier.
  const header = { revision, expiration, touchDue: false, versionTag: save }
  return pipe(
    keys === undefined
      ? rowAs(ChangesRow)(tx, sql.changes, [id, since])
      : rowAs(ChangesRow)(tx, sql.changesOfKeys, [id, since, ...keysParams(keys, known)]),
    TE.map(({ changes }) => makeSnapshot(header, entriesAfter(known, keys, { since, changes }), keys)),
  )
}

const writeLocked = (
  saving: Saving,
  tx: Queryable,
  id: SessionId,
  change: Change,
  since: Snapshot,
): Outcome<SessionGone> => {
  const entries = applyEdits(change.edits, since.entries)
  return pipe(
    write(saving, tx, id, { ...change, since, entries }, false),
    TE.chainW(([row]) => (row === undefined ? TE.left(new SessionGone(id)) : TE.right(row))),
    TE.map(({ revision, expiration }) => {
      const header = { revision, expiration, touchDue: false, versionTag: change.save }
      return { ...makeSnapshot(header, entries, since.keys), rounds: 2 }
    }),
  )
}
