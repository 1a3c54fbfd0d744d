// Randomness from the operating system: public ids, and secrets.
import { randomBytes, randomUUID } from 'node:crypto'

/** A random UUID (version 4, 122 random bits), in lower case. */
export const randomId = (): string => randomUUID()

/** 32 random bytes (256 bits) as 43 characters of base64url. */
export const randomSecret = (): string => randomBytes(32).toString('base64url')

/** 64 random bits as 16 hexadecimal digits. */
export const randomBits64 = (): string => randomBytes(8).toString('hex')
