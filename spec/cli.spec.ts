// Runs every verb of the command line on a real PostgreSQL, and on a directory of PGlite.

import { createHash, randomUUID } from 'node:crypto'
import { access, cp, mkdir, mkdtemp, readdir, rm, symlink, writeFile } from 'node:fs/promises'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { RELEASE } from '../lib/core/process.js'
import { newIdempotencyKey } from '../lib/core/token.js'
import { pgliteDatabase } from '../lib/db/pglite.js'
import { postgresDatabase } from '../lib/db/postgres/index.js'
import { buildSession, saveSession, sessionFor, sessionSet, sessionToken } from '../lib/promise/index.js'
import { migrations } from '../lib/sql/migrations.js'
import { sessionStore } from '../lib/sql/store.js'
import type { Session } from '../lib/store/contract.js'
import { everythingSaid, forEach, keyrow, MAIN, type Ran, saying, startKeyrow, until } from './support/cli.js'
import { quietPool, rowsOf } from './support/databases.js'
import { specDatabaseUrl } from './support/postgres-server.js'
import { age, dropSchemas, freshSchema, right } from './support/stores.js'

const found = await specDatabaseUrl()
const sql = quietPool(found.url)
const database = postgresDatabase(sql)
const address = new URL(found.url)
// A server with the authentication `trust` accepts any password. The password of another server must stay secret too.
if (address.password === '') address.password = 'hush%2FPa55word'
const url = address.href
const password = decodeURIComponent(address.password)
const env = { DATABASE_URL: url }
const root = await mkdtemp(join(tmpdir(), 'keyrow-cli-'))
const secrets: string[] = [address.password, password]

t.teardown(async () => {
  await dropSchemas(database)
  await right(database.close)
  await found.stop()
  await rm(root, { recursive: true, force: true })
})

const UNKNOWN = '4a0e7f68-1111-4111-8111-111111111111'
const NASTY = 'ada\u001b[2J\u009b1m\nroot\u202eevil'

/** A value that must not be printed without a request for values. */
const VALUE = 'value-not-to-be-seen'

const parsedJson = ({ stdout }: Ran): unknown => JSON.parse(stdout)

const failure = ({ stderr }: Ran): unknown => (JSON.parse(stderr) as { readonly error: unknown }).error

const store = (schema: string) => sessionStore(database, { schema })

/** Stores a session. Adds its secret, and the hash of the secret, to `secrets`. */
const saved = async (schema: string, session: (fresh: Session) => Session): Promise<Session> => {
  const stored = await saveSession(session(buildSession(store(schema))))
  const secret = sessionToken(stored).split('.')[1] ?? ''
  const hash = createHash('sha256').update(secret).digest()
  secrets.push(secret, hash.toString('hex'), hash.toString('base64'))
  return stored
}

const plain = (fresh: Session): Session => sessionSet('note', VALUE)(fresh)

const many = async (schema: string, count: number): Promise<readonly string[]> => {
  const ids: string[] = []
  for (let made = 0; made < count; made += 1) ids.push((await saved(schema, plain)).id)
  return ids.toSorted()
}

/** Runs several statements like psql, including transactions. */
const script = async (text: string): Promise<void> => {
  const own = quietPool(found.url, { max: 1 })
  await own.unsafe(text).simple()
  await own.end()
}

const countOf = async (schema: string, table = 'session'): Promise<number> => {
  const [row] = await rowsOf(database, `select count(*)::int as count from ${schema}.${table}`)
  return Number(row?.['count'])
}

const ready = async (): Promise<string> => {
  const schema = freshSchema()
  await right(store(schema).prepare)
  return schema
}

const run = (schema: string, ...args: string[]): Promise<Ran> =>
  keyrow([...args, '--schema', schema], { env })

