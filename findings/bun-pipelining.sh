#!/usr/bin/env bash
# bun 1.4.5, Bun.serve: of pipelined requests (HTTP/1.1, RFC 9112 section 9.3.2) none is answered when the handler's
# answer comes later than in the same turn of the event loop: the connection is closed without a byte. With a handler
# that answers after a mere microtask all are answered, in order. Node.js and Deno answer all in both cases.
# Output seen:
#   microtask: 3 answers
#   timer: 0 answers, closed
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
case "$(uname -m)" in aarch64 | arm64) arch=aarch64 ;; *) arch=x64 ;; esac
os=$(uname -s | tr '[:upper:]' '[:lower:]')
echo '{"private":true,"type":"module"}' >package.json
npm install --silent --ignore-scripts --no-audit --no-fund "@oven/bun-$os-$arch@1.4.5"
cat >pipeline.mjs <<'JS'
import { connect } from 'node:net'
const waits = { microtask: () => Promise.resolve(), timer: () => new Promise((resolve) => setTimeout(resolve, 20)) }
for (const [name, wait] of Object.entries(waits)) {
  const server = Bun.serve({
    port: 0,
    fetch: async (request) => {
      await wait()
      return new Response(new URL(request.url).pathname)
    },
  })
  const socket = connect(server.port, '127.0.0.1')
  let all = ''
  socket.on('data', (data) => (all += data))
  const request = (path, more = '') => `GET ${path} HTTP/1.1\r\nHost: x\r\n${more}\r\n`
  socket.write(request('/1') + request('/2') + request('/3', 'Connection: close\r\n'))
  await new Promise((resolve) => socket.on('close', resolve))
  const answers = all.match(/HTTP\/1\.1 200/g)?.length ?? 0
  console.log(`${name}: ${answers} answers${answers === 0 ? ', closed' : ''}`)
  await server.stop(true)
}
process.exit()
JS
timeout 30 "node_modules/@oven/bun-$os-$arch/bin/bun" run pipeline.mjs | tee seen
[ "$(cat seen)" = "$(printf 'microtask: 3 answers\ntimer: 0 answers, closed')" ]
