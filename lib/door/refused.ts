// A request that a door refuses by itself, whatever its handler would have done.

import { brandErrors } from '../base/brand.js'

/** Refused, with the status 403: it may be forged. */
export class RequestRefused extends Error {
  readonly _tag = 'RequestRefused'

  constructor(
    readonly status: 403,
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