t.test('--help, --version, and what makes no sense', async (t) => {
  const help = await keyrow(['--help'])
  t.match(help, { code: 0, stderr: '' })
  for (const verb of [
    'schema status',
    'schema print',
    'schema upgrade',
    'cleanup',
    'migrate',
    'sessions',
    'show',
    'end',
    'doctor',
  ])
    t.match(help.stdout, verb)
  for (const code of ['0', '1', '2', '3', '4', '5', '130'])
    t.match(help.stdout, new RegExp(`^  ${code} `, 'm'))
  t.strictSame(await keyrow(['--version']), { code: 0, stdout: `${RELEASE}\n`, stderr: '' })
  t.strictSame(parsedJson(await keyrow(['--version', '--json'])), { version: RELEASE })

  for (const json of [[], ['--json']]) {
    const bare = await keyrow(json)
    t.match(bare, { code: 2, stderr: '' }, 'without arguments it says what it can do')
    t.equal(bare.stdout, (await keyrow(['--help', ...json])).stdout)
  }

  const token = `${UNKNOWN}.tokensecret`
  const wrong: readonly (readonly [RegExp, ...string[]])[] = [
    [/say a command/, '--url', url],
    [/no such command: nonsense/, 'nonsense'],
    [/no such command;/, url],
    [/no such command;/, 'constructor.x'],
    [/no such command: constructor/, 'constructor'],
    [/status, print or upgrade/, 'schema'],
    [/status, print or upgrade/, 'schema', url],
    [/Unknown option '--foo'/, 'doctor', '--foo'],
    [/unknown option/, 'doctor', `--${url}`],
    [/argument missing/, 'doctor', '--url'],
    [/cleanup has no option --values/, 'cleanup', '--values'],
    [/sessions has no option --all/, 'sessions', '--all'],
    [/too many arguments/, 'sessions', 'ada', 'lovelace'],
    [/too many arguments/, 'doctor', token],
    [/--batch: .* from 1 to/, 'cleanup', '--batch', '0'],
    [/--delay: /, 'cleanup', '--delay', '1e3'],
    [/--total-timeout: /, 'cleanup', '--total-timeout=-1'],
    [/say --idle and --absolute/, 'migrate', '--from', 'session'],
    [/say --idle and --absolute/, 'migrate', '--from', 'session', '--idle', '60'],
    [/say --from TABLE/, 'migrate', '--idle', '60', '--absolute', '60'],
    [/say --from TABLE/, 'migrate', '--from', 'a.b.c', '--idle', '60', '--absolute', '60'],
    [/--idle: .* from 1 to/, 'migrate', '--from', 'session', '--idle', '0', '--absolute', '60'],
    [/--limit: /, 'sessions', '--limit', 'many'],
    [/--from: .* from 0 to 5/, 'schema', 'print', '--from', '6'],
    [/--timeout: /, 'doctor', '--timeout', '0'],
    [/--schema: /, 'doctor', '--schema', 'x"; drop table y'],
    [/not both/, 'doctor', '--url', url, '--directory', root],
    [/an address, not a directory/, 'doctor', '--directory', `file://${root}`],
    [/say the id/, 'show'],
    [/not the id/, 'show', 'x'],
    [/that is a token/, 'show', token],
    [/that is a token/, 'end', token],
    [/one of ID, --principal P and --all/, 'end'],
    [/one of ID, --principal P and --all/, 'end', UNKNOWN, '--all'],
    [/not a postgres:\/\/ address/, 'doctor', '--url', 'mysql://root:tokensecret@127.0.0.1/x'],
    [/percent-encoding/, 'doctor', '--url', 'postgres://root:1/tokensecret@127.0.0.1/x'],
    [/percent-encoding/, 'doctor', '--url', 'postgres://root:1?tokensecret@127.0.0.1/x'],
    [/percent-encoding/, 'doctor', '--url', 'postgres://root:1#tokensecret@127.0.0.1/x'],
    [/percent-encoding/, 'doctor', '--url', 'postgres://root:token%zzsecret@127.0.0.1/x'],
  ]
  await forEach(wrong, async ([message, ...args]) => {
    const { code, stdout, stderr } = await keyrow(args, { env })
    t.match(
      { code, stdout, lines: stderr.split('\n').length },
      { code: 2, stdout: '', lines: 2 },
      args.join(' '),
    )
    t.match(stderr, message)
    t.notMatch(stderr, /tokensecret|token%zzsecret|\n {4}at /)
  })
  t.match(await keyrow(['doctor']), {
    code: 2,
    stderr: /say a database by DATABASE_URL, --url or --dir/,
  })
  t.match(failure(await keyrow(['show', token, '--json'], { env })), { name: 'Usage', code: 2 })
})

t.test('schema', async (t) => {
  await t.test('from nothing to ours, and never by itself', async (t) => {
    const schema = freshSchema()
    const status = await run(schema, 'schema', 'status')
    t.match(status, { code: 4, stdout: /state +missing/, stderr: '' })
    t.match(parsedJson(await run(schema, 'schema', 'status', '--json')), {
      schema,
      state: 'missing',
      version: 0,
      wanted: 5,
      release: RELEASE,
      made: [],
    })
    for (const args of [['cleanup'], ['sessions'], ['show', UNKNOWN], ['end', '--all', '--yes']]) {
      t.match(await run(schema, ...args), { code: 4, stdout: '', stderr: /run npx keyrow schema upgrade/ })
      t.match(failure(await run(schema, ...args, '--json')), { name: 'SchemaMismatch', code: 4 })
    }
    t.match(await run(schema, 'doctor'), { code: 5, stdout: /problem +schema +its tables are missing/ })
    t.strictSame(await rowsOf(database, `select from pg_namespace where nspname = '${schema}'`), [])

    t.match(await run(schema, 'schema', 'upgrade'), { code: 0, stdout: /version 5, before none/, stderr: '' })
    t.strictSame(parsedJson(await run(schema, 'schema', 'upgrade', '--json')), { schema, from: 5, to: 5 })
    const current = await run(schema, 'schema', 'status')
    t.match(current, { code: 0, stdout: /state +current/ })
    t.match(current.stdout, new RegExp(`^ +2 +20\\S+Z +${RELEASE}$`, 'm'))
  })

  await t.test('the primary of several hosts', async (t) => {
    const several = new URL(url)
    several.searchParams.set('target_session_attrs', 'primary')
    const { host } = several
    const hosts = several.href.replace(host, `${host},${host}`)
    const args = ['schema', 'status', '--schema', freshSchema(), '--url', hosts]
    t.match(await keyrow(args), { code: 4, stdout: /state +missing/, stderr: '' })
  })

  await t.test('print gives SQL that does the same, and asks no database', async (t) => {
    const schema = freshSchema()
    const printed = await keyrow(['schema', 'print', '--schema', schema])
    t.match(printed, { code: 0, stderr: '' })
    await script(printed.stdout)
    t.match(await run(schema, 'schema', 'status'), { code: 0 })
    const json = parsedJson(await keyrow(['schema', 'print', '--schema', schema, '--json']))
    t.strictSame(json, { schema, from: 0, to: 5, sql: printed.stdout.trimEnd() })
  })

  await t.test('an older version is reported, and upgraded by hand', async (t) => {
    const schema = freshSchema()
    await sql.unsafe(`create schema ${schema}`)
    for (const { text } of migrations[0]?.steps(`"${schema}"`) ?? []) await sql.unsafe(text)
    const status = parsedJson(await run(schema, 'schema', 'status', '--json'))
    t.match(status, { state: 'older', version: 1, made: [] })
    t.match(await run(schema, 'sessions'), { code: 4, stderr: /it has version 1/ })
    t.match(await run(schema, 'cleanup'), { code: 4 })
    t.match(parsedJson(await run(schema, 'schema', 'status', '--json')), { version: 1 })
    const { stdout } = await keyrow(['schema', 'print', '--from', '1', '--schema', schema])
    t.notMatch(stdout, /create table \S+\.session /)
    await script(stdout)
    t.match(parsedJson(await run(schema, 'schema', 'status', '--json')), { state: 'current', version: 5 })
  })

  await t.test('a newer and a foreign schema are reported and not changed', async (t) => {
    const newer = await ready()
    await sql.unsafe(`insert into ${newer}.metadata (version, made_by) values (6, E'9.9.9\\u001b[2J')`)
    const status = await run(newer, 'schema', 'status')
    t.match(status, { code: 4, stdout: /state +newer/ })
    t.match(status.stdout, '9.9.9\\u{1b}[2J')
    t.match(parsedJson(await run(newer, 'schema', 'status', '--json')), { state: 'newer', version: 6 })
    const foreign = freshSchema()
    await sql.unsafe(`create schema ${foreign}; create table ${foreign}.session (id int)`).simple()
    t.match(await run(foreign, 'schema', 'status'), { code: 4, stdout: /state +foreign/, stderr: '' })
    t.match(parsedJson(await run(foreign, 'schema', 'status', '--json')), {
      state: 'foreign',
      version: null,
      problem: /not changed/,
    })
    for (const schema of [newer, foreign])
      for (const args of [['schema', 'upgrade'], ['sessions'], ['cleanup'], ['end', '--all', '--yes']]) {
        const ran = await run(schema, ...args)
        t.match(ran, { code: 4, stdout: '' }, args.join(' '))
        t.notMatch(ran.stderr, '\u001b')
      }
    t.match(await run(newer, 'doctor'), { code: 5, stdout: /problem +schema +it has version 6/ })
    t.match(await run(foreign, 'doctor'), {
      code: 5,
      stdout: /problem +schema +it has tables of these names/,
    })
  })
})

