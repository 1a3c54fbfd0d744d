// Tests settings of a role. They change no value that is read or written, or keyrow rejects them with a clear error.
// Each relevant setting is set on a role, and then all operations run as this role.

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { PGlite } from '@electric-sql/pglite'
import * as E from 'fp-ts/lib/Either.js'
import { pipe } from 'fp-ts/lib/function.js'
import * as TE from 'fp-ts/lib/TaskEither.js'
import * as io from 'io-ts'
import t, { type Test } from 'tap'
import { doctor } from '../lib/cli/doctor.js'
import type { Database } from '../lib/db/database.js'
import { pgDatabase } from '../lib/db/pg.js'
import { pgliteDatabase } from '../lib/db/pglite.js'
import { postgresDatabase } from '../lib/db/postgres/index.js'
import {
  buildSession,
  destroySession,
  destroySessionsOf,
  loadSession,
  saveSession,
  sessionFor,
  sessionSet,
  sessionsOf,
  sessionToken,
  sessionUpdate,
} from '../lib/index.js'
import {
  array,
  boolean,
  bytea,
  enumeration,
  float8,
  int4,
  int8,
  jsonb,
  nullable,
  record,
  text,
  textual,
  timestamptz,
  uuid,
} from '../lib/records/index.js'
import { sessionStore } from '../lib/sql/store.js'
import { pgPool, quietPool, rowsOf, type ServerDriver, serverDrivers } from './support/databases.js'
import { newDatabase } from './support/postgres-server.js'
import { type RoleSettings, roleWith } from './support/roles.js'
import { freshSchema, left, right } from './support/stores.js'

const server = await newDatabase()
const admin = postgresDatabase(quietPool(server.url, { max: 1 }))
t.teardown(async () => {
  await right(admin.close)
  await server.stop()
})

const schema = freshSchema()
await rowsOf(admin, `create schema ${schema}`)
await rowsOf(admin, `create type ${schema}.mood as enum ('good', 'bad')`)

const kinds = record({
  table: `${schema}.kinds`,
  key: 'id',
  columns: {
    id: uuid,
    text,
    int4,
    int8,
    float8,
    boolean,
    timestamptz,
    bytea,
    json: jsonb(io.type({ n: io.number })),
    mood: enumeration(`${schema}.mood`, ['good', 'bad']),
    price: textual('numeric', io.string),
    none: nullable(text),
    texts: array(nullable(text)),
    floats: array(float8),
    times: array(timestamptz),
    blobs: array(bytea),
  },
})
await rowsOf(
  admin,
  `create table ${schema}.kinds (id uuid primary key, text text, int4 int4, int8 int8, float8 float8, "boolean" boolean,
     timestamptz timestamptz, bytea bytea, json jsonb, mood ${schema}.mood, price numeric, none text,
     texts text[], floats float8[], times timestamptz[], blobs bytea[])`,
)

const bytes = Uint8Array.from({ length: 256 }, (_, index) => index)
const time = new Date('2026-02-03T04:05:06.789Z')

const given = (id: string) => ({
  id,
  text: 'back\\slash, "quote" and \'quote\'',
  int4: -7,
  int8: 2n ** 62n,
  float8: 0.1 + 0.2,
  boolean: true,
  timestamptz: time,
  bytea: bytes,
  json: { n: 1e-7 },
  mood: 'bad' as const,
  price: '12.50',
  none: null,
  texts: ['a', null, 'NULL', '\\'],
  floats: [0.1 + 0.2, Number.NaN, -1e300],
  times: [time],
  blobs: [bytes, Uint8Array.of(92, 120, 48)],
})

const records = async (t: Test, database: Database): Promise<void> => {
  const id = crypto.randomUUID()
  const values = given(id)
  const build = TE.fromEither(kinds.build(database, values))
  const saved = await right(pipe(build, TE.chainW(kinds.save)))
  t.match(saved, values)
  const [key] = [kinds.id(id)].filter(E.isRight)
  const [found] = await right(kinds.findMany(database, [key?.right as typeof saved.id]))
  t.match(found, { _tag: 'Some', value: values })
  const edited = pipe(
    saved,
    kinds.set('bytea', Uint8Array.of(0, 255)),
    kinds.update('float8', (n) => n * 3),
    kinds.set('texts', [null, 'x']),
  )
  await right(kinds.save(edited))
  const again = await right(kinds.save(kinds.update('float8', (n) => n + 1)(saved)))
  t.match(again, {
    bytea: Uint8Array.of(0, 255),
    float8: (0.1 + 0.2) * 3 + 1,
    texts: [null, 'x'],
  })
  await right(kinds.destroy(again))
}

