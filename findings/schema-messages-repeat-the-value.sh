#!/usr/bin/env bash
# zod 4.6.7, valibot 1.5.0, arktype 2.2.10: the messages of their issues, read through Standard Schema.
#
# Expected: a message says what a value should be, so a program may write it into a log, also for a form with a password.
# Seen: with their default messages, valibot and arktype repeat some rejected values, and zod none. A text of the wrong
# length is told by its length only. A text of the wrong form is repeated by both, at the end of the message: after
# "Received" (valibot), or in parentheses after "was" (arktype). A value of the wrong type is repeated by valibot only. So
# the same program, with another library for its schemas, writes what users typed into its log.
#
#   zod      short text: no   wrong type: no   no e-mail: no
#   valibot  short text: no   wrong type: yes   no e-mail: yes
#   arktype  short text: no   wrong type: no   no e-mail: yes
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
echo '{ "private": true, "type": "module" }' > package.json
npm install --silent --no-audit --no-fund zod@4.6.7 valibot@1.5.0 arktype@2.2.10
cat > messages.mjs <<'JS'
import { type } from 'arktype'
import * as v from 'valibot'
import { z } from 'zod'

const number = 471100815
const text = 'sesame-471100815'
const schemas = {
  zod: { 'short text': z.string().min(20), 'wrong type': z.string(), 'no e-mail': z.email() },
  valibot: {
    'short text': v.pipe(v.string(), v.minLength(20)),
    'wrong type': v.string(),
    'no e-mail': v.pipe(v.string(), v.email()),
  },
  arktype: { 'short text': type('string >= 20'), 'wrong type': type('string'), 'no e-mail': type('string.email') },
}
for (const [library, cases] of Object.entries(schemas)) {
  const told = Object.entries(cases).map(([name, schema]) => {
    const { issues } = schema['~standard'].validate(name === 'wrong type' ? number : text)
    return `${name}: ${issues.some(({ message }) => message.includes('471100815')) ? 'yes' : 'no'}`
  })
  console.log(library.padEnd(8), told.join('   '))
}
JS
timeout 30 node messages.mjs | tee seen
diff seen - <<'SEEN'
zod      short text: no   wrong type: no   no e-mail: no
valibot  short text: no   wrong type: yes   no e-mail: yes
arktype  short text: no   wrong type: no   no e-mail: yes
SEEN