t.test('sessions', async (t) => {
  const schema = await ready()
  t.match(await run(schema, 'sessions'), { code: 0, stdout: 'There are no live sessions.\n' })
  const first = await saved(schema, (fresh) => sessionFor('ada')(plain(fresh)))
  const second = await saved(schema, plain)
  const third = await saved(schema, sessionFor(NASTY))
  const fourth = await saved(schema, sessionFor('ada'))
  const expired = await saved(schema, sessionFor('ada'))
  await sql.unsafe(
    `update ${schema}.session set expires_at = now() - interval '1 s' where id = '${expired.id}'`,
  )

  const all = parsedJson(await run(schema, 'sessions', '--json')) as {
    readonly sessions: readonly { readonly id: string }[]
  }
  t.strictSame(
    all.sessions.map(({ id }) => id),
    [fourth, third, second, first].map(({ id }) => id),
  )
  const isoTime = /^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/
  t.match(all, {
    more: false,
    sessions: [
      { principal: 'ada', keys: 1, created: isoTime, expiration: isoTime },
      { principal: NASTY, keys: 1 },
      { principal: null, keys: 1 },
      { principal: 'ada', keys: 2, bytes: Number },
    ],
  })
  const ofAda = parsedJson(await run(schema, 'sessions', 'ada', '--json'))
  t.match(ofAda, { more: false, sessions: [{ id: fourth.id }, { id: first.id, keys: 2 }] })
  t.strictSame(parsedJson(await run(schema, 'sessions', 'nobody', '--json')), { sessions: [], more: false })
  const one = await run(schema, 'sessions', '--limit', '1')
  t.match(one.stdout, new RegExp(`^ID .*PRINCIPAL\n${fourth.id} .*ada\nThere are more; say --limit N.\n$`))
  t.match(parsedJson(await run(schema, 'sessions', '--limit', '1', '--json')), { more: true })

  for (const ran of [
    await run(schema, 'sessions'),
    await run(schema, 'sessions', '--json'),
    await run(schema, 'show', third.id),
    await run(schema, 'show', third.id, '--json'),
    await run(schema, 'show', third.id, '--values'),
  ]) {
    t.match(ran, { code: 0, stderr: '' })
    t.match(ran.stdout, /ada\\u\S*1b/, 'what would act is shown')
    t.notMatch(ran.stdout, /[^\P{C}\n]/u, 'and acts no more')
  }
})

