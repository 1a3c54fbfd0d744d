#!/usr/bin/env bash
# redis 6.3.1: the option `commandOptions.timeout`, whose default is 5 seconds.
#
# Expected: a command without an answer fails after its timeout, and then the program goes on without the server.
# Seen: the timeout counts only until the command is written to the socket. A server that accepts the connection and
# answers no more, for example because its process is stopped, gets the command at once. From then on nothing limits the
# wait. An option that is unset is no remedy either: it means 5 seconds, until the write. Only a client that is not
# connected lets a command fail in time. A program needs a deadline of its own for each command.
#
#   not connected: TimeoutError
#   connected, timeout 200 ms, after 3000 ms: no answer yet
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
echo '{ "private": true, "type": "module" }' > package.json
npm install --silent --no-audit --no-fund redis@6.3.1
# The server answers OK to the commands with which a client begins, and then nothing more.
cat > timeout.mjs <<'JS'
import { createServer } from 'node:net'
import { setTimeout as pause } from 'node:timers/promises'
import { createClient } from 'redis'

let answers = true
const server = createServer((socket) => {
  socket.on('error', () => undefined)
  // A command begins with the number of its words, such as *2.
  socket.on('data', (data) => answers && socket.write('+OK\r\n'.repeat(String(data).match(/^\*/gm)?.length ?? 0)))
})
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
const clientOf = (port) => {
  const client = createClient({ RESP: 2, socket: { host: '127.0.0.1', port, reconnectStrategy: 100 }, commandOptions: { timeout: 200 } })
  client.on('error', () => undefined)
  return client
}
const outcomeOf = (command) => command.then(() => 'answered', (error) => error.constructor.name)

const unconnected = clientOf(1)
void unconnected.connect().catch(() => undefined)
console.log('not connected:', await outcomeOf(unconnected.get('a')))

const client = clientOf(server.address().port)
await client.connect()
answers = false
const outcome = outcomeOf(client.get('a'))
console.log('connected, timeout 200 ms, after 3000 ms:', await Promise.race([outcome, pause(3_000, 'no answer yet')]))
process.exit()
JS
timeout 30 node timeout.mjs | tee seen
diff seen - <<'SEEN'
not connected: TimeoutError
connected, timeout 200 ms, after 3000 ms: no answer yet
SEEN
