#!/usr/bin/env bash
# Node.js 20.20.2 and immutable 5.2.1, a package of one CommonJS file of 212 kB.
#
# Expected: `import { Map } from 'immutable'` in an ES module costs about what `require('immutable')` costs, since it is
# the same file that runs.
# Seen: the import takes several times the processor time. Before Node.js can link the ES module it scans the whole text of
# the file for the names that it exports, with a scanner in JavaScript that is not yet compiled at that moment. The file is
# only then compiled and run.
#
#   require: 5.6 ms, import: 47.9 ms, import by way of a small CommonJS module: 6.2 ms
#
# An ES module that imports a short CommonJS file which assigns `exports.Map = require('immutable').Map` gets the same names
# for little more than the price of `require`: what that file requires is not scanned.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
printf '{ "private": true, "type": "module" }' > package.json
npm install --silent --no-audit --no-fund immutable@5.2.1 node@20.20.2
node=$(echo node_modules/node/bin/node)
cat > timed.mjs <<'JS'
import { createRequire } from 'node:module'
// Both loaders have been at work before.
await import('./other.cjs')
createRequire(import.meta.url)('./other2.cjs')
const how = process.argv[2]
const before = process.cpuUsage()
if (how === 'require') createRequire(import.meta.url)('immutable')
else if (how === 'import') await import('immutable')
else await import('./small.cjs')
const { user, system } = process.cpuUsage(before)
console.log((user + system) / 1000)
JS
echo 'exports.a = 1' > other.cjs
echo 'exports.a = 1' > other2.cjs
echo "exports.Map = require('immutable').Map" > small.cjs
median() { for _ in 1 2 3 4 5 6 7 8 9; do "$node" timed.mjs "$1"; done | sort -n | sed -n 5p; }
required=$(median require)
imported=$(median import)
small=$(median small)
echo "require: $required ms, import: $imported ms, import by way of a small CommonJS module: $small ms"
awk -v r="$required" -v i="$imported" -v s="$small" 'BEGIN { exit !(i > 2 * r && i > 2 * s) }'
