// Randomness from the operating system: public ids, and secrets.
import { randomBytes, randomUUID } from 'node:crypto'

/** A random UUID (version 4, 122 random bits), in lower case. */
export const randomId = (): string => randomUUID()

/** 32 random bytes (256 bits) as 43 characters of base64url. */
export const randomSecret = (): string => randomBytes(32).toString('base64url')

let bits: Buffer = Buffer.alloc(0)

/** 64 random bits as 16 hexadecimal digits. No secret: they come from a supply that is drawn all at once. */
export const randomBits64 = (): string => {
  if (bits.length === 0) bits = randomBytes(4096)
  const drawn = bits.toString('hex', 0, 8)
  bits = bits.subarray(8)
  return drawn
}
