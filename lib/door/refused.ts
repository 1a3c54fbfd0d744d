// A request that a door refuses by itself, whatever its handler would have done.

import { brandErrors } from '../base/brand.js'

/** Refused: `status` says why (403: it may be forged; 429: its address shows too many bad tokens). */
export class RequestRefused extends Error {
  readonly _tag = 'RequestRefused'

  constructor(
    readonly status: 403 | 429,
    message: string,
    readonly headers: Readonly<Record<string, string>> = {},
  ) {
    super(message)
  }

  override get name(): string {
    return this._tag
  }
}

brandErrors(RequestRefused, 'RequestRefused', {})
