#!/usr/bin/env bash
# memcache-client 1.0.5: a client with several servers.
#
# Expected: the key decides which server has a value, as in other clients of memcached. So a value that was stored is
# found again.
# Seen: each command goes to a server that is chosen at random. With two servers about half of the values are not found,
# and a deletion often reaches the server that does not have the value. The list of servers is for fallback only.
#
#   one server: found 200 of 200
#   two servers: some are not found
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
echo '{ "private": true, "type": "module" }' > package.json
npm install --silent --no-audit --no-fund memcache-client@1.0.5
# A server with the two commands that the program sends.
cat > servers.mjs <<'JS'
import { createServer } from 'node:net'
import { MemcacheClient } from 'memcache-client'

const startServer = async () => {
  const values = new Map()
  const server = createServer((socket) => {
    let rest = ''
    socket.on('error', () => undefined).on('data', (data) => {
      rest += data
      for (let end = rest.indexOf('\r\n'); end >= 0; end = rest.indexOf('\r\n')) {
        const [command, key, flags, , bytes] = rest.slice(0, end).split(' ')
        const size = command === 'set' ? Number(bytes) + 2 : 0
        if (rest.length < end + 2 + size) return
        if (command === 'set') {
          values.set(key, [flags, rest.slice(end + 2, end + size)])
          socket.write('STORED\r\n')
        } else {
          const found = values.get(key)
          socket.write(found ? `VALUE ${key} ${found[0]} ${found[1].length}\r\n${found[1]}\r\nEND\r\n` : 'END\r\n')
        }
        rest = rest.slice(end + 2 + size)
      }
    })
  })
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  return { server: `127.0.0.1:${server.address().port}`, maxConnections: 1 }
}

const found = async (servers) => {
  const client = new MemcacheClient({ server: { servers } })
  let count = 0
  for (let key = 0; key < 200; key += 1) {
    await client.set(`key${key}`, `value ${key}`)
    if ((await client.get(`key${key}`))?.value === `value ${key}`) count += 1
  }
  return count
}
console.log(`one server: found ${await found([await startServer()])} of 200`)
const two = await found([await startServer(), await startServer()])
console.log(two > 20 && two < 180 ? 'two servers: some are not found' : `two servers: found ${two} of 200`)
process.exit()
JS
timeout 30 node servers.mjs | tee seen
diff seen - <<'SEEN'
one server: found 200 of 200
two servers: some are not found
SEEN
