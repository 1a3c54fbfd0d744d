#!/usr/bin/env bash
# Standard Schema v1 results of valibot 1.5.0, arktype 2.2.10 and zod 4.6.7, looked at by code that takes any of them.
#
# Expected: a result either has `value` (success) or `issues` (failure), and a synchronous result holds what was parsed.
# Seen:
#   valibot: a failure has BOTH `issues` and `value`, so a test for 'value' takes invalid input as valid;
#   arktype: an asynchronous morph gives a synchronous success whose value holds a pending promise deep inside, so that a
#            test for `result instanceof Promise` does not notice;
#   zod: the same transform makes `validate` itself return a promise.
#
#   valibot failure has value: true
#   arktype result is a promise: false, its member is a promise: true
#   zod result is a promise: true
#
# Only `issues === undefined` tells success, and promises have to be looked for inside of the value, too.
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
npm install --silent --no-audit --no-fund arktype@2.2.10 valibot@1.5.0 zod@4.6.7
cat > main.mjs <<'JS'
import assert from 'node:assert/strict'
import { type } from 'arktype'
import * as v from 'valibot'
import { z } from 'zod'

const failed = v.object({ age: v.number() })['~standard'].validate({ age: 'old' })
console.log('valibot failure has value:', 'value' in failed)
assert.ok(failed.issues.length > 0)
assert.ok('value' in failed)

const later = async (text) => text.length
const morph = type({ name: type('string').pipe(later) })['~standard'].validate({ name: 'Ada' })
console.log(`arktype result is a promise: ${morph instanceof Promise}, its member is a promise: ${morph.value?.name instanceof Promise}`)
assert.ok(!(morph instanceof Promise) && morph.issues === undefined && morph.value.name instanceof Promise)

const parsed = z.object({ name: z.string().transform(later) })['~standard'].validate({ name: 'Ada' })
console.log('zod result is a promise:', parsed instanceof Promise)
assert.ok(parsed instanceof Promise)
assert.deepEqual((await parsed).value, { name: 3 })
JS
node main.mjs
