#!/usr/bin/env bash
# PostgreSQL 18 (npm package @electric-sql/pglite@0.5.16).
#
# An optimistic update (`update … set value = $new where id = $id and value = $old`) is a common way to lose no update.
# It loses one without an error where the column's `=` takes a changed value for the old one: `box` and `circle` compare
# areas, `path` compares the numbers of points, `interval` takes a day for 24 hours, `numeric` overlooks the scale, which is
# printed and kept. With `is not distinct from` it is the same. `json`, `xml` and `point` have no `=` at all. A comparison of
# the values' texts, under the collation "C", finds each change.
#
# Output seen (how many rows each form updates, although the value has changed):
#   box       by =: 1   by text: 0
#   circle    by =: 1   by text: 0
#   path      by =: 1   by text: 0
#   interval  by =: 1   by text: 0
#   numeric   by =: 1   by text: 0
#   json      by =: 42883   by text: 0
#   xml       by =: 42883   by text: 0
#   point     by =: 42883   by text: 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
echo '{ "private": true, "type": "module" }' > package.json
npm install --silent --no-audit --no-fund --ignore-scripts @electric-sql/pglite@0.5.16 >/dev/null
cat > program.mjs <<'JS'
import { PGlite } from '@electric-sql/pglite'

const db = await PGlite.create()
const cases = [
  ['box', '(2,1),(0,0)', '(1,2),(0,0)', 1],
  ['circle', '<(0,0),1>', '<(5,5),1>', 1],
  ['path', '((0,0),(1,1))', '((7,7),(2,2))', 1],
  ['interval', '1 day', '24:00:00', 1],
  ['numeric', '1.0', '1.00', 1],
  ['json', '1', '2', '42883'],
  ['xml', '<a/>', '<b/>', '42883'],
  ['point', '(1,2)', '(2,1)', '42883'],
]
let changed = false
for (const [type, old, present, byEqual] of cases) {
  await db.exec(`create table t (value ${type}); insert into t values ('${present}')`)
  const updated = (where) =>
    db.query(`update t set value = value where ${where}`).then(
      ({ affectedRows }) => affectedRows,
      (error) => error.code,
    )
  const equal = await updated(`value is not distinct from '${old}'::${type}`)
  const byText = await updated(`value::text collate "C" = '${old}'::${type}::text`)
  await db.exec('drop table t')
  console.log(`${type.padEnd(9)} by =: ${equal}   by text: ${byText}`)
  if (equal !== byEqual || byText !== 0) changed = true
}
await db.close()
if (changed) {
  console.log('this is not what was seen before')
  process.exit(1)
}
JS
node program.mjs