t.test('show', async (t) => {
  const schema = await ready()
  const { id } = await saved(schema, (fresh) =>
    sessionSet('cart', ['tea', 2])(sessionFor('ada')(plain(sessionSet('gone', 1)(fresh)))),
  )
  const [stored] = await rowsOf(database, `select id::text from ${schema}.session`)
  t.equal(stored?.['id'], id)
  const text = await run(schema, 'show', id)
  t.match(text, { code: 0, stderr: '' })
  t.match(text.stdout, /principal +ada\n/)
  t.match(text.stdout, /holds +4 keys, \d+ bytes\n/)
  t.match(text.stdout, /^ *\d+ +cart$/m)
  t.notMatch(text.stdout, VALUE)
  const data = parsedJson(await run(schema, 'show', id.toUpperCase(), '--json')) as {
    readonly entries: readonly object[]
  }
  t.match(data, { id, principal: 'ada', live: true, revision: 1, entries: [{ key: 'cart', bytes: Number }] })
  t.strictSame(
    data.entries.map((entry) => Object.keys(entry)),
    Array.from({ length: 4 }, () => ['key', 'bytes']),
    'no values',
  )
  const withValues = await run(schema, 'show', id, '--values', '--json')
  t.match(parsedJson(withValues), {
    entries: [
      { key: 'cart', value: ['tea', 2] },
      { key: 'gone', value: 1 },
      { key: 'keyrow:principal', value: 'ada' },
      { key: 'note', value: VALUE },
    ],
  })
  t.match((await run(schema, 'show', id, '--values')).stdout, /cart +\["tea", 2\]/)

  await sql.unsafe(`update ${schema}.entry set value = null where key = 'gone'`)
  t.match((await run(schema, 'show', id)).stdout, /holds +3 keys/, 'a deleted key is not shown')
  await sql.unsafe(`delete from ${schema}.entry`)
  t.match(parsedJson(await run(schema, 'show', id, '--json')), { entries: [] })
  await age(database, schema, 86_400_000)
  t.match((await run(schema, 'show', id)).stdout, /it has expired/)
  t.match(await run(schema, 'show', UNKNOWN), {
    code: 3,
    stdout: '',
    stderr: `keyrow: there is no session ${UNKNOWN}\n`,
  })
  t.match(failure(await run(schema, 'show', UNKNOWN, '--json')), { name: 'NotFound', code: 3 })
})

t.test('end', async (t) => {
  await t.test('one', async (t) => {
    const schema = await ready()
    const [id = '', other] = await many(schema, 2)
    t.strictSame(parsedJson(await run(schema, 'end', id, '--yes', '--json')), { ended: 1, finished: true })
    t.strictSame(await rowsOf(database, `select id::text from ${schema}.session`), [{ id: other }])
    t.equal(await countOf(schema, 'entry'), 1)
    const [kept] = await sql.unsafe(
      `select count(*)::int as n from ${schema}.listing where collect_at > now() + interval '50 minutes'`,
    )
    t.equal(kept?.['n'], 1, 'its id is kept for a while, against creations that come late')
    t.match(await run(schema, 'end', id, '--yes'), { code: 3, stdout: '', stderr: /there is no session/ })
  })

  await t.test('those of a principal, in batches, and none of another', async (t) => {
    const schema = await ready()
    for (const principal of ['ada', 'bob', 'ada', NASTY, 'ada', 'ada', 'ada'])
      await saved(schema, sessionFor(principal))
    // A row of `listing` without a session, as after a destruction by a release for version 1.
    await sql.unsafe(`insert into ${schema}.listing values ('${UNKNOWN}', 'ada', now())`)
    const ended = await run(schema, 'end', '--principal', 'ada', '--yes', '--batch', '2')
    t.strictSame(ended, { code: 0, stdout: 'Ended 5 sessions.\n', stderr: '' })
    t.equal(await countOf(schema), 2)
    t.match(await run(schema, 'end', '--principal', NASTY, '--yes'), {
      code: 0,
      stdout: 'Ended 1 session.\n',
    })
    t.match(await run(schema, 'end', '--principal', 'nobody', '--yes'), { code: 0, stdout: /^Ended 0/ })
  })

  await t.test('all, also those that are not listed', async (t) => {
    const schema = await ready()
    await many(schema, 5)
    await sql.unsafe(
      `delete from ${schema}.listing where session_id = (select session_id from ${schema}.listing limit 1)`,
    )
    const ended = await run(schema, 'end', '--all', '--yes', '--batch', '2', '--json')
    t.strictSame(parsedJson(ended), { ended: 5, finished: true })
    for (const table of ['session', 'entry']) t.equal(await countOf(schema, table), 0, table)
  })

  await t.test('asks, and ends nothing without a yes', async (t) => {
    const schema = await ready()
    const [id = ''] = await many(schema, 2)
    await saved(schema, sessionFor(NASTY))
    for (const scope of [[id], ['--all'], ['--principal', NASTY]]) {
      t.match(
        await run(schema, 'end', ...scope),
        { code: 2, stdout: '', stderr: /say --yes/ },
        'nobody can confirm',
      )
      await forEach(['n\n', '\n', 'yes!\n', ''], async (answer) => {
        const ran = await keyrow(['end', ...scope, '--schema', schema], {
          env,
          terminal: true,
          input: answer,
        })
        t.match(ran, { code: 130, stdout: '', stderr: /\? \[y\/N\] / }, JSON.stringify(answer))
        for (const acting of ['\u001b', '\u009b', '\u202e']) t.notMatch(ran.stderr, acting)
      })
    }
    const asked = startKeyrow(['end', '--all', '--schema', schema], { env, terminal: true })
    await saying(
      asked,
      `End all sessions (3 sessions) in database "${address.pathname.slice(1)}", schema "${schema}"? [y/N]`,
    )
    t.equal(await countOf(schema), 3)
    asked.child.kill('SIGINT')
    t.match(await asked.ended, { code: 130, stdout: '', stderr: /no session was ended/ }, 'Ctrl-C is no yes')
    t.equal(await countOf(schema), 3)
    const agreed = await keyrow(['end', '--all', '--schema', schema], {
      env,
      terminal: true,
      input: 'Y\n',
      alone: true,
    })
    t.match(agreed, { code: 0, stdout: 'Ended 3 sessions.\n' })
  })

  await t.test('Ctrl-C ends it after the batch under way, and it says what it did', async (t) => {
    const schema = await ready()
    const ids = await many(schema, 4)
    const ending = await sql.reserve()
    await ending.unsafe('begin')
    await ending.unsafe(`select from ${schema}.session where id = '${ids[1] ?? ''}' for update`)
    const args = ['end', '--all', '--yes', '--batch', '1', '--json', '--schema', schema]
    const running = startKeyrow(args, { env: named(schema) })
    await waitingForLock(schema)
    running.child.kill('SIGINT')
    await new Promise((resolve) => setTimeout(resolve, 100))
    await ending.unsafe('rollback')
    ending.release()
    const ran = await running.ended
    t.match(ran, { code: 130, stderr: '' })
    t.strictSame(parsedJson(ran), { ended: 2, finished: false })
    t.equal(await countOf(schema), 2)
  })
})

