// Implements the commands `sessions`, `show` and `schema`. Only `show --values` reads the values of a session.

import type { ReadonlyNonEmptyArray } from 'fp-ts/lib/ReadonlyNonEmptyArray.js'
import { SchemaMismatch } from '../core/errors.js'
import { A, pipe, TE } from '../core/prelude.cjs'
import { RELEASE } from '../core/process.js'
import { LATEST } from '../sql/migrations.js'
import { bare, type MadeVersion, schemaState, upgradeSchema } from '../sql/schema.js'
import { adminOver, type SessionSummary, type ShownRow } from './admin.js'
import type { CommandOf } from './arguments.js'
import { type Context, onCurrentSchema, type Task } from './open.js'
import { duration, EXIT, iso, joined, pairs, plural, Rejection, size, table, time } from './terminal.js'

export const sessions = (context: Context, { principal, limit }: CommandOf<'sessions'>): Task =>
  pipe(
    adminOver(context.database, context.schema).sessions(limit + 1, principal),
    TE.map((found) => listed(found.slice(0, limit), found.length > limit)),
    onCurrentSchema(context),
  )

const listed = (found: readonly SessionSummary[], more: boolean) => ({
  data: {
    sessions: found.map((one) => ({ ...one, created: iso(one.created), expiration: iso(one.expiration) })),
    more,
  },
  text: () => {
    const rows = found.map(({ id, created, expiration, keys, bytes, principal }) => [
      id,
      time(created),
      time(expiration),
      keys,
      bytes,
      principal ?? '',
    ])
    return found.length === 0
      ? 'There are no live sessions.'
      : joined(
          table(['ID', 'CREATED', 'EXPIRES', 'KEYS', 'BYTES', 'PRINCIPAL'], rows),
          more && 'There are more; say --limit N.',
        )
  },
})

export const show = (context: Context, { id, values }: CommandOf<'show'>): Task =>
  pipe(
    adminOver(context.database, context.schema).show(id, values),
    TE.filterOrElseW(A.isNonEmpty, () => new Rejection(EXIT.notFound, `there is no session ${id}`)),
    TE.map((rows) => shown(rows, values)),
    onCurrentSchema(context),
  )

const shown = (rows: ReadonlyNonEmptyArray<ShownRow>, values: boolean) => {
  const [head] = rows
  const { id, principal, live, revision } = head
  const times = { created: iso(head.created), expiration: iso(head.expiration), absolute: iso(head.absolute) }
  const stored = rows.flatMap(({ key, bytes, value }) =>
    key === null ? [] : [{ key, bytes: bytes ?? 0, value: value ?? 'null' }],
  )
  const entries = stored.map(({ value, ...entry }) =>
    values ? { ...entry, value: JSON.parse(value) as unknown } : entry,
  )
  const lines = stored.map(({ key, bytes, value }) => [bytes, key, ...(values ? [value] : [])])
  return {
    data: { id, principal, live, ...times, revision, entries },
    text: () =>
      joined(
        headOf(head, entries),
        lines.length > 0 && `\n${table(['BYTES', 'KEY', ...(values ? ['VALUE'] : [])], lines)}`,
      ),
  }
}

const headOf = (head: ShownRow, entries: readonly { readonly bytes: number }[]): string => {
  const total = entries.reduce((sum, { bytes }) => sum + bytes, 0)
  return pairs([
    ['id', head.id],
    ['principal', head.principal ?? ''],
    ['created', time(head.created)],
    ['expires', `${time(head.expiration)}${head.live ? '' : ' (it has expired)'}`],
    ['at the latest', time(head.absolute)],
    ['revision', String(head.revision)],
    ['holds', `${plural(entries.length, 'key')}, ${size(total)}`],
  ])
}

// The schema commands do not need tables of this release's version. Only `schema upgrade` changes the database.

const STATES = {
  current: 'current',
  missing: 'missing: keyrow schema upgrade creates the tables',
  older: 'older: keyrow schema upgrade upgrades the tables',
  newer: 'newer: a newer release of keyrow is needed',
  foreign: "foreign: its tables are not keyrow's",
}

const stateOf = (version: number): keyof typeof STATES => {
  if (version === 0) return 'missing'
  if (version === LATEST) return 'current'
  return version < LATEST ? 'older' : 'newer'
}

export const schemaStatus = ({ database, schema }: Context): Task =>
  pipe(
    schemaState(database, schema),
    TE.map(({ version, made }) => statusOf(bare(schema), stateOf(version), { version, versions: made })),
    TE.orElse((error) =>
      error instanceof SchemaMismatch
        ? TE.right(statusOf(bare(schema), 'foreign', { problem: error.problem }))
        : TE.left(error),
    ),
  )

interface Found {
  readonly version?: number
  readonly problem?: string
  readonly versions?: readonly MadeVersion[]
}

const statusOf = (schema: string, state: keyof typeof STATES, { version, problem, versions = [] }: Found) => {
  const made = versions.map((one) => ({ ...one, madeAt: iso(one.madeAt) }))
  const history = versions.map((one) => [one.version, time(one.madeAt), one.madeBy])
  return {
    data: { schema, state, version: version ?? null, made, problem, wanted: LATEST, release: RELEASE },
    text: () =>
      joined(
        pairs([
          ['schema', schema],
          ['state', STATES[state]],
          ['version', String(version ?? 'none')],
          ['wanted', `${String(LATEST)} by keyrow ${RELEASE}`],
          ...(problem === undefined ? [] : [['problem', problem] as const]),
        ]),
        history.length > 0 && `\n${table(['VERSION', 'MADE AT', 'BY KEYROW'], history)}`,
      ),
    exitCode: state === 'current' ? EXIT.done : EXIT.schema,
  }
}

export const schemaUpgrade = ({ database, schema, terminal }: Context): Task => {
  const upgrade = pipe(
    upgradeSchema(database, schema),
    TE.map(({ from, to }) => ({
      data: { schema: bare(schema), from, to },
      text: () =>
        from === to
          ? `Schema ${bare(schema)} has version ${String(to)} already.`
          : `Schema ${bare(schema)}: version ${String(to)}, before ${from === 0 ? 'none' : String(from)}.`,
    })),
  )
  // One statement may take minutes, so a timer reports the progress.
  return async () => {
    const began = performance.now()
    const report = (): void => terminal.progress(`upgrading for ${duration(performance.now() - began)}`)
    const timer = setInterval(report, 500)
    try {
      return await upgrade()
    } finally {
      clearInterval(timer)
    }
  }
}
