// Biome formats and lints what one file shows; ESLint adds what needs types, and the plan of the house.

import { defineConfig } from 'eslint/config'
import tseslint from 'typescript-eslint'
import house from './.ci/lint-rules.js'

/** The rooms from the ground up; files directly in lib share the top floor with testing. */
const floors = [
  'base',
  'record',
  'session',
  'port',
  'table',
  'collector',
  'combinator',
  'sql',
  'driver',
  'current',
  'door',
  'cli',
  'promise',
  'testing',
]

/** Modules that only some files of lib may import, as a pattern of their path; null means none. */
const gates = {
  postgres: '(driver/postgres(-.+)?|cli/open)[.]ts',
  '@electric-sql/pglite': 'driver/pglite.*',
  http: '(door|testing)/.+',
  // Of each framework the types, by its own door; express-session's classes are what its stores are made of.
  express: null, // known by the few members that the door uses
  fastify: 'door/fastify[.]ts',
  koa: 'door/koa[.]ts',
  hono: 'door/hono[.]ts',
  'express-session': 'door/express-session[.]ts',
  async_hooks: '(current/.+|combinator/.+|port/scoped[.]ts)', // the current session; batches that are nobody's; the transaction that we are in
  console: 'door/.+',
  tap: null,
  'fast-check': null,
  keyrow: null, // lib meets itself by path, where the floors are seen
}

export default defineConfig(
  { ignores: ['dist/', 'build/', '.tap/', '.data/', 'coverage/'] },
  {
    files: ['{lib,spec,examples,bench}/**/*.ts'],
    extends: [tseslint.configs.strictTypeChecked],
    plugins: { house },
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    linterOptions: { reportUnusedDisableDirectives: 'error' },
    rules: {
      'house/no-unrun-task': 'error',
      '@typescript-eslint/consistent-type-imports': 'error', // and no import('x') inside a type: rules miss it
      // Numbers, booleans and patterns read well in a template; undefined and any do not.
      '@typescript-eslint/restrict-template-expressions': ['error', { allowAny: false, allowNullish: false }],
      // `() => log(x)` is the plain way to write a callback that returns nothing.
      '@typescript-eslint/no-confusing-void-expression': ['error', { ignoreArrowShorthand: true }],
    },
  },
  {
    files: ['lib/**/*.ts'],
    rules: {
      'house/imports-point-down': ['error', floors],
      'house/imports-through-gate': ['error', gates],
      'max-lines': ['error', 400],
      'max-lines-per-function': ['error', { max: 30, skipBlankLines: true, skipComments: true }],
    },
  },
  {
    // A statement is read whole.
    files: ['lib/sql/{statements,save-statements,many,listing,migrations,operator}.ts'],
    rules: { 'max-lines-per-function': ['error', { max: 50, skipBlankLines: true, skipComments: true }] },
  },
  {
    files: ['lib/**/*.ts'],
    ignores: ['lib/door/**'],
    // Only a door speaks to the terminal.
    rules: { 'no-restricted-globals': ['error', { globals: ['console'], checkGlobalObject: true }] },
  },
  {
    files: ['spec/**/*.ts'],
    rules: {
      // A test is async by custom, and what it throws then fails that test alone.
      '@typescript-eslint/require-await': 'off',
      // tap waits for its subtests by itself.
      '@typescript-eslint/no-floating-promises': [
        'error',
        {
          allowForKnownSafePromises: [
            { from: 'package', package: '@tapjs/core', name: 'PromiseWithSubtest' },
          ],
        },
      ],
    },
  },
)