/** Sets the name under which PostgreSQL shows the connection of the command line. */
const named = (name: string): { readonly DATABASE_URL: string } => {
  const address = new URL(url)
  address.searchParams.set('application_name', name)
  return { DATABASE_URL: address.href }
}

/** Waits until a statement of the connection with this name waits for a lock. */
const waitingForLock = (name: string): Promise<void> =>
  until('it waits for a lock', async () => {
    const waiting = await sql`
      select from pg_stat_activity where application_name = ${name} and wait_event_type = 'Lock'`
    return waiting.length > 0
  })

t.test('cleanup', async (t) => {
  await t.test('deletes what has expired, and nothing else', async (t) => {
    const schema = await ready()
    await many(schema, 5)
    await age(database, schema, 86_400_000)
    await sql.unsafe(`update ${schema}.listing set collect_at = now()`)
    const live = await saved(schema, plain)
    const ran = await run(schema, 'cleanup', '--batch', '2', '--delay', '0', '--json')
    t.match(ran, { code: 0, stderr: '' })
    t.match(parsedJson(ran), { sessions: 5, finished: true, batches: Number })
    t.strictSame(await rowsOf(database, `select id::text from ${schema}.session`), [{ id: live.id }])
    t.match(await run(schema, 'cleanup'), {
      code: 0,
      stdout: /^Deleted 0 expired sessions in 1 batch. No expired session is left/,
    })
  })

  await t.test('ends in time, and when another cleanup is running', async (t) => {
    const schema = await ready()
    await many(schema, 3)
    await age(database, schema, 86_400_000)
    await sql.unsafe(`update ${schema}.listing set collect_at = now()`)
    const args = ['cleanup', '--batch', '1', '--total-timeout', '0']
    t.match(await run(schema, ...args), {
      code: 0,
      stdout: /^Deleted 1 expired session in 1 batch. The time limit was reached/,
    })
    const other = await sql.reserve()
    await other.unsafe('begin')
    await other.unsafe(`select pg_advisory_xact_lock(hashtext('keyrow.collect'), hashtext('"${schema}"'))`)
    t.match(await run(schema, ...args), { code: 0, stdout: /^Deleted 0 .*Another cleanup is running/ })
    await other.unsafe('rollback')
    other.release()
  })

  await t.test('Ctrl-C ends it after the batch under way, and it says what it did', async (t) => {
    const schema = await ready()
    await many(schema, 30)
    await age(database, schema, 86_400_000)
    await sql.unsafe(`update ${schema}.listing set collect_at = now()`)
    for (const signal of ['SIGINT', 'SIGTERM'] as const) {
      const before = await countOf(schema)
      const args = ['cleanup', '--batch', '1', '--delay', '500', '--json', '--schema', schema]
      const running = startKeyrow(args, { env })
      await until('it has begun', async () => (await countOf(schema)) < before)
      running.child.kill(signal)
      const ran = await running.ended
      t.match(ran, { code: signal === 'SIGINT' ? 130 : 143, stderr: '' })
      t.match(parsedJson(ran), { finished: false, sessions: before - (await countOf(schema)) })
      t.ok((await countOf(schema)) > 0)
    }
  })
})

t.test('migrate', async (t) => {
  /** Makes a table of connect-pg-simple with `count` sessions. */
  const oldTable = async (schema: string, count: number): Promise<void> => {
    const sids = Array.from({ length: count }, (_, n) => `sid-not-to-be-seen-${String(n)}`)
    secrets.push(...sids)
    const sess = JSON.stringify({ cookie: { originalMaxAge: null }, user: VALUE })
    const rows = sids.map((sid) => `('${sid}', '${sess}', now() + interval '1 hour')`)
    await script(`
      create table ${schema}."Old" (sid varchar primary key, sess json not null, expire timestamp(6) not null);
      insert into ${schema}."Old" values ${rows.join(', ')};
    `)
  }
  const lifetimes = ['--idle', '3600', '--absolute', '7200']

  await t.test('takes over what is there, once, with the given lifetimes', async (t) => {
    const schema = await ready()
    await oldTable(schema, 5)
    const args = ['migrate', '--from', `${schema}.Old`, ...lifetimes]
    await script(`
      insert into ${schema}."Old" values ('zero', '{"text":"\\u0000"}', now() + interval '1 hour');
      insert into ${schema}."Old" values ('dead', '{"user":"dead"}', now() - interval '1 hour');
    `)
    t.strictSame(await run(schema, ...args, '--batch', '2', '--json'), {
      code: 0,
      stdout: '{"migrated":5,"present":0,"rejected":1,"finished":true}\n',
      stderr: '',
    })
    t.equal(await countOf(schema), 5)
    t.strictSame(
      await rowsOf(
        database,
        `select distinct round(extract(epoch from expires_at - created_at))::int as idle,
           round(extract(epoch from absolute_expires_at - created_at))::int as absolute from ${schema}.session`,
      ),
      [{ idle: 3_600, absolute: 7_200 }],
    )
    t.match(await run(schema, ...args), {
      code: 0,
      stdout:
        'Migrated 0 sessions; 5 were migrated before, or have ended. ' +
        '1 session cannot be stored (a text with U+0000, for example), and stayed there.\n',
    })
    t.equal(await countOf(schema, '"Old"'), 7, 'they stay there too')
  })

  await t.test('a table that is not there, and a schema that is not ours', async (t) => {
    const schema = await ready()
    const args = ['migrate', '--from', 'nowhere', ...lifetimes]
    t.match(failure(await run(schema, ...args, '--json')), {
      name: 'DriverError',
      code: 1,
      sqlState: '42P01',
    })
    t.match(await run(freshSchema(), ...args), { code: 4, stdout: '' })
  })

  await t.test('Ctrl-C ends it after the batch under way, and it says what it did', async (t) => {
    const schema = await ready()
    await oldTable(schema, 4)
    const holding = await sql.reserve()
    await holding.unsafe('begin')
    await holding.unsafe(`select from ${schema}."Old" where sid like '%-1' for update`)
    const args = ['migrate', '--from', `${schema}.Old`, ...lifetimes, '--batch', '1', '--json']
    const running = startKeyrow([...args, '--schema', schema], { env: named(schema) })
    await waitingForLock(schema)
    running.child.kill('SIGINT')
    await new Promise((resolve) => setTimeout(resolve, 100))
    await holding.unsafe('rollback')
    holding.release()
    const ran = await running.ended
    t.match(ran, { code: 130, stderr: '' })
    t.strictSame(parsedJson(ran), { migrated: 2, present: 0, rejected: 0, finished: false })
    t.equal(await countOf(schema), 2)
  })
})

