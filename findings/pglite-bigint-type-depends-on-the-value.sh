#!/usr/bin/env bash
# @electric-sql/pglite 0.5.16: the JavaScript type of an int8 column.
#
# Expected: one type for one column: text (as pg and postgres.js give it), or always BigInt.
# Seen: the type depends on each value. What fits a safe integer is a number, what does not is a BigInt, within one result.
# So sums, comparisons by === and JSON.stringify work until the first large value arrives; then adding throws.
#
#   9007199254740991 is number, 9007199254740993 is bigint
#   adding the two rows: TypeError
set -eu
dir=$(mktemp -d)
chmod 755 "$dir"
trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat > package.json <<'JSON'
{
  "private": true,
  "type": "module"
}
JSON
npm install --silent --no-audit --no-fund @electric-sql/pglite@0.5.16
cat > main.mjs <<'JS'
import assert from 'node:assert/strict'
import { PGlite } from '@electric-sql/pglite'

const database = await PGlite.create()
const { rows } = await database.query('select n from (values (9007199254740991::int8), (9007199254740993::int8)) as t (n)')
console.log(rows.map(({ n }) => `${n} is ${typeof n}`).join(', '))
assert.deepEqual(rows.map(({ n }) => typeof n), ['number', 'bigint'])
let failure
try {
  rows.reduce((sum, { n }) => sum + n, 0)
} catch (error) {
  failure = error
}
console.log('adding the two rows:', failure?.name)
assert.equal(failure?.name, 'TypeError')
await database.close()
JS
node main.mjs