/** SQL expressions for values of each type that a driver decodes. */
const queries: Readonly<Record<string, string>> = {
  bool: 'true',
  int2: '7::int2',
  int4: '-7::int4',
  int8: '9007199254740993::int8',
  float4: '0.1::float4',
  float8: '0.1::float8 + 0.2::float8',
  numeric: '1.10::numeric',
  text: `E'back\\\\slash'::text`,
  char: `'x'::char(3)`,
  uuid: `'4A0E7F68-1111-4111-8111-111111111111'::uuid`,
  json: `'{"a": [1, null]}'::json`,
  jsonb: `'{"a": [1, null]}'::jsonb`,
  bytea: `decode('${Buffer.from(bytes).toString('hex')}', 'hex')`,
  backslashes: `decode('5c783431', 'hex')`,
  date: `make_date(2026, 2, 3)`,
  timestamp: 'make_timestamp(2026, 2, 3, 4, 5, 6.789)',
  timestamptz: `timestamptz '2026-02-03T04:05:06.789Z'`,
  time: 'make_time(4, 5, 6.7)',
  interval: `make_interval(days => 1, secs => -2)`,
  money: '12.5::numeric::money',
  inet: `'10.0.0.1'::inet`,
  xml: `'<a/>'::xml`,
  xmlbytes: `xmlelement(name a, decode('ff', 'hex'))`,
  point: 'point(0.1, 0.2)',
  range: 'int4range(1, 3)',
  array: 'array[1, null, 3]',
  texts: `array['a', null, 'NULL']::text[]`,
  bit: `b'101'`,
}

const asked = `select ${Object.entries(queries)
  .map(([name, expression]) => `${expression} as ${name.toLowerCase()}`)
  .join(', ')}`

const [expected = {}] = await rowsOf(admin, asked)

const sessions = async (t: Test, database: Database): Promise<void> => {
  const principal = crypto.randomUUID()
  const store = sessionStore(database, { schema })
  const first = pipe(
    buildSession(store),
    sessionFor(principal),
    sessionSet('text', 'back\\slash "quote"'),
    sessionSet('n', 0.1 + 0.2),
  )
  const session = await right(saveSession(first))
  const token = sessionToken(session)
  await right(saveSession(sessionUpdate('count', (n) => Number(n) + 1, 0)(session)))
  await right(saveSession(sessionUpdate('count', (n) => Number(n) + 1, 0)(session)))
  const found = await right(loadSession(store, token))
  t.match(found, { _tag: 'Some', value: { id: session.id } })
  const values = found._tag === 'Some' ? found.value.store.toObject() : {}
  t.match(values, { text: 'back\\slash "quote"', n: 0.1 + 0.2, count: 2 })
  const [listed] = await right(sessionsOf(store, principal))
  t.ok(Math.abs((listed?.createdAt ?? 0) - Date.now()) < 60_000)
  t.ok(Math.abs((listed?.expiration ?? 0) - Date.now() - 30 * 60_000) < 60_000)
  t.equal((await right(destroySessionsOf(store, principal))).length, 1)
  t.equal((await right(loadSession(store, token)))._tag, 'None')
  const other = await right(saveSession(sessionSet('a', 1)(buildSession(store))))
  await right(destroySession(other))
  await right(store.deleteExpired(10))
  const left = `select 1 from ${schema}.entry where session_id in ('${session.id}', '${other.id}')`
  t.strictSame(await rowsOf(admin, left), [])
}