t.test('Ctrl-C in the middle of a statement ends anything else', async (t) => {
  const schema = await ready()
  const other = await sql.reserve()
  await other.unsafe('begin')
  await other.unsafe(`lock table ${schema}.session in access exclusive mode`)
  for (const args of [['sessions'], ['doctor']]) {
    // The server may still show the connection of the command before.
    const name = `${schema} ${args.join(' ')}`.slice(-60)
    const running = startKeyrow([...args, '--json', '--schema', schema], { env: named(name) })
    await waitingForLock(name)
    const start = performance.now()
    running.child.kill('SIGINT')
    const ran = await running.ended
    t.match(ran, { code: 130, stdout: '' })
    t.match(failure(ran), { name: 'Interrupted', message: 'interrupted', code: 130 })
    t.ok(performance.now() - start < 5_000, 'at once')
    await sql`select pg_terminate_backend(pid) from pg_stat_activity where application_name = ${name}`
  }
  await other.unsafe('rollback')
  other.release()
})

t.test('a dead database', async (t) => {
  const verbs = [
    ['schema', 'status'],
    ['schema', 'upgrade'],
    ['cleanup'],
    ['sessions'],
    ['show', UNKNOWN],
    ['end', '--all', '--yes'],
    ['doctor'],
  ]
  const dead = `postgres://app:${address.password}@127.0.0.1:1/app`
  await forEach(verbs, async (verb) => {
    const ran = await keyrow([...verb, '--url', dead])
    t.match(
      ran,
      { code: 1, stdout: '', stderr: /^keyrow: [a-z.]+: connect ECONNREFUSED 127.0.0.1:1\n$/ },
      verb.join(' '),
    )
    t.match(failure(await keyrow([...verb, '--url', dead, '--json'])), { name: 'DriverError', code: 1 })
  })

  const sockets: Socket[] = []
  const silent = createServer((socket) => sockets.push(socket)).listen(0, '127.0.0.1')
  await new Promise((resolve) => silent.once('listening', resolve))
  const { port } = silent.address() as AddressInfo
  const mute = [
    'doctor',
    '--timeout',
    '300',
    '--url',
    `postgres://app:${address.password}@127.0.0.1:${String(port)}/app`,
  ]
  t.match(await keyrow(mute), {
    code: 1,
    stdout: '',
    stderr: /^keyrow: .*(no answer within|CONNECT_TIMEOUT).*\n$/,
  })
  for (const socket of sockets) socket.destroy()
  silent.close()

  const nameless = new URL(url)
  nameless.pathname = `/${address.password}`
  const refused = await keyrow(['doctor', '--url', nameless.href])
  t.match(
    refused,
    { code: 1, stdout: '', stderr: /database "\*\*\*" does not exist/ },
    'the server repeats it, we do not',
  )
  t.match(failure(await keyrow(['doctor', '--json'], { env: { DATABASE_URL: nameless.href } })), {
    sqlState: '3D000',
  })
})

interface Diagnosis {
  readonly checks: readonly { readonly check: string; readonly state: string; readonly says: string }[]
  readonly stats: { readonly sessions: { readonly counted: number; readonly dead: number } }
}

const diagnosed = async (t: Test, schema: string, code: number, ...args: string[]): Promise<Diagnosis> => {
  const ran = await run(schema, 'doctor', '--json', ...args)
  t.match(ran, { code, stderr: '' })
  return parsedJson(ran) as Diagnosis
}

const checkOf = ({ checks }: Diagnosis, name: string) => checks.find(({ check }) => check === name)

