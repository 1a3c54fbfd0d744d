#!/usr/bin/env bash
# PGlite 0.5.16 with a data directory, `synchronous_commit = off`.
#
# Expected: as in PostgreSQL, a commit that does not wait reaches the disk a little later, after at most three times
# `wal_writer_delay` (0.6 s). A program that ends long after its last insert has lost nothing.
# Seen: PGlite runs as one process without PostgreSQL's log writer, so nobody writes the log later. Commits stay in the
# memory of the program until a commit that waits, or until `close`. A program that inserts 200 rows, waits five seconds
# and ends by `process.exit` has lost all 200, without any error. The same inserts with the setting `on` are all there.
#
#   off: 0 of 200 rows; off, then one commit with on: 201 of 201 rows; on: 200 of 200 rows
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
echo '{ "private": true, "type": "module" }' > package.json
npm install --silent --no-audit --no-fund @electric-sql/pglite@0.5.16
cat > write.mjs <<'JS'
import { setTimeout as pause } from 'node:timers/promises'
import { PGlite } from '@electric-sql/pglite'

const [directory, setting, last] = process.argv.slice(2)
const db = await PGlite.create(directory)
await db.exec('create table note (id int)')
await db.exec(`set synchronous_commit = ${setting}`)
for (let id = 0; id < 200; id += 1) await db.query('insert into note values ($1)', [id])
if (last !== undefined) {
  await db.exec(`set synchronous_commit = ${last}`)
  await db.query('insert into note values (200)')
}
await pause(5_000)
process.exit(0)
JS
cat > main.mjs <<'JS'
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { PGlite } from '@electric-sql/pglite'

const rowsAfter = async (...settings) => {
  const directory = settings.join('-')
  await promisify(execFile)(process.execPath, ['write.mjs', directory, ...settings])
  const db = await PGlite.create(directory)
  const { rows } = await db.query('select count(*)::int as n from note')
  await db.close()
  return rows[0].n
}
const [off, waited, on] = await Promise.all([rowsAfter('off'), rowsAfter('off', 'on'), rowsAfter('on')])
console.log(`off: ${off} of 200 rows; off, then one commit with on: ${waited} of 201 rows; on: ${on} of 200 rows`)
assert.deepEqual([off, waited, on], [0, 201, 200])
JS
node main.mjs
