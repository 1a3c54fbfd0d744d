// One process at a time in a directory: PGlite does not see to it, and two on one directory lose data.
// The lock is the operating system's, so it is free again as soon as its process is gone, however it went.
import { mkdir, open, realpath } from 'node:fs/promises'

/** Takes the lock and gives the function that frees it; rejects when another holder has it, or none can be had. */
export const lockDirectory = async (directory: string): Promise<() => Promise<void>> => {
  const locks = await nativeLocks()
  await mkdir(directory, { recursive: true })
  // Beside the directory, which must be empty when PGlite first makes its files; and one for all its names.
  const path = `${await realpath(directory)}.lock`
  const file = await open(path, 'a')
  if (locks.tryLock(file.fd)) return () => file.close()
  await file.close()
  throw new Error(`${directory} is in use by another process, or opened twice in this one (lock: ${path})`)
}

/**
 * The native module of the lock calls functions of libuv, which Bun and Deno do not have: it ends a process of Deno
 * when it is loaded, and one of Bun when the lock is held elsewhere. Their own locks are of another kind, which does
 * not keep a process of Node.js out.
 */
const nativeLocks = async () => {
  for (const runtime of ['bun', 'deno'])
    if (process.versions[runtime] !== undefined) throw unlocked(`${runtime} cannot run its native module`)
  try {
    const { default: locks } = await import('fs-native-extensions')
    return locks
  } catch (cause) {
    throw unlocked('its native module cannot be loaded on this platform', cause)
  }
}

const unlocked = (why: string, cause?: unknown): Error =>
  new Error(
    `a directory cannot be locked here, since ${why}: open it with Node.js, keep the database in memory (name no directory), or use PostgreSQL`,
    { cause },
  )