t.test('doctor', async (t) => {
  await t.test('finds nothing wrong with what is well', async (t) => {
    const schema = await ready()
    const [id = ''] = await many(schema, 4)
    await sql.unsafe(`update ${schema}.entry set value = null where session_id = '${id}'`)
    const found = await diagnosed(t, schema, 0)
    t.strictSame([...new Set(found.checks.map(({ state }) => state))], ['ok'])
    t.match(found.stats, {
      sessions: { counted: 4, dead: 0, orphans: 0, estimated: false },
      principals: { counted: 4, orphans: 0, estimated: false },
      entries: { counted: 4, dead: 1, estimated: false },
      tables: [
        ...[{ name: 'continuation' }, { name: 'effect' }, { name: 'entry' }, { name: 'flow' }],
        { name: 'late_save' },
        { name: 'listing' },
        { name: 'metadata' },
        { name: 'session', total: Number },
      ],
    })
    const text = await run(schema, 'doctor')
    t.match(text, { code: 0, stderr: '' })
    for (const check of [
      'connection',
      'server',
      'routing',
      'clock',
      'schema',
      'indexes',
      'cleanup',
      'sessions',
      'vacuum',
    ])
      t.match(text.stdout, new RegExp(`^ok +${check} `, 'm'))
    t.match(text.stdout, /^Total: \d+ kB$/m)
  })

  await t.test('indexes that are missing or invalid', async (t) => {
    const schema = await ready()
    await many(schema, 2)
    await sql.unsafe(`drop index ${schema}.listing_collect_at`)
    await sql.unsafe(`alter table ${schema}.listing drop constraint listing_pkey`)
    await t.rejects(
      sql.unsafe(`create unique index concurrently twice on ${schema}.entry (revision)`),
      { code: '23505' },
      'what stays is an invalid index',
    )
    const indexes = checkOf(await diagnosed(t, schema, 5), 'indexes')
    t.match(indexes, { state: 'problem', says: /missing: listing_collect_at, the primary key of listing/ })
    t.match(indexes, { says: /invalid: twice/ })
    t.match(await run(schema, 'doctor'), { code: 5, stdout: /^problem +indexes /m })
  })

  await t.test('a listing with gaps, and expired sessions that nothing deletes', async (t) => {
    const schema = await ready()
    const [id = ''] = await many(schema, 3)
    await sql.unsafe(`delete from ${schema}.listing where session_id = '${id}'`)
    await sql.unsafe(`insert into ${schema}.listing values ('${UNKNOWN}', null, now() - interval '3 hours')`)
    const found = await diagnosed(t, schema, 0)
    t.match(checkOf(found, 'listing'), { state: 'warning', says: /lacks 1 session, has 1 row without/ })
    t.match(checkOf(found, 'cleanup'), { state: 'warning', says: /3 hours/ })
    await sql.unsafe(`update ${schema}.session set expires_at = now() where id = '${id}'`)
    t.match(checkOf(await diagnosed(t, schema, 0), 'sessions'), {
      state: 'ok',
      says: /2 live .*1 expired .*33 %/,
    })
  })

  await t.test('large tables by a sample, which it says', async (t) => {
    const schema = await ready()
    await sql.unsafe(`
      insert into ${schema}.session
      select gen_random_uuid(), sha256(n::text::bytea), null, null, now(), now() + case when n % 4 = 0 then interval '1 hour' else interval '0' end,
             now() + interval '1 day', 1, sha256(n::text::bytea)
      from generate_series(1, 120000) as n`)
    await sql.unsafe(`insert into ${schema}.listing select id, null, expires_at from ${schema}.session`)
    const found = await diagnosed(t, schema, 0)
    t.match(found.stats.sessions, { estimated: true, orphans: 0 })
    t.ok(Math.abs(found.stats.sessions.counted - 120_000) < 24_000, String(found.stats.sessions.counted))
    t.ok(Math.abs(found.stats.sessions.dead - 90_000) < 18_000, String(found.stats.sessions.dead))
    t.match(checkOf(found, 'sessions'), { state: 'warning', says: /^about .*expired: 7\d %.*keyrow cleanup/ })
    const more = parsedJson(await run(schema, 'sessions', '--limit', '3', '--json'))
    t.match(more, { more: true, sessions: { length: 3 } })
    await sql.unsafe(`drop schema ${schema} cascade`)
  })

  await t.test('a clock that is wrong, and a database that takes no writes', async (t) => {
    const schema = await ready()
    for (const [hours, side] of [
      [1, 'behind'],
      [-1, 'ahead'],
    ] as const) {
      const shifted = `const now = Date.now; Date.now = () => now() + ${String(hours * 3_600_000)}`
      const node = ['--import', `data:text/javascript,${encodeURIComponent(shifted)}`]
      const ran = await keyrow(['doctor', '--schema', schema], { env, node })
      t.match(ran, { code: 5, stdout: new RegExp(`^problem +clock .* minutes ${side}`, 'm') })
    }
    const readonly = new URL(url)
    readonly.searchParams.set('default_transaction_read_only', 'on')
    const ran = await keyrow(['doctor', '--schema', schema], { env: { DATABASE_URL: readonly.href } })
    t.match(ran, { code: 5, stdout: /^problem +writing +transactions are read only/m })
  })
})

