// Implements late saves over a `Database`. A save is late if it was answered before the database had it.

import { DriverError, type SaveConflict, SessionGone, type StoreError } from '../core/errors.js'
import { O, pipe, TE, t } from '../core/prelude.cjs'
import { emptySnapshot } from '../core/session.js'
import type { IdempotencyKey, SessionId } from '../core/token.js'
import { type Database, ON_PRIMARY, unnested } from '../db/database.js'
import type {
  Change,
  LateSaves,
  LateState,
  Lifetime,
  SavedSnapshot,
  SessionStore,
} from '../store/contract.js'
import { type BatchStatements, Ordinal, saveParams } from './batch.js'
import { baseRevision, FENCE_TIME, statementsOf, versionTagOf } from './fragments.js'
import { array, optionalRowAs, rowsAs, texts } from './rows.js'
import { atMost } from './save.js'

export const lateStatements = statementsOf('late', {
  // $1 id, $2 array of idempotency keys, as text, $3 revision, $4 version tag of $3. `stored` has a space between two keys.
  // `changed` is a JSON array. A deleted key is in it too, since its tombstone has the revision of the deletion.
  find: (schema) => `
select s.revision::float8 as revision, ${versionTagOf('s.recent_saves')} as "versionTag",
       (select coalesce(string_agg(i.save, ' '), '') from ${unnested(['$2', 'text'])} as i (save)
        where decode(i.save, 'hex') in (select substring(l.save from 8 * n - 7 for 8) from ${schema}.late_save l
          cross join generate_series(1, length(l.save) / 8) as n where l.session_id = $1::uuid)) as stored,
       case when ${baseRevision('s', '$3', '$4')} = $3::float8
            then (select coalesce(json_agg(e.key), '[]')::text from ${schema}.entry e
                  where e.session_id = $1::uuid and e.revision > $3::float8) end as changed
from ${schema}.session s
where s.id = $1::uuid and s.expires_at > now() and ${ON_PRIMARY}`,

  // $1 id. Locks the header, as every save does. So the next statement sees each late save that came before. The timeout
  // is set before the lock is waited for, since PostgreSQL computes the row first.
  lock: (schema, isAlive) => `
select s.id::text as id, ${atMost('lock_timeout', 'wait', 2)},
       ${atMost('idle_in_transaction_session_timeout', 'idle')}, ${atMost('transaction_timeout', 'bound')}
from ${schema}.session s where s.id = $1::uuid and ${isAlive} for no key update`,

  // $1 id, $2 idempotency key. Inserts no row if the save is remembered already. The header is locked.
  remember: (schema) => `
insert into ${schema}.late_save (session_id, save, stored_at)
select $1::uuid, decode($2::text, 'hex'), now()
where not exists (select from ${schema}.late_save
                  where session_id = $1::uuid and position(decode($2::text, 'hex') in save) > 0)
returning true as is_new`,

  // At most 10,000 saves at a time, so that the statement is short.
  forget: (schema) => `
delete from ${schema}.late_save
where ctid = any(array(select ctid from ${schema}.late_save where stored_at < now() - ${FENCE_TIME} limit 10000))`,
})

/** The SQLSTATE of a statement that has waited too long for a lock. */
const LOCK_TIMEOUT = '55P03'

const StateRow = t.type({
  revision: t.number,
  versionTag: t.string,
  stored: t.string,
  changed: t.union([t.string, t.null]),
})

const stateOf = ({ revision, versionTag, stored, changed }: t.TypeOf<typeof StateRow>): LateState => ({
  revision,
  versionTag: versionTag as IdempotencyKey,
  stored: stored.split(' ').filter((save) => save !== '') as IdempotencyKey[],
  changed: changed === null ? undefined : (JSON.parse(changed) as string[]),
})

interface LateParts {
  readonly database: Database
  readonly sql: ReturnType<typeof lateStatements>
  readonly batch: Pick<BatchStatements, 'saveLate'>
  readonly lifetime: Lifetime
  readonly refresh: SessionStore['refresh']
  /** The session store's operations in a transaction. */
  readonly inside: (tx: Database) => Pick<SessionStore, 'save' | 'refresh'>
}

export const lateOver = (parts: LateParts): LateSaves => ({
  ...storing(parts),
  save: saving(parts),
  locked: (id, task) =>
    pipe(
      parts.database.transaction((tx) =>
        pipe(
          locked(parts, tx, id),
          TE.chain(
            O.traverse(TE.ApplicativeSeq)(() =>
              task({ ...storing({ ...parts, database: tx }), refresh: parts.inside(tx).refresh }),
            ),
          ),
        ),
      ),
      TE.orElseW((error) =>
        error instanceof DriverError && error.sqlState === LOCK_TIMEOUT
          ? TE.right('busy' as const)
          : TE.left(error),
      ),
    ),
  forget: pipe(
    parts.database.query(parts.sql.forget, []),
    TE.map(() => undefined),
  ),
})

const storing = ({ database, sql, batch, lifetime }: LateParts): Pick<LateSaves, 'store' | 'find'> => ({
  store: (requests) =>
    pipe(
      rowsAs(Ordinal)(database, batch.saveLate, [
        ...saveParams(requests, lifetime.idleMs, true),
        array(requests.map(({ saves }) => saves.join(''))),
      ]),
      TE.map((rows) => {
        const ordinals = new Set(rows.map(({ n }) => n))
        return requests.map((_, index) => ordinals.has(index + 1))
      }),
    ),
  find: (id, { revision, versionTag }, saves) =>
    pipe(
      optionalRowAs(StateRow)(database, sql.find, [id, texts(saves), revision, versionTag]),
      TE.map(O.map(stateOf)),
    ),
})

const locked = ({ sql }: LateParts, tx: Database, id: SessionId) =>
  optionalRowAs(t.type({ id: t.string }))(tx, sql.lock, [id])

const saving =
  (parts: LateParts): LateSaves['save'] =>
  (id, change) =>
    pipe(
      parts.database.transaction((tx) => saveOnce(parts, tx, id, change)),
      TE.chainW((saved): ReturnType<LateSaves['save']> => {
        if (saved !== 'done') return TE.right(saved)
        const found = parts.refresh(id, emptySnapshot)
        return pipe(found, TE.chainW(TE.fromOption((): SessionGone => new SessionGone(id))))
      }),
    )

/** Saves a change in a transaction, unless the change is remembered (`done`). The lock on the header comes first. */
const saveOnce = (
  parts: LateParts,
  tx: Database,
  id: SessionId,
  change: Change,
): TE.TaskEither<StoreError | SessionGone | SaveConflict, SavedSnapshot | 'done'> =>
  pipe(
    locked(parts, tx, id),
    TE.chainW(TE.fromOption(() => new SessionGone(id))),
    TE.chainW(() => tx.query(parts.sql.remember, [id, change.save])),
    TE.chainW(
      (rows): TE.TaskEither<StoreError | SessionGone | SaveConflict, SavedSnapshot | 'done'> =>
        rows.length > 0 ? parts.inside(tx).save(id, change) : TE.right('done'),
    ),
  )
