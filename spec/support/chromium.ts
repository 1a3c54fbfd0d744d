// Finds Chromium, which is no npm package.

import { existsSync } from 'node:fs'

/** Returns the path of Chromium. Without Chromium, throws an error that says how to get it. */
export const chromiumPath = (): string => {
  const places = [process.env['CHROMIUM'], '/usr/bin/chromium', '/usr/bin/chromium-browser']
  const path = places.find((place) => place !== undefined && existsSync(place))
  if (path === undefined)
    throw new Error(
      'Chromium is not found: install it (Debian: apt-get install chromium), or say where it is by CHROMIUM',
    )
  return path
}