const diagnosis = async (t: Test, database: Database): Promise<void> => {
  const terminal = {
    print: () => 0,
    fail: () => 1,
    progress: () => undefined,
    canAsk: false,
    ask: () => Promise.resolve(false),
  }
  const context = { database, schema: `"${schema}"`, terminal, signal: new AbortController().signal }
  const { data, exitCode } = await right(doctor(context))
  t.equal(exitCode, 0)
  const { checks } = data as { readonly checks: readonly { readonly state: string }[] }
  t.strictSame(
    checks.filter(({ state }) => state === 'problem'),
    [],
  )
}

const opened = async (t: Test, driver: ServerDriver, settings: RoleSettings): Promise<Database> => {
  const { url } = await roleWith(server.url, settings)
  const database = driver.open(url, { max: 2, fixed: true })
  t.teardown(() => database.close())
  return database
}

await right(sessionStore(admin, { schema }).prepare)

/** Settings that change no value. Each line names the types whose text may differ. */
const harmless: readonly (readonly [RoleSettings, ...string[]])[] = [
  [{}],
  [{ bytea_output: 'escape' }],
  [{ quote_all_identifiers: 'on' }],
  [{ standard_conforming_strings: 'off', escape_string_warning: 'off', backslash_quote: 'off' }],
  [{ standard_conforming_strings: 'off', escape_string_warning: 'on', backslash_quote: 'on' }],
  [{ datestyle: 'SQL, DMY' }],
  [{ datestyle: 'German' }],
  [{ datestyle: 'Postgres, MDY' }],
  [{ intervalstyle: 'iso_8601' }, 'interval'],
  [{ intervalstyle: 'sql_standard' }, 'interval'],
  [{ timezone: 'Asia/Kathmandu' }],
  [{ timezone: 'America/St_Johns', timezone_abbreviations: 'India', datestyle: 'German' }],
  [{ extra_float_digits: '3' }],
  [{ client_encoding: 'LATIN1' }],
  [{ client_encoding: 'SQL_ASCII' }],
  [{ xmlbinary: 'hex' }, 'xmlbytes'],
  [{ xmloption: 'document' }],
  [{ lc_monetary: 'C', lc_numeric: 'C', lc_time: 'C', lc_messages: 'C' }],
  [{ transform_null_equals: 'on' }],
  [{ search_path: '' }],
  [{ search_path: 'pg_temp, public, pg_catalog' }],
  [{ row_security: 'off' }],
  [{ plan_cache_mode: 'force_generic_plan' }],
  [{ plan_cache_mode: 'force_custom_plan', jit: 'on', jit_above_cost: '0' }],
  [{ default_transaction_isolation: 'repeatable read' }],
  [{ default_transaction_isolation: 'serializable', default_transaction_deferrable: 'on' }],
  [
    {
      statement_timeout: '30s',
      lock_timeout: '20s',
      idle_in_transaction_session_timeout: '20s',
      idle_session_timeout: '60s',
      transaction_timeout: '30s',
    },
  ],
  [{ client_min_messages: 'debug1' }],
  [{ synchronous_commit: 'off' }],
  [{ session_replication_role: 'local' }],
  [{ synchronize_seqscans: 'off', lo_compat_privileges: 'on', check_function_bodies: 'off' }],
  [{ restrict_nonsystem_relation_kind: 'view, foreign-table' }],
  [{ exit_on_error: 'on' }],
  [
    {
      default_toast_compression: 'pglz',
      gin_fuzzy_search_limit: '1',
      default_text_search_config: 'pg_catalog.simple',
    },
  ],
  [{ deadlock_timeout: '10ms' }],
  [{ enable_seqscan: 'off', enable_hashjoin: 'off', enable_sort: 'off', debug_parallel_query: 'on' }],
]

/** The driver on node-postgres does not set `DateStyle`, because its pool belongs to the program. */
const isHarmless = (driver: ServerDriver, settings: RoleSettings): boolean =>
  driver.name === 'postgres.js' || settings['datestyle'] === undefined

for (const driver of serverDrivers)
  for (const [settings, ...styled] of harmless.filter(([settings]) => isHarmless(driver, settings)))
    t.test(`${driver.name}: ${JSON.stringify(settings)} changes nothing`, async (t) => {
      const database = await opened(t, driver, settings)
      await sessions(t, database)
      await records(t, database)
      const [row = {}] = await rowsOf(database, asked)
      for (const [name, value] of Object.entries(expected))
        if (!styled.includes(name)) t.strictSame(row[name], value, name)
      await diagnosis(t, database)
      // The role can also create the tables.
      const own = freshSchema()
      await right(sessionStore(database, { schema: own }).prepare)
      const again = await opened(t, driver, settings)
      await right(sessionStore(again, { schema: own, upgradeSchema: false }).prepare)
    })

