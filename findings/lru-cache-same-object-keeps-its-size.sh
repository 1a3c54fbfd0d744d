#!/usr/bin/env bash
# lru-cache 11.5.3: `set` with the object that the cache already has does not measure it again.
#
# A cache with `maxSize` and `sizeCalculation` calls the function when a value is set. A program that lets a cached
# object grow, and sets it again so that the cache learns its new size, is ignored: the size of the entry stays that of
# the first `set`, `calculatedSize` does not change, and nothing is evicted. The cache then exceeds its limit without a
# sign. A copy of the object, or a `delete` before the `set`, is measured.
#
# Output seen (Node.js 20):
#   after the first set: 10
#   the same objects, grown tenfold, set again: 100 in 10 entries, of at most 500
#   deleted and set: 500 in 5 entries
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund lru-cache@11.5.3
cat >run.mjs <<'JS'
import { LRUCache } from 'lru-cache'

const make = () => new LRUCache({ maxSize: 500, sizeCalculation: ({ items }) => items.length })
const grown = (cache, again) => {
  const objects = Array.from({ length: 10 }, () => ({ items: 'x'.repeat(10) }))
  objects.forEach((object, key) => cache.set(key, object))
  const first = cache.calculatedSize / 10
  for (const [key, object] of objects.entries()) {
    object.items = 'x'.repeat(100)
    again(cache, key, object)
  }
  return { first, total: cache.calculatedSize, entries: cache.size }
}

const same = grown(make(), (cache, key, object) => cache.set(key, object))
const fresh = grown(make(), (cache, key, object) => {
  cache.delete(key)
  cache.set(key, object)
})
console.log(`after the first set: ${same.first}`)
console.log(`the same objects, grown tenfold, set again: ${same.total} in ${same.entries} entries, of at most 500`)
console.log(`deleted and set: ${fresh.total} in ${fresh.entries} entries`)
if (same.total !== 100 || same.entries !== 10 || fresh.total !== 500 || fresh.entries !== 5) process.exit(1)
JS
node run.mjs
