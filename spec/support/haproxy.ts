// Runs a real HAProxy, which distributes the connections of one address to several servers.

import { connect } from 'node:net'
import { join } from 'node:path'
import { freePort, startProgram } from './program.js'

export interface HaProxy {
  /** The address, for clients that search for the primary. */
  readonly url: string
  /** Sets whether a server (numbered from 0) gets new connections, and whether its old connections are closed. */
  readonly turn: (server: number, state: 'on' | 'off' | 'off, and closed') => Promise<void>
  /** Returns the number of connections of each server so far. */
  readonly connections: () => Promise<readonly number[]>
  readonly stop: () => Promise<void>
}

export const startHaProxy = async (ports: readonly number[]): Promise<HaProxy> => {
  const port = await freePort()
  const servers = ports.map((port, index) => `  server s${index} 127.0.0.1:${port}\n`)
  const { directory, stop } = await startProgram((directory) => ({
    command: ['haproxy', '-q', '-db', '-f', '{haproxy.cfg}'],
    files: {
      'haproxy.cfg': `global
  stats socket ${join(directory, 'control')} level admin
defaults
  mode tcp
  timeout connect 2s
  timeout client 10m
  timeout server 10m
listen postgres
  bind 127.0.0.1:${port}
  balance roundrobin
${servers.join('')}`,
    },
    port,
    signal: 'TERM',
  }))
  const order = (text: string): Promise<string> =>
    new Promise((resolve, reject) => {
      let answer = ''
      connect(join(directory, 'control'))
        .on('data', (data) => (answer += data.toString()))
        .on('close', () => resolve(answer))
        .on('error', reject)
        .end(`${text}\n`)
    })
  return {
    url: `postgres://postgres@127.0.0.1:${port}/postgres?target_session_attrs=primary`,
    turn: async (server, state) => {
      await order(`set server postgres/s${server} state ${state === 'on' ? 'ready' : 'maint'}`)
      if (state === 'off, and closed') await order(`shutdown sessions server postgres/s${server}`)
    },
    connections: async () => {
      const [head = '', ...lines] = (await order('show stat')).split('\n')
      const column = (name: string) => head.replace(/^# /, '').split(',').indexOf(name)
      const rows = lines.map((line) => line.split(','))
      return ports.map((_, index) =>
        Number(rows.find((row) => row[column('svname')] === `s${index}`)?.[column('stot')]),
      )
    },
    stop,
  }
}
