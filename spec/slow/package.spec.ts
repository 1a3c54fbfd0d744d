// The package as a stranger gets it: packed, installed from its tarball into empty projects, imported and
// used under every supported Node, compiled by strict TypeScript. It needs the npm registry, so it is not
// part of `npm test`; `npm run test:package` runs it.
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { RELEASE } from '../../lib/core/process.js'
import { type CodeBlock, codeBlocks } from '../support/code-blocks.js'
import * as consumer from '../support/package-consumer.js'
import {
  bytesIn,
  filesIn,
  install,
  nodePackages,
  nodeProgram,
  openWorkshop,
  pack,
  project,
  run,
  sizeOf,
  succeed,
} from '../support/package-workshop.js'

const repository = fileURLToPath(new URL('../..', import.meta.url))
const nodes = [20, 22, 24, 26]
const compilers = { typescript6: '6.0.3', typescript7: '7.0.2' }
const peerless = [
  'keyrow',
  'keyrow/promise',
  'keyrow/promise/flow',
  'keyrow/flow',
  'keyrow/memory',
  'keyrow/redis',
  'keyrow/memcached',
  'keyrow/node',
  'keyrow/express',
  'keyrow/fastify',
  'keyrow/koa',
  'keyrow/hono',
  'keyrow/fetch',
  'keyrow/adapter',
  'keyrow/testing',
  'keyrow/records',
  'keyrow/store',
  'keyrow/pg',
]
const entries = [...peerless, 'keyrow/postgres', 'keyrow/pglite', 'keyrow/express-session']
/** The entry points that work only inside of a framework, and are tested there. */
const framed = ['keyrow/next']
const inside = ['keyrow/dist/index.js', 'keyrow/lib/index.ts', 'keyrow/package.json', 'keyrow/session/token']
const strays = [
  'dist/gone.js',
  'dist/lib.tsbuildinfo',
  'lib/stray.tsbuildinfo',
  'lib/notes.txt',
  '.env',
  'a.log',
]

interface Manifest {
  readonly version: string
  readonly exports: Readonly<Record<string, string>>
  readonly peerDependencies: Readonly<Record<string, string>>
}

const jsonIn = (path: string): unknown => JSON.parse(readFileSync(path, 'utf8'))

const workshop = openWorkshop()
t.teardown(workshop.close)

const tarball = await pack(workshop, repository, strays)
const alone = await project(workshop, 'alone', tarball)
// The frameworks and their types, as a user of their doors has them.
const frameworks = ['express@5', 'fastify@5', 'koa@3', 'hono@4', 'express-session@1']
const full = await project(
  workshop,
  'full',
  tarball,
  '@electric-sql/pglite',
  'fs-native-extensions',
  'pg@8',
  'postgres',
  'redis@6',
  'memcache-client@1',
  // An example in a docstring uses it.
  'drizzle-orm@0.45',
  ...frameworks,
  '@types/express@5',
  '@types/pg@8',
  '@types/koa@3',
  '@types/express-session@1',
  'ws@8',
  '@types/ws@8',
)
const tools = await project(
  workshop,
  'tools',
  ...nodePackages(nodes),
  ...Object.entries(compilers).map(([name, version]) => `${name}@npm:typescript@${version}`),
)
const home = join(alone, 'node_modules', 'keyrow')
const manifest = jsonIn(join(home, 'package.json')) as Manifest

t.comment(`tarball ${sizeOf(tarball)}, unpacked ${sizeOf(home)}`)
t.comment(
  `node_modules ${sizeOf(join(alone, 'node_modules'))}, with peers ${sizeOf(join(full, 'node_modules'))}`,
)

t.test('the tarball holds the built modules, their sources and the texts, and nothing else', async (t) => {
  const sources = filesIn(join(workshop.directory, 'repository', 'lib')).filter((file) =>
    /\.c?ts$/.test(file),
  )
  const built = sources
    .filter((file) => !file.endsWith('.d.ts'))
    .map((file) => `dist/${file.slice(0, -'ts'.length)}`)
    // A file `x.cts` is built as `x.cjs` and `x.d.cts`.
    .flatMap((file) => [
      `${file}js`,
      `${file}js.map`,
      ...['ts', 'ts.map'].map((end) => file.replace(/c?$/, `d.$&${end}`)),
    ])
  const pages = filesIn(join(workshop.directory, 'repository', 'docs')).map((file) => `docs/${file}`)
  const texts = [
    ...['ARCHITECTURE.md', 'CHANGELOG.md', 'CONTRIBUTING.md', 'LICENSE', 'README.md', 'SECURITY.md'],
    'package.json',
  ]
  t.strictSame(filesIn(home), [...texts, ...pages, ...built, ...sources.map((file) => `lib/${file}`)].sort())
})

