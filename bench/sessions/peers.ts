// All peers by name.

import { connectPgSimple, connectRedis } from './express-session-peers.js'
import { ironSession } from './iron-peer.js'
import { keyrow, plainKeyrow } from './keyrow-peer.js'
import { byHand } from './limit-peer.js'
import type { OpenPeer } from './peer.js'

export const peers: Readonly<Record<string, OpenPeer>> = {
  keyrow,
  'keyrow, no layers': plainKeyrow,
  'connect-pg-simple': connectPgSimple,
  'connect-redis': connectRedis,
  'iron-session': ironSession,
  'by hand': byHand,
}
