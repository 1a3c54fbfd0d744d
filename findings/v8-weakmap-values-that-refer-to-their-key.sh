#!/usr/bin/env bash
# Node.js 24.21.0 (V8 13.6) and 20.20.2: a scavenge, which collects the young generation, treats the values of a WeakMap
# as live, whether or not their keys are. So an entry whose value refers to its key survives each scavenge, and gets into
# the old generation. Only a full collection frees it. A library that notes something about each HTTP request in a
# WeakMap keeps each request until then, if its note refers to the request, and each scavenge copies them.
# Output seen:
#   the value refers to the key: stays
#   the value does not: is freed
#   a member of the object: is freed
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
const map = new WeakMap()
const note = Symbol('note')
const cases = {
  'the value refers to the key': () => {
    const request = { body: kilobyte() }
    map.set(request, { request })
  },
  'the value does not': () => {
    map.set({ body: kilobyte() }, { at: 1 })
  },
  'a member of the object': () => {
    const request = { body: kilobyte() }
    request[note] = { request }
  },
}
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
[ "$(cat seen)" = "$(printf 'the value refers to the key: stays\nthe value does not: is freed\na member of the object: is freed')" ]
