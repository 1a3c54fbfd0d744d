// The session ids of express-session. A sid is a credential, so no database is told it: keyrow's id and secret
// are both derived from it, each in its own way, and neither leads back.

import { createHash } from 'node:crypto'
import * as O from 'fp-ts/lib/Option.js'
import { Token } from '../session/token.js'

const digest = (purpose: string, sid: string): Buffer =>
  createHash('sha256').update(`keyrow express-session ${purpose}\0${sid}`).digest()

/** The token of the session that has this sid. */
export const tokenOfSid = (sid: string): Token => {
  const id = digest('id', sid).subarray(0, 16)
  // The bits by which a UUID says that it is one of version 4.
  id.writeUInt8((id.readUInt8(6) & 0x0f) | 0x40, 6)
  id.writeUInt8((id.readUInt8(8) & 0x3f) | 0x80, 8)
  const uuid = id.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')
  const token = Token.parse(`${uuid}.${digest('secret', sid).toString('base64url')}`)
  if (O.isNone(token)) throw new Error('a digest is no token')
  return token.value
}
