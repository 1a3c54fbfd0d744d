// Checks that each statement and its plan equal the files in spec/frozen/statements. After a deliberate change,
// `UPDATE=1 npm run spec -- spec/statements.spec.ts` writes new files. Commit the new files with the change.
//
// Plans differ between versions of PostgreSQL. So the spec always starts the bundled server, version 18, even if
// DATABASE_URL names another one. A newer bundled version needs new files.

import t from 'tap'
import { postgresDatabase } from '../lib/db/postgres/index.js'
import { buildSession, saveSession, sessionSet } from '../lib/promise/index.js'
import { batchStatements } from '../lib/sql/batch.js'
import { saveStatements } from '../lib/sql/save.js'
import { sessionStatements } from '../lib/sql/session-statements.js'
import { sessionStore } from '../lib/sql/store.js'
import { quietPool, quietPools, rowsOf } from './support/databases.js'
import { frozen } from './support/frozen.js'
import { startPostgres } from './support/postgres-server.js'
import { type Plan, planned, runStatements, type Statement } from './support/statements.js'

// Autovacuum would change the statistics at random times.
const server = await startPostgres({ settings: { autovacuum: 'off' } })
const database = postgresDatabase(quietPools(server.url), { timeoutMs: 60_000 })
t.teardown(async () => {
  await database.close()
  await server.stop()
})

const SCHEMA = 'keyrow'
const statements = await runStatements(database, SCHEMA)
await rowsOf(database, 'vacuum analyze')

/** EXPLAIN accepts no other kind of statement. */
const isPlanned = ({ text }: Statement['query']): boolean =>
  /^\s*(?:select|with|insert|update|delete)\b/.test(text)

const line = (plan: Plan): string =>
  [
    plan['Subplan Name'] && `${plan['Subplan Name']}:`,
    plan.Strategy === undefined || plan.Strategy === 'Plain' ? undefined : plan.Strategy,
    plan.Operation ?? plan['Node Type'],
    plan['Join Type'],
    plan['Index Name'] && `using ${plan['Index Name']}`,
    plan['Relation Name'] && `on ${plan['Relation Name']}`,
    plan['CTE Name'] && `on ${plan['CTE Name']}`,
    plan['Function Name'] && `on ${plan['Function Name']}`,
  ]
    .filter((word) => word !== undefined)
    .join(' ')

const shape = (plan: Plan, indent = '--   '): readonly string[] => [
  `${indent}${line(plan)}`,
  ...(plan.Plans ?? []).flatMap((inner) => shape(inner, `${indent}  `)),
]

const described = async ({ query, params }: Statement): Promise<string> => {
  const plan = isPlanned(query) ? ['-- plan:', ...shape(await planned(database, query.text, params))] : []
  return [`-- ${query.name}`, query.text.trim(), ...plan, ''].join('\n')
}

/** The group is the first word of the name. The names of record statements begin with the table's name. */
const fileOf = ({ query: { name } }: Statement): string =>
  `${name.startsWith(`${SCHEMA}.`) ? 'record' : name.replace(/\..*/, '')}.sql`

const texts = new Map<string, string[]>()
for (const statement of statements) {
  const file = fileOf(statement)
  texts.set(file, [...(texts.get(file) ?? []), await described(statement)])
}
const made = new Map([...texts].map(([file, all]) => [file, all.toSorted().join('\n')]))
const files = frozen('statements', made)

t.test('the plans are those of PostgreSQL 18', async (t) => {
  const [row] = await rowsOf(database, 'show server_version')
  t.match(row?.['server_version'], /^18\./)
})

t.test('there is a file for each group of statements, and no other', async (t) => {
  t.strictSame(Object.keys(files).sort(), [...made.keys()].sort())
})

for (const [file, text] of made)
  t.test(file, async (t) => {
    t.equal(text, files[file])
  })

t.test('only saves and touches of a relaxed store do not wait for the disk', async (t) => {
  const relaxed = statements.filter(({ query: { text } }) =>
    text.includes("set_config('synchronous_commit', 'off', true)"),
  )
  t.strictSame(relaxed.map(({ query }) => query.name).toSorted(), [
    ...['batch.save', 'batch.saveLate', 'session.refresh', 'session.refreshKeys'],
    ...['session.save', 'session.saveKeys', 'session.touch'],
  ])
})

t.test('PostgreSQL plans the statements of requests once for all values', async (t) => {
  const one = postgresDatabase(quietPools(server.url, { max: 1 }))
  t.teardown(() => one.close())
  const inRequests = statements.filter(
    ({ query }) => !/^(admin|principals|citus|cleanup|schema)\./.test(query.name),
  )
  const repeated = inRequests.filter(({ query, params }) => isPlanned(query) && params.length > 0)
  for (const { query, params } of repeated)
    for (let times = 0; times < 8; times += 1) await one.query(query, params)()
  const plans = await rowsOf(
    one,
    'select statement, generic_plans::int as once, custom_plans::int as again from pg_prepared_statements',
  )
  t.ok(plans.length > 20)
  const nameOf = (text: unknown): string =>
    repeated.find(({ query }) => String(text).includes(query.text))?.query.name ?? String(text)
  // PostgreSQL plans the first five executions separately.
  t.strictSame(
    plans
      .filter(({ again, once }) => Number(again) > 5 || Number(once) < 3)
      .map(({ statement }) => nameOf(statement)),
    [],
  )
})

t.test(
  'PostgreSQL compiles no statement of a request, although the sessions have ten thousand keys',
  async (t) => {
    const schema = 'large'
    await saveSession(sessionSet('n', 1)(buildSession(sessionStore(database, { schema }))))
    await rowsOf(
      database,
      `insert into large.session
     select (jsonb_populate_record(s, jsonb_build_object('id', gen_random_uuid()))).* from large.session s, generate_series(1, 49)`,
    )
    await rowsOf(
      database,
      `insert into large.entry (session_id, key, value, revision)
     select s.id, 'key ' || n, '"value"', 1 from generate_series(1, 10000) n, large.session s order by n`,
    )
    await rowsOf(database, 'vacuum analyze large.session')
    await rowsOf(database, 'vacuum analyze large.entry')
    const [{ above }] = (await rowsOf(
      database,
      `select current_setting('jit_above_cost')::float8 as above`,
    )) as [{ readonly above: number }]
    const sql = quietPool(server.url)
    t.teardown(() => sql.end())
    for (const statements of [batchStatements, saveStatements, sessionStatements])
      for (const { name, text } of Object.values(statements(`"${schema}"`))) {
        // Only a statement without parameters, in the simple protocol, can explain the plan for all parameters.
        const [plan] = await sql.unsafe(`explain (generic_plan) ${text}`).simple()
        const cost = Number(/cost=[\d.]+\.\.([\d.]+)/.exec(String(plan?.['QUERY PLAN']))?.[1])
        t.ok(cost < above, `${name}: ${String(cost)}`)
      }
  },
)
