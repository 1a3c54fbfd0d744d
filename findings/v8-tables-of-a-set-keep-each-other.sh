#!/usr/bin/env bash
# Node.js 24.21.0 (V8 13.6) and 20.20.2: a Set or Map that gets and loses members replaces its table after a few changes.
# The old table refers to the new one, for the sake of iterators. Once a table has got into the old generation, it keeps
# all later tables through each scavenge, with the members that they had when they were replaced. So deleted members, such
# as statements that have ended, stay in memory until a full collection. An array keeps nothing.
# Output seen:
#   members of a Set: stays
#   members of an array: is freed
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
case "$(uname -m)" in aarch64 | arm64) arch=arm64 ;; *) arch=x64 ;; esac
os=$(uname -s | tr '[:upper:]' '[:lower:]')
echo '{"private":true,"type":"module"}' >package.json
npm install --silent --ignore-scripts --no-audit --no-fund "node-$os-$arch@24.21.0"
cat >stays.mjs <<'JS'
import { getHeapSpaceStatistics } from 'node:v8'
const old = () => getHeapSpaceStatistics().find(({ space_name }) => space_name === 'old_space').space_used_size
// What survives two scavenges is moved into the old generation.
const scavenge = () => [1, 2].forEach(() => globalThis.gc({ type: 'minor' }))
const kilobyte = () => new Array(125).fill(0.5)
// A member is added before the last one is deleted, so the set never gets empty. A table holds a few members.
const set = new Set()
const list = []
let last
const cases = {
  'members of a Set': () => {
    const member = { body: [kilobyte(), kilobyte(), kilobyte(), kilobyte()] }
    set.add(member)
    set.delete(last)
    last = member
  },
  'members of an array': () => {
    list.push({ body: [kilobyte(), kilobyte(), kilobyte(), kilobyte()] })
    if (list.length > 1) list.shift()
  },
}
set.add(1)
scavenge()
for (const [name, act] of Object.entries(cases)) {
  const growth = [1, 2, 3].map(() => {
    scavenge()
    const before = old()
    for (let count = 0; count < 1000; count += 1) act()
    scavenge()
    return (old() - before) / 1000
  })
  const [, median] = growth.sort((a, b) => a - b)
  console.log(`${name}: ${median > 900 ? 'stays' : median < 100 ? 'is freed' : median}`)
}
JS
timeout 60 "node_modules/node-$os-$arch/bin/node" --expose-gc stays.mjs | tee seen
[ "$(cat seen)" = "$(printf 'members of a Set: stays\nmembers of an array: is freed')" ]
