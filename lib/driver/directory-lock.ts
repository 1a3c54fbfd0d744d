// One process at a time in a directory: PGlite does not see to it, and two on one directory lose data.
// The lock is the operating system's, so it is free again as soon as its process is gone, however it went.
import { mkdir, open, realpath } from 'node:fs/promises'

/** Takes the lock and gives the function that frees it; rejects when another holder has it. */
export const lockDirectory = async (directory: string): Promise<() => Promise<void>> => {
  await mkdir(directory, { recursive: true })
  // Beside the directory, which must be empty when PGlite first makes its files; and one for all its names.
  const path = `${await realpath(directory)}.lock`
  const { default: locks } = await import('fs-native-extensions')
  const file = await open(path, 'a')
  if (locks.tryLock(file.fd)) return () => file.close()
  await file.close()
  throw new Error(`${directory} is in use by another process, or opened twice in this one (lock: ${path})`)
}
