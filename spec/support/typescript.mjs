// Runs TypeScript without a build: `node --import ./spec/support/typescript.mjs FILE.ts`. The compiler only removes the
// types. Its output for each text is cached in build/transpiled. `npm run typecheck` checks the types.

import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import * as nodeModule from 'node:module'
import { join, relative } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { isMainThread } from 'node:worker_threads'

// Modules that tap loads into each process before a spec: a TypeScript compiler without a cache, a loader for mocks,
// and a loader for coverage. No spec uses these modules, and they take a second of each process.
const UNUSED = /\/node_modules\/@tapjs\/(typescript|mock|processinfo)\/dist\/esm\/import\.mjs$/
const NOTHING = { url: 'data:text/javascript,', format: 'module', shortCircuit: true }

const root = fileURLToPath(new URL('../../', import.meta.url))
const cache = join(root, 'build', 'transpiled')
const require = nodeModule.createRequire(import.meta.url)

const OPTIONS = {
  target: 'ES2022',
  module: 'ESNext',
  moduleDetection: 'force',
  verbatimModuleSyntax: true,
  inlineSourceMap: true,
  inlineSources: true,
}

// The compiler takes half a second to load, so it is loaded only for a new text.
const transpile = (fileName, text) => {
  const ts = require('typescript')
  const form = fileName.endsWith('.cts')
    ? { module: ts.ModuleKind.CommonJS, verbatimModuleSyntax: false }
    : { module: ts.ModuleKind.ESNext }
  const compilerOptions = { ...OPTIONS, target: ts.ScriptTarget.ES2022, ...form }
  return ts.transpileModule(text, { fileName, compilerOptions }).outputText
}

const { version } = require('typescript/package.json')

/** Returns the file with the JavaScript of a TypeScript file. */
const transpiled = (url) => {
  const path = fileURLToPath(url)
  const text = readFileSync(path, 'utf8')
  const name = relative(root, path).replaceAll(/[/\\]/g, '-')
  const hash = createHash('sha256')
    .update(`${version} ${JSON.stringify(OPTIONS)}\n${text}`)
    .digest('hex')
  const file = join(cache, `${name}.${hash.slice(0, 16)}${path.endsWith('.cts') ? '.cjs' : '.js'}`)
  if (existsSync(file)) return file
  const made = transpile(path, text)
  mkdirSync(cache, { recursive: true })
  // The file gets its name only when it is complete, because other processes may read it at once.
  const draft = `${file}.${process.pid}`
  writeFileSync(draft, made)
  renameSync(draft, file)
  return file
}

/** An import of `./x.js` loads `./x.ts`, if this file exists. An import of `./x.cjs` loads `./x.cts`. */
export const resolve = (specifier, context, nextResolve) => {
  if (UNUSED.test(specifier)) return NOTHING
  const { parentURL } = context
  if (
    /^\.{1,2}\/.*\.c?js$/.test(specifier) &&
    parentURL?.startsWith('file:') &&
    !parentURL.includes('/node_modules/')
  ) {
    const url = new URL(specifier.replace(/js$/, 'ts'), parentURL)
    if (existsSync(url))
      return url.href.endsWith('.cts')
        ? { url: pathToFileURL(transpiled(url)).href, format: 'commonjs', shortCircuit: true }
        : { url: url.href, format: 'module', shortCircuit: true }
  }
  return nextResolve(specifier, context)
}

export const load = (url, context, nextLoad) =>
  url.startsWith('file:') && /\.ts(\?|$)/.test(url) && !url.includes('/node_modules/')
    ? { format: 'module', source: readFileSync(transpiled(url), 'utf8'), shortCircuit: true }
    : nextLoad(url, context)

// Node.js 20 runs hooks in another thread, which also imports this file.
if (isMainThread) {
  process.setSourceMapsEnabled(true)
  if (nodeModule.registerHooks === undefined) nodeModule.register(import.meta.url)
  else nodeModule.registerHooks({ resolve, load })
}