t.test('flows are listed, shown and dropped', async (t) => {
  const schema = await ready()
  const store = sessionStore(database, { schema })
  const { flows } = store
  if (flows === undefined) throw new Error('the store has no flows')
  const { id } = await saveSession(sessionSet('n', 1)(buildSession(store)))
  t.match(await run(schema, 'flows', 'list', id), { code: 0, stdout: /has no flows/ })
  const [flow, row] = [randomUUID(), randomUUID()]
  const key = { session: id, flow }
  const head = {
    name: 'checkout',
    version: 2,
    input: {},
    seed: '00',
    principal: undefined,
    caller: undefined,
  }
  const first = {
    id: row,
    parent: undefined,
    parentMade: undefined,
    made: newIdempotencyKey(),
    chars: 1,
    cuts: false,
  }
  const records = [['suspend', 'address', { city: 'Oslo' }]] as const
  await right(
    flows.begin(
      key,
      { ...head, idleMs: undefined, maxAgeMs: undefined },
      { ...first, step: 'confirm', records },
    ),
  )
  t.match(
    (await run(schema, 'flows', 'list', id)).stdout,
    new RegExp(`${flow} +checkout +running +confirm +1`),
  )
  const shown = await run(schema, 'flows', 'show', id, flow)
  t.match(shown.stdout, /name +checkout, version 2\n[\s\S]*holds +1 answer, [\s\S]*confirm +\["address"\]/)
  t.notMatch(shown.stdout, 'Oslo')
  t.match((await run(schema, 'flows', 'show', id, flow, '--values')).stdout, 'Oslo')
  t.match(parsedJson(await run(schema, 'flows', 'show', id, flow, '--json')), {
    name: 'checkout',
    continuations: [{ id: row, parent: null, step: 'confirm', records: ['address'] }],
  })
  for (const verb of ['show', 'drop']) {
    t.match(await run(schema, 'flows', verb, id, randomUUID()), { code: 3, stderr: /has no flow/ })
    t.match(await run(schema, 'flows', verb, id), {
      code: 2,
      stderr: /say the id of a session, and the id of a flow/,
    })
  }
  t.match(await run(schema, 'flows', 'all'), { code: 2, stderr: /flows: say list, show or drop/ })
  t.match(await run(schema, 'flows', 'drop', id, flow), { code: 0, stdout: `Dropped the flow ${flow}.\n` })
  t.match(parsedJson(await run(schema, 'flows', 'list', id, '--json')), { flows: [] })
})

t.test('a directory of PGlite', async (t) => {
  const directory = join(root, 'pglite')
  const on = (...args: string[]) => keyrow([...args, '--directory', directory])
  t.match(await on('sessions'), { code: 1, stdout: '', stderr: /there is no database of PGlite/ })
  t.match(await on('schema', 'status'), { code: 1 })
  await t.rejects(access(directory), 'none was made')
  t.match(await on('schema', 'upgrade'), { code: 0, stdout: /version 5/ })
  t.match(await on('schema', 'status'), { code: 0 })

  const inside = pgliteDatabase(directory)
  const session = await saveSession(sessionFor('ada')(plain(buildSession(sessionStore(inside)))))
  const inUse = await on('doctor', '--json')
  t.match(inUse, { code: 1, stdout: '' })
  t.match(failure(inUse), { name: 'DriverError', message: /in use by another process/ })
  await right(inside.close)

  t.match(parsedJson(await on('sessions', 'ada', '--json')), { sessions: [{ id: session.id, keys: 2 }] })
  t.match(parsedJson(await on('show', session.id, '--json')), {
    entries: [{ key: 'keyrow:principal' }, { key: 'note' }],
  })
  t.match(await on('doctor'), { code: 0, stdout: /^ok +indexes +12, all valid/m })
  t.match(await on('cleanup'), { code: 0, stdout: /^Deleted 0/ })
  t.match(await on('end', '--principal', 'ada', '--yes'), { code: 0, stdout: 'Ended 1 session.\n' })
  t.match(await on('show', session.id), { code: 3 })

  const full = join(root, 'full')
  await mkdir(full)
  await writeFile(join(full, 'letter.txt'), 'dear ada')
  t.match(await keyrow(['schema', 'upgrade', '--directory', full]), {
    code: 1,
    stderr: /no database of PGlite/,
  })
  t.strictSame(await readdir(full), ['letter.txt'])
})

t.test('a package that is not installed is named', async (t) => {
  const installed = fileURLToPath(new URL('../node_modules', import.meta.url))
  const home = join(root, 'without-peers')
  await cp(join(MAIN, '..', '..'), join(home, 'dist'), { recursive: true })
  await writeFile(join(home, 'package.json'), '{"type":"module"}')
  await mkdir(join(home, 'node_modules'))
  const link = (name: string) => symlink(join(installed, name), join(home, 'node_modules', name))
  for (const name of ['cookie', 'fp-ts', 'immutable', 'io-ts', 'postgres-array']) await link(name)
  const main = join(home, 'dist', 'cli', 'main.js')
  t.match(await keyrow(['doctor'], { env, main }), { code: 1, stderr: /npm install postgres\n$/ })
  const inDirectory = () => keyrow(['schema', 'upgrade', '--directory', join(root, 'new')], { env, main })
  t.match(await inDirectory(), { code: 1, stderr: /npm install @electric-sql\/pglite\n$/ })
  await mkdir(join(home, 'node_modules', '@electric-sql'))
  await link('@electric-sql/pglite')
  t.match(await inDirectory(), { code: 1, stderr: /fs-native-extensions is not installed: install it/ })
  t.match(await keyrow(['schema', 'print'], { main }), { code: 0 })
})

t.test('a reader that has had enough is no failure', async (t) => {
  const running = startKeyrow(['schema', 'print'])
  running.child.stdout.destroy()
  t.match(await running.ended, { code: 0, stderr: '' })
})

t.test('no secret was in any output, and no value but where it was asked for', async (t) => {
  const said = everythingSaid()
  t.ok(said.length > 10_000 && secrets.length > 100)
  t.strictSame(
    secrets.filter((secret) => said.includes(secret)),
    [],
  )
  t.equal(said.split(VALUE).length - 1, 2, 'show --values, twice')
  t.notMatch(said, /\n {4}at /, 'no stack')
})