const numbers = `select 0.1::float8 + 0.2::float8 as n`
const nulls = 'select ($1::text::text[])[1] is null as yes'
const dates = 'select make_date(2026, 2, 3) as date'

/** Settings that keyrow rejects, with the error and the operations that still work. */
const refused: readonly (readonly [
  RoleSettings,
  RegExp,
  readonly ('numbers' | 'nulls' | 'dates' | 'sessions')[],
])[] = [
  [
    { extra_float_digits: '0' },
    /extra_float_digits is 0 and rounds numbers; set it to 1/,
    ['numbers', 'nulls', 'dates', 'sessions'],
  ],
  [{ extra_float_digits: '-15' }, /extra_float_digits is -15/, ['numbers', 'nulls', 'dates', 'sessions']],
  [{ array_nulls: 'off' }, /array_nulls is off/, ['numbers', 'nulls', 'dates', 'sessions']],
  [{ session_replication_role: 'replica' }, /session_replication_role .* is replica/, ['sessions']],
]

/** What `DateStyle` does to the driver on node-postgres. A date is never misread. */
const misread = harmless
  .filter(([settings]) => settings['datestyle'] !== undefined)
  .map(
    ([settings]) =>
      [
        settings,
        /DateStyle is .* and makes dates ambiguous; set it to ISO/,
        ['numbers', 'nulls', 'dates', 'sessions'],
      ] as const,
  )

const refusedBy = ({ name }: ServerDriver) => (name === 'postgres.js' ? refused : [...refused, ...misread])

const refusal = (driver: ServerDriver, [settings, message, what]: (typeof refused)[number]): void => {
  t.test(`${driver.name}: ${JSON.stringify(settings)} is refused`, async (t) => {
    const error = { _tag: 'DriverError', kind: 'setting', retryable: false, message }
    const asks: Readonly<Record<string, (database: Database) => TE.TaskEither<unknown, unknown>>> = {
      numbers: (database: Database) => database.query({ name: 'spec', text: numbers }, []),
      nulls: (database: Database) => database.query({ name: 'spec', text: nulls }, ['{NULL}']),
      dates: (database: Database) => database.query({ name: 'spec', text: dates }, []),
      sessions: (database: Database) =>
        saveSession(sessionSet('a', 1)(buildSession(sessionStore(database, { schema })))),
    }
    for (const [name, ask] of Object.entries(asks))
      for (const inside of [false, true]) {
        const database = await opened(t, driver, settings)
        t.strictSame(await rowsOf(database, 'select 1 as n'), [{ n: 1 }])
        const task = inside && name !== 'sessions' ? database.transaction((tx) => ask(tx)) : ask(database)
        if (what.some((one) => one === name)) {
          t.match(await left(task), error, name)
          t.match(await left(task), error, `${name}, again`)
        } else await right(task)
      }
  })
}

for (const driver of serverDrivers) for (const line of refusedBy(driver)) refusal(driver, line)

for (const driver of serverDrivers)
  t.test(`${driver.name}: a role that only reads loads, and cannot save`, async (t) => {
    const writer = sessionStore(admin, { schema })
    const session = await right(saveSession(sessionSet('a', 1)(buildSession(writer))))
    const database = await opened(t, driver, { default_transaction_read_only: 'on' })
    const store = sessionStore(database, { schema, retry: { attempts: 1 } })
    t.match(await right(loadSession(store, sessionToken(session))), { _tag: 'Some' })
    t.match(await left(saveSession(sessionSet('a', 2)(buildSession(store)))), {
      _tag: 'DriverError',
      sqlState: '25006',
      kind: 'unavailable',
      effect: 'none',
    })
  })

