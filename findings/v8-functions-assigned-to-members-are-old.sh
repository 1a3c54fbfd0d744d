#!/usr/bin/env bash
# Node.js 24.21.0 (V8 13.6) and 20.20.2: a function that is written at the right of an assignment to a member
# (`o.f = () => …`) is allocated in the old generation, as methods of a prototype are. So it and all that it refers to
# survive each scavenge, until a full collection. With the same function in a variable first, or in an object literal,
# nothing stays. Code that V8 has optimized may do otherwise.
# Output seen:
#   o.f = () => body: stays
#   const f = () => body; o.f = f: is freed
#   { f: () => body }: is freed
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
const cases = {
  'o.f = () => body': () => {
    const body = kilobyte()
    const o = {}
    o.f = () => body
  },
  'const f = () => body; o.f = f': () => {
    const body = kilobyte()
    const o = {}
    const f = () => body
    o.f = f
  },
  '{ f: () => body }': () => {
    const body = kilobyte()
    return { f: () => body }
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
[ "$(cat seen)" = "$(printf 'o.f = () => body: stays\nconst f = () => body; o.f = f: is freed\n{ f: () => body }: is freed')" ]