t.test('installed without peers, the package and its dependencies take less than 15 MB', async (t) => {
  const bytes = bytesIn(join(alone, 'node_modules'))
  t.ok(bytes < 15_000_000, `${bytes} bytes`)
})

t.test('every map leads to sources inside the package', async (t) => {
  const maps = filesIn(home).filter((file) => file.endsWith('.map'))
  t.not(maps.length, 0)
  const lost = maps.flatMap((file) => {
    const map = jsonIn(join(home, file)) as {
      readonly sourceRoot?: string
      readonly sources: readonly string[]
    }
    const paths = map.sources.map((source) => join(dirname(file), map.sourceRoot ?? '', source))
    return paths.filter((path) => path.startsWith('..') || !existsSync(join(home, path)))
  })
  t.strictSame(lost, [])
})

t.test('there are twenty-two entry points', async (t) => {
  const paths = Object.keys(manifest.exports).map((path) => path.replace('.', 'keyrow'))
  t.strictSame(new Set(paths), new Set([...entries, ...framed]))
})

t.test('nothing that is installed runs a script', async (t) => {
  t.notMatch(readFileSync(join(full, 'package-lock.json'), 'utf8'), 'hasInstallScript')
})

interface Found {
  readonly names?: readonly string[]
  readonly code?: string
  readonly message?: string
}

const importAll = async (node: string, directory: string): Promise<Record<string, Found>> => {
  writeFileSync(join(directory, 'imports.js'), consumer.imports)
  const printed = await succeed(directory, node, 'imports.js', ...entries, ...inside)
  return JSON.parse(printed) as Record<string, Found>
}

for (const major of nodes) {
  const node = nodeProgram(tools, major)

  t.test(
    `Node ${major}: everything but the drivers and keyrow/express-session imports without peers`,
    async (t) => {
      t.match(await succeed(alone, node, '--version'), `v${major}.`)
      const found = await importAll(node, alone)
      for (const name of peerless) {
        const names = found[name]?.names ?? []
        t.not(names.length, 0, `${name}: ${names.join(' ')}`)
      }
      t.match(found['keyrow/postgres'], { code: 'ERR_MODULE_NOT_FOUND', message: "'postgres'" })
      t.match(found['keyrow/pglite'], { code: 'ERR_MODULE_NOT_FOUND', message: "'@electric-sql/pglite'" })
      t.match(found['keyrow/express-session'], {
        code: 'ERR_MODULE_NOT_FOUND',
        message: "'express-session'",
      })
      for (const path of inside) t.equal(found[path]?.code, 'ERR_PACKAGE_PATH_NOT_EXPORTED', path)
    },
  )

  t.test(`Node ${major}: the drivers and keyrow/express-session import with their peers`, async (t) => {
    const found = await importAll(node, full)
    t.strictSame(found['keyrow/postgres'], { names: ['poolOptions', 'postgresDatabase', 'postgresStore'] })
    t.strictSame(found['keyrow/pg'], { names: ['pgDatabase', 'pgStore'] })
    t.strictSame(found['keyrow/pglite'], { names: ['pgliteDatabase', 'pgliteStore'] })
    t.strictSame(found['keyrow/express-session'], {
      names: ['connectPgSimple', 'expressSessionStore', 'migrateSessions'],
    })
  })
}

/** Puts the programs and the examples of README and docstrings in the project's `src`. */
const writeSources = (directory: string, examples: readonly CodeBlock[]): void => {
  mkdirSync(join(directory, 'src'))
  const write = (name: string, text: string): void => writeFileSync(join(directory, 'src', name), text)
  write('without-peers.ts', consumer.withoutPeers)
  write('with-peers.ts', consumer.withPeers)
  for (const { place, code } of examples) write(`${place.replaceAll(/[^\w-]/g, '-')}.ts`, code)
}

const content = { code: 0, said: [] }

