// Loads the measured builds of keyrow: the build of this checkout, and the build of another version for comparison.

import { pathToFileURL } from 'node:url'
import type * as postgres from 'keyrow/postgres'
import type * as main from 'keyrow/promise'
import type * as store from 'keyrow/store'

export interface Library {
  readonly main: typeof main
  readonly store: typeof store
  readonly postgres: typeof postgres
  /** The PostgreSQL schema of the library's tables. */
  readonly schema: string
}

/** Loads the build of this checkout. */
export const current = async (): Promise<Library> => ({
  main: await import('keyrow/promise'),
  store: await import('keyrow/store'),
  postgres: await import('keyrow/postgres'),
  schema: 'keyrow',
})

/** Loads the build of another checkout. The environment variable BASELINE names its folder. */
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
