// What a door refuses by itself: a request, whatever its handler would have done; an answer.

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

/** An answer that an adapter refuses, since it could not be sent, or not with the session's cookie. */
export class ResponseRefused extends Error {
  readonly _tag = 'ResponseRefused'

  override get name(): string {
    return this._tag
  }
}

brandErrors(RequestRefused, 'RequestRefused', {})
brandErrors(ResponseRefused, 'ResponseRefused', {})
