#!/usr/bin/env bash
# Node.js 24.21.0 (V8 13.6) and 20.20.2: the pair of getter and setter of an accessor is allocated in the old generation.
# So an object literal with a getter, or `Object.defineProperty` with a new getter, keeps what the getter refers to through
# each scavenge, until a full collection. A lazy member of a request is cheaper as a getter of a class.
# Output seen:
#   a getter in an object literal: stays
#   a new getter by defineProperty: stays
#   a shared getter by defineProperty: is freed
#   a getter of a class: is freed
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
class Lazy {
  constructor(body) {
    this.body = body
  }
  get size() {
    return this.body.length
  }
}
const shared = {
  get() {
    return this.body.length
  },
}
const cases = {
  'a getter in an object literal': () => {
    const body = kilobyte()
    return {
      get size() {
        return body.length
      },
    }
  },
  'a new getter by defineProperty': () => {
    const body = kilobyte()
    return Object.defineProperty({}, 'size', { get: () => body.length })
  },
  'a shared getter by defineProperty': () => Object.defineProperty({ body: kilobyte() }, 'size', shared),
  'a getter of a class': () => new Lazy(kilobyte()),
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
[ "$(cat seen)" = "$(printf 'a getter in an object literal: stays\na new getter by defineProperty: stays\na shared getter by defineProperty: is freed\na getter of a class: is freed')" ]
