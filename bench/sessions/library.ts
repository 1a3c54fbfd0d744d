// The library as it is measured: this checkout's build, or that of another version beside it.

import { pathToFileURL } from 'node:url'
import type * as postgres from 'keyrow/postgres'
import type * as main from 'keyrow/promise'
import type * as store from 'keyrow/store'

export interface Library {
  readonly main: typeof main
  readonly store: typeof store
  readonly postgres: typeof postgres
  /** The schema of its tables. */
  readonly schema: string
}

/** The build in this checkout. */
export const current = async (): Promise<Library> => ({
  main: await import('keyrow/promise'),
  store: await import('keyrow/store'),
  postgres: await import('keyrow/postgres'),
  schema: 'keyrow',
})

/** The build of another checkout, in the variable BASELINE. */
export const baseline = async (): Promise<Library> => {
  const load = async <A>(path: string): Promise<A> =>
    (await import(pathToFileURL(`${process.env['BASELINE'] ?? ''}/dist/${path}.js`).href)) as A
  return {
    main: await load('promise/index'),
    store: await load('entry/store'),
    postgres: await load('entry/postgres'),
    schema: 'baseline',
  }
}
