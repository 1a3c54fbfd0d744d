// What io-ts says of a misfit, in words: the paths and the codecs' names only, since a value may be a secret.
import type { Errors } from 'io-ts'

export const problemsOf = (errors: Errors): readonly string[] =>
  errors.map((error) => {
    const path = error.context.slice(1).map((step) => step.key)
    const expected = error.context.at(-1)?.type.name ?? 'another type'
    return error.message ?? `expected ${expected}${path.length > 0 ? ` at ${path.join('.')}` : ''}`
  })
