// Biome formats and lints what one file shows; ESLint adds what needs types, and the plan of the house.

import { defineConfig } from 'eslint/config'
import tseslint from 'typescript-eslint'
import house from './.ci/lint-rules.js'

/** The rooms from the ground up; files directly in lib share the top floor with testing. */
const floors = [
  'core',
  'db',
  'store',
  'cache',
  'request',
  'bound',
  'records',
  'sql',
  'http',
  'flow',
  'express-session',
  'entry',
  'cli',
  'promise',
  'testing',
]

/** Modules that only some files of lib may import, as a pattern of their path; null means none. */
const gates = {
  postgres: '(entry/postgres|cli/open)[.]ts',
  '@electric-sql/pglite': 'db/pglite[.]ts',
  http: '(http|flow|express-session|testing)/.+',
  // Of each framework the types, by its own adapter; express-session's classes are what its stores are made of.
  express: null, // known by the few members that the adapter uses
  fastify: 'http/fastify[.]ts',
  koa: 'http/koa[.]ts',
  redis: null, // known by the few members that keyrow uses
  'memcache-client': null,
  next: 'http/next[.]ts',
  hono: 'http/hono[.]ts',
  'express-session': 'express-session/index[.]ts',
  async_hooks: '(request/.+|core/process[.]ts|db/batch-scheduler[.]ts|db/transaction[.]ts)', // the current session; a timer and batches that belong to no request; the current transaction
  console: 'http/.+',
  tap: null,
  'fast-check': null,
  keyrow: null, // lib imports itself by path, so that the floors can be checked
}

export default defineConfig(
  { ignores: ['dist/', 'build/', '.tap/', '.data/', 'coverage/', 'examples/next/', 'examples/nest/'] },
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
      '@typescript-eslint/no-restricted-imports': [
        'error',
        {
          patterns: [
            {
              group: ['fp-ts/**', 'io-ts', 'io-ts/**', 'immutable'],
              allowTypeImports: true,
              message: 'Import values from core/prelude.cjs, which makes a process start sooner.',
            },
          ],
        },
      ],
      // V8 puts these functions into the old generation. With them, all that they refer to stays until a full collection.
      // A private member is mostly set once, when its object is made for the whole process.
      'no-restricted-syntax': [
        'error',
        {
          selector:
            'AssignmentExpression[left.type="MemberExpression"][left.property.type!="PrivateIdentifier"]:matches([right.type="ArrowFunctionExpression"], [right.type="FunctionExpression"])',
          message:
            'Give the function a name before you assign it to a member: V8 keeps it for too long otherwise.',
        },
        {
          selector:
            'FunctionDeclaration Property[kind=/get|set/], ArrowFunctionExpression Property[kind=/get|set/]',
          message: 'Put the accessor into a class: V8 keeps an accessor of each object for too long.',
        },
        {
          selector: 'CallExpression[callee.property.name=/^define/] Property[key.name=/^(get|set)$/]',
          message: 'Share the accessor among the objects: V8 keeps an accessor of each object for too long.',
        },
      ],
      'house/imports-point-down': ['error', floors],
      'house/imports-through-gate': ['error', gates],
      'max-lines': ['error', 400],
      'max-lines-per-function': ['error', { max: 30, skipBlankLines: true, skipComments: true }],
    },
  },
  {
    // A statement is read whole.
    files: ['lib/{sql/{session-statements,flow-statements,batch,principals,migrations},cli/admin-sql}.ts'],
    rules: { 'max-lines-per-function': ['error', { max: 50, skipBlankLines: true, skipComments: true }] },
  },
  {
    files: ['lib/**/*.ts'],
    ignores: ['lib/http/**'],
    // Only an adapter writes to the terminal.
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