/** Compiles the project's `src`; a compiler that is content gives `content`. */
const compile = async (directory: string, compiler: string): Promise<unknown> => {
  const options = { ...consumer.compilerOptions, outDir: compiler }
  writeFileSync(
    join(directory, 'tsconfig.json'),
    JSON.stringify({ compilerOptions: options, include: ['src'] }),
  )
  const { code, stdout, stderr } = await run(directory, join(tools, 'node_modules', compiler, 'bin', 'tsc'))
  // Declarations of other packages may not fit each other; what is said of ours, and of the programs, counts.
  const said = (stdout + stderr)
    .split('\n')
    .filter((line) => line !== '' && !/^(\s|node_modules\/(?!keyrow\/))/.test(line))
  return said.length === 0 ? content : { code, said }
}

t.test('strict TypeScript', async (t) => {
  await install(full, '--save-dev', '@types/node@20')
  const examples = (await codeBlocks()).filter(({ place }) => /^(README[.]md|lib\/)/.test(place))
  t.ok(
    examples.some(({ place }) => place.startsWith('README')),
    'README.md has an example',
  )
  t.comment(`${examples.length} examples`)
  writeSources(full, examples)
  for (const [compiler, version] of Object.entries(compilers))
    t.test(`TypeScript ${version} compiles every entry point and every example`, async (t) => {
      t.strictSame(await compile(full, compiler), content)
    })
})

const use = async (node: string, directory: string, program: string): Promise<unknown> => {
  rmSync(join(directory, 'data'), { recursive: true, force: true })
  copyFileSync(join(full, 'typescript6', program), join(directory, program))
  return JSON.parse(await succeed(directory, node, program))
}

for (const major of nodes) {
  const node = nodeProgram(tools, major)

  t.test(`Node ${major}: sessions in memory, a server and the laws, without peers`, async (t) => {
    t.strictSame(await use(node, alone, 'without-peers.js'), consumer.withoutPeersDone)
  })

  t.test(`Node ${major}: a database in a directory that is locked, and a pool`, async (t) => {
    t.strictSame(await use(node, full, 'with-peers.js'), consumer.withPeersDone)
  })
}

for (const major of nodes)
  t.test(`Node ${major}: the command line, with its peers and without`, async (t) => {
    const node = nodeProgram(tools, major)
    const command = join('node_modules', '.bin', 'keyrow')
    t.equal(await succeed(full, node, command, '--version'), `${RELEASE}\n`)
    t.equal(RELEASE, manifest.version)
    await succeed(full, node, command, 'schema', 'upgrade', '--directory', 'command', '--json')
    t.match(await succeed(full, node, command, 'schema', 'status', '--directory', 'command', '--json'), '2')
    rmSync(join(full, 'command'), { recursive: true, force: true })
    const url = 'postgres://nobody@127.0.0.1:9/none'
    t.match(await run(alone, node, command, 'doctor', '--url', url), { code: 1, stderr: /package|install/ })
  })

t.test('publint has nothing to say', async (t) => {
  const { code, stdout, stderr } = await run(repository, 'node_modules/.bin/publint', '--strict', tarball)
  t.equal(code, 0, { said: stdout + stderr })
  t.match(stdout, 'All good!')
})

t.test('attw finds the types of every entry point', async (t) => {
  const attw = 'node_modules/.bin/attw'
  const { code, stdout, stderr } = await run(repository, attw, '--profile', 'esm-only', tarball)
  t.equal(code, 0, { said: stdout + stderr })
})

const audit = await run(full, 'npm', 'audit', '--omit=dev', '--audit-level=high', '--json')
const audited = (JSON.parse(audit.stdout) as { readonly metadata?: unknown }).metadata !== undefined

// A mirror of the registry may answer no audits at all: then nothing is known, and nothing is claimed.
if (audited)
  t.test('npm audit knows of nothing of high severity in what is installed', async (t) => {
    t.equal(audit.code, 0, { said: audit.stdout })
  })
else t.comment('NOT CHECKED: npm audit, which the registry in use does not answer')

t.test('the oldest peers that are allowed compile and work', async (t) => {
  const oldest = Object.entries(manifest.peerDependencies)
    .filter(([name]) => !framed.includes(`keyrow/${name}`))
    .map(([name, range]) => `${name}@${/\d+\.\d+\.\d+/.exec(range)?.[0] ?? range}`)
  await install(full, '--save-exact', ...oldest)
  t.strictSame(await compile(full, 'typescript7'), content, oldest.join(', '))
  t.strictSame(await use(process.execPath, full, 'with-peers.js'), consumer.withPeersDone)
})
