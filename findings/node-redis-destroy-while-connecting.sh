#!/usr/bin/env bash
# redis 6.3.1: `destroy()` of a client that is still connecting, for example because the name of its server is looked up.
#
# Expected: the attempt to connect ends, and no connection is left.
# Seen: the attempt goes on. The client connects, and stays connected, although `isOpen` is false. Each client that is
# given up in this way leaves a connection at the server, and keeps the process running. A second `destroy()`, after
# the promise of `connect()` has resolved, closes the connection.
#
#   after destroy: isOpen false
#   later: isOpen false, isReady true, connections 1
#   after a second destroy: connections 0
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
echo '{ "private": true, "type": "module" }' > package.json
npm install --silent --no-audit --no-fund redis@6.3.1
# The server answers OK to each command. That is enough for a client that only connects.
cat > connecting.mjs <<'JS'
import { createServer } from 'node:net'
import { setTimeout as pause } from 'node:timers/promises'
import { createClient } from 'redis'

const sockets = new Set()
const server = createServer((socket) => {
  sockets.add(socket)
  socket.on('close', () => sockets.delete(socket)).on('error', () => undefined)
  // A command begins with the number of its words, such as *2.
  socket.on('data', (data) => socket.write('+OK\r\n'.repeat(String(data).match(/^\*/gm)?.length ?? 0)))
})
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
const lookup = (_name, options, done) =>
  setTimeout(() => (options.all ? done(null, [{ address: '127.0.0.1', family: 4 }]) : done(null, '127.0.0.1', 4)), 300)
const client = createClient({ RESP: 2, socket: { host: 'redis.example', port: server.address().port, lookup } })
client.on('error', () => undefined)
const connecting = client.connect().catch(() => undefined)
await pause(100)
client.destroy()
console.log(`after destroy: isOpen ${client.isOpen}`)
await pause(1_000)
console.log(`later: isOpen ${client.isOpen}, isReady ${client.isReady}, connections ${sockets.size}`)
await connecting
client.destroy()
await pause(200)
console.log(`after a second destroy: connections ${sockets.size}`)
process.exit()
JS
timeout 30 node connecting.mjs | tee seen
diff seen - <<'SEEN'
after destroy: isOpen false
later: isOpen false, isReady true, connections 1
after a second destroy: connections 0
SEEN
