// A peer that is an HTTP server in a separate process. A cycle is one request over a connection that stays open.

import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { httpClient } from './http-client.js'
import { inGroups, type OpenPeer, type Servers } from './peer.js'

const script = fileURLToPath(new URL('./http-server.ts', import.meta.url))

const startServer = async (name: string, servers: Servers) => {
  const child = fork(script, [name, JSON.stringify(servers)], {
    execArgv: process.execArgv,
    env: { ...process.env, NODE_ENV: 'production' },
  })
  const ended = once(child, 'exit')
  const [{ port, failure }] = (await Promise.race([
    once(child, 'message'),
    ended.then(() => [{ failure: 'the server ended' }]),
  ])) as [{ port?: number; failure?: string }]
  if (port === undefined) throw new Error(failure)
  return {
    port,
    stop: async (): Promise<void> => {
      if (child.connected) child.disconnect()
      await ended
    },
  }
}

/** The names of all applications. Only the server process loads the applications, because their import takes long. */
export const httpNames = [
  'keyrow',
  'keyrow, node-postgres',
  'connect-pg-simple',
  'connect-redis',
  'iron-session',
  '@fastify/session, on Fastify',
  'keyrow, on Fastify',
  'no sessions',
] as const

export type HttpName = (typeof httpNames)[number]

export const httpPeer =
  (name: HttpName): OpenPeer =>
  async (servers) => {
    const server = await startServer(name, servers)
    const client = httpClient(server.port)
    return {
      fill: (count, values) => {
        const [[key = '', value = ''] = []] = [Object.entries(values)[0]]
        const path = `/fill?keys=${String(Object.keys(values).length)}&bytes=${String(value.length)}`
        return inGroups(count, async () => {
          const { cookie } = await client.ask('POST', path)
          if (cookie === undefined) throw new Error(`no cookie was given for ${key}`)
          return cookie
        })
      },
      cycle: async (cookie, key, value) => {
        await client.ask('POST', `/set?key=${encodeURIComponent(key)}&value=${value}`, cookie)
      },
      read: async (cookie) => {
        await client.ask('GET', '/', cookie)
      },
      close: async () => {
        client.close()
        await server.stop()
      },
    }
  }