t.test("a pool's own setting is refused where it gives wrong values", async (t) => {
  const pool = (connection: Record<string, string>) => quietPool(server.url, { max: 1, connection })
  for (const connection of [{ client_encoding: 'LATIN1' }, { DateStyle: 'German' }, { datestyle: 'SQL' }]) {
    t.throws(() => postgresDatabase(pool(connection)), RangeError)
    t.throws(() => postgresDatabase(() => pool(connection)), RangeError)
  }
  for (const connection of [{ client_encoding: 'UTF8' }, { DateStyle: 'ISO, DMY' }, { work_mem: '8MB' }]) {
    const database = postgresDatabase(pool(connection))
    t.strictSame(await rowsOf(database, 'select make_date(2026, 2, 3) as date'), [
      { date: new Date('2026-02-03T00:00:00Z') },
    ])
    await right(database.close)
  }
})

t.test('node-postgres: a setting of the pool is used where it gives right values', async (t) => {
  for (const [options, isRight] of [
    ['-c work_mem=8MB', true],
    ['-c DateStyle=ISO,DMY', true],
    ['-c DateStyle=German', false],
    ['-c client_encoding=LATIN1', true],
  ] as const) {
    const database = pgDatabase(pgPool(server.url, { max: 1, options }))
    const text = `select make_date(2026, 2, 3) as date, U&'\\00e9\\4e2d' as text`
    const values = [{ date: new Date('2026-02-03T00:00:00Z'), text: 'é中' }]
    if (isRight) t.strictSame(await rowsOf(database, text), values, options)
    else t.match(await left(database.query({ name: 'spec', text }, [])), { kind: 'setting' }, options)
    await right(database.close)
  }
})

t.test('a directory of PGlite that has settings gives the same values', async (t) => {
  const directory = join(mkdtempSync(join(tmpdir(), 'keyrow-settings-')), 'data')
  t.teardown(() => rmSync(dirname(directory), { recursive: true, force: true }))
  const values = `select decode('00ff5c', 'hex') as bytes, 0.1::float8 + 0.2::float8 as float, make_date(2026, 2, 3) as date`
  const raw = await PGlite.create(directory)
  const settings = {
    bytea_output: 'escape',
    extra_float_digits: '-15',
    datestyle: 'German',
    quote_all_identifiers: 'on',
    standard_conforming_strings: 'off',
    session_replication_role: 'replica',
  }
  for (const [name, value] of Object.entries(settings))
    await raw.exec(`alter system set ${name} = '${value}'`)
  await raw.close()
  const database = pgliteDatabase(directory)
  t.teardown(() => database.close())
  t.strictSame(await rowsOf(database, `show quote_all_identifiers`), [{ quote_all_identifiers: 'on' }])
  t.strictSame(await rowsOf(database, values), [
    { bytes: Uint8Array.of(0, 255, 92), float: 0.1 + 0.2, date: new Date('2026-02-03T00:00:00Z') },
  ])
  const store = sessionStore(database)
  const session = await right(saveSession(sessionSet('a', 1)(buildSession(store))))
  await right(destroySession(session))
  t.strictSame(await rowsOf(database, 'select 1 from keyrow.entry'), [])
})

/** Categories of settings that change no value. */
const ELSEWHERE =
  /^(Query Tuning|Resource Usage|Reporting and Logging|Statistics|Vacuuming|Write-Ahead Log|Replication|Connections and Authentication|Developer Options)/

/** Settings for paths, new tables and running transactions, which change no value. */
const PLACES =
  /^(dynamic_library_path|extension_control_path|.*_preload_libraries|default_table.*|temp_tablespaces|createrole_self_grant|event_triggers|gin_pending_list_limit|icu_validation_level|transaction_(deferrable|isolation|read_only))$/

t.test('no setting that a role can have was overlooked', async (t) => {
  const tried = [...harmless, ...refused].flatMap(([settings]) => Object.keys(settings))
  const known = new Set([...tried, 'default_transaction_read_only'])
  const all = await rowsOf(
    admin,
    `select lower(name) as name, category from pg_settings where context in ('user', 'superuser')`,
  )
  const overlooked = all
    .filter(({ category }) => !ELSEWHERE.test(String(category)))
    .map(({ name }) => String(name))
    .filter((name) => !PLACES.test(name) && !known.has(name))
  t.strictSame(overlooked, [])
})
