#!/bin/sh
# @electric-sql/pglite 0.5.16: `alter role … set` and `alter database … set` are stored in the directory and never take
# effect, not even when it is opened again; `alter system set` does take effect when it is opened again.
# (PGlite runs PostgreSQL without a postmaster, where settings of roles and databases are not read.)
# Output seen:
#   stored: bytea_output=escape
#   role: hex
#   database: DateStyle ISO, MDY
#   system: extra_float_digits -15
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund @electric-sql/pglite@0.5.16 >/dev/null
cat > run.mjs <<'JS'
import { PGlite } from '@electric-sql/pglite'
const first = await PGlite.create('./data')
await first.exec("alter role postgres set bytea_output = 'escape'")
await first.exec("alter database postgres set DateStyle = 'German'")
await first.exec('alter system set extra_float_digits = -15')
await first.close()
const db = await PGlite.create('./data')
const value = async (text) => Object.values((await db.query(text)).rows[0])[0]
console.log('stored:', await value("select setconfig[1] from pg_db_role_setting where setrole <> 0"))
console.log('role:', await value('show bytea_output'))
console.log('database: DateStyle', await value('show DateStyle'))
console.log('system: extra_float_digits', await value('show extra_float_digits'))
await db.close()
JS
node run.mjs | tee seen
cat > expected <<'TEXT'
stored: bytea_output=escape
role: hex
database: DateStyle ISO, MDY
system: extra_float_digits -15
TEXT
diff expected seen
