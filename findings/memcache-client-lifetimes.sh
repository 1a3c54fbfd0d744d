#!/usr/bin/env bash
# memcache-client 1.0.5: what it sends as the lifetime of a value.
#
# Expected: a value that is set without a lifetime stays until it is evicted (0 in memcached's protocol), and a lifetime
# of 60 days is 60 days, or is refused.
# Seen: without a lifetime it sends 60 seconds. A lifetime above 30 days is sent as it is, and memcached's protocol takes
# a number above 2,592,000 as a moment since 1970: the value has expired before it is stored, and the answer is STORED.
# (A small server here answers STORED and writes down what it is sent.)
#
#   set a 0 60 5
#   set b 0 5184000 5
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
npm install --silent --no-audit --no-fund memcache-client@1.0.5
cat > main.mjs <<'JS'
import assert from 'node:assert/strict'
import { createServer } from 'node:net'
import { MemcacheClient } from 'memcache-client'

const commands = []
const server = createServer((socket) => {
  socket.on('data', (data) => {
    for (const line of String(data).split('\r\n')) {
      if (!line.startsWith('set ')) continue
      commands.push(line)
      socket.write('STORED\r\n')
    }
  })
})
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
const client = new MemcacheClient({ server: `127.0.0.1:${server.address().port}` })
await client.set('a', 'hello')
await client.set('b', 'hello', { lifetime: 60 * 24 * 60 * 60 })
client.shutdown()
server.close()
for (const command of commands) console.log(command.trim())
assert.deepEqual(commands.map((command) => command.trim()), ['set a 0 60 5', 'set b 0 5184000 5'])
JS
node main.mjs
