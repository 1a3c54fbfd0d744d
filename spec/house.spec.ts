// Checks the names of declarations, the words of comments and docs, the sizes of files and rooms, and ARCHITECTURE.md.
// The checks of ARCHITECTURE.md cover the rooms, their imports, two paths through them, and the table of changes.

import { readdirSync, readFileSync } from 'node:fs'
import t from 'tap'
import ts from 'typescript'

const root = new URL('../', import.meta.url)
const read = (path: string): string => readFileSync(new URL(path, root), 'utf8')
const filesIn = (folder: string, ending: string): readonly string[] =>
  readdirSync(new URL(folder, root), { recursive: true, encoding: 'utf8' })
    .filter((path) => path.endsWith(ending))
    .map((path) => `${folder}${path.replaceAll('\\', '/')}`)
    .sort()

const library = [...filesIn('lib/', '.ts'), ...filesIn('lib/', '.cts')]
const sources = new Map(library.map((path) => [path, read(path)]))

/** Names that were replaced by standard terms. A pattern limits the files in which a name is forbidden. */
const replaced: readonly (readonly [names: string, files?: RegExp])[] = [
  [
    'openDoor DoorOptions doorLaws beginLife conduct lifeOf RequestLife Visit visitOf checkForgery RequestRefused',
  ],
  ['asking gathering folding Asked InLine Waiting nextOf shareOf concernsAll briefly inTime overloaded'],
  [
    'remembered SaveId freshSaveId mark tried offered grave swept tidy isTidy GRAVE_REVISIONS REMEMBERED_SAVES',
  ],
  [
    'knownSince writtenAfter keysWrittenAfter lookAndWrite LIVES STILL_LIVES nothingKnown narrowed united knows',
  ],
  ['frame Frame openFrame closeFrame joinFrame frameOf inFrame absorb tellStored telling told onceTold'],
  ['outermost layered refusal Trust inDoubt witness Witness believes silence Course begun'],
  ['held Held HeldResponse holdResponse holding Holding plainAnswer retract pressed answered Answered'],
  ['collectGarbage startCollector Collector endSessions sessionFetch fetchCurrentSession'],
  [
    'ManyOperations manyOver manyStatements EachQuery PLACE operator Operator figures distributed listingOver',
  ],
  ['atOnce waitMs withinMs pauseMs guessing collected garbage collector'],
  ['opens moved due worth', /^lib\/(core|request|sql\/fragments|store)/],
  ['join leave behind together alone tooLate line Line', /^lib\/(db|store)\//],
  ['put know', /^lib\/request\//],
  ['over within', /^lib\/(store|request)\//],
  ['give take live', /^lib\/http\//],
  ['by through each', /^lib\/(records\/(record|table)|promise\/record)/],
  ['addresses refuse', /^lib\/http\/token-guard/],
  ['settled follow', /^lib\/db\//],
]

/** Returns the names that a file or all files of a folder declare. */
const declared = (path: string): readonly string[] => {
  const names: string[] = []
  const visit = (node: ts.Node): void => {
    if (
      ts.isVariableDeclaration(node) ||
      ts.isBindingElement(node) ||
      ts.isParameter(node) ||
      ts.isPropertySignature(node) ||
      ts.isPropertyDeclaration(node) ||
      ts.isPropertyAssignment(node) ||
      ts.isShorthandPropertyAssignment(node) ||
      ts.isMethodSignature(node) ||
      ts.isMethodDeclaration(node) ||
      ts.isFunctionDeclaration(node) ||
      ts.isClassDeclaration(node) ||
      ts.isInterfaceDeclaration(node) ||
      ts.isTypeAliasDeclaration(node)
    )
      if (node.name !== undefined && (ts.isIdentifier(node.name) || ts.isStringLiteral(node.name)))
        names.push(node.name.text)
    ts.forEachChild(node, visit)
  }
  const texts = path.endsWith('/') ? filesIn(path, '.ts').map(read) : [sources.get(path) ?? read(path)]
  for (const text of texts) visit(ts.createSourceFile(path, text, ts.ScriptTarget.Latest))
  return names
}

t.test('no declaration has a name that the field calls otherwise', async (t) => {
  const wrong = library.flatMap((path) => {
    const names = new Set(declared(path))
    return replaced.flatMap(([list, files]) =>
      files === undefined || files.test(path)
        ? list.split(' ').flatMap((name) => (names.has(name) ? [`${path}: ${name}`] : []))
        : [],
    )
  })
  t.strictSame(wrong, [])
})

t.test('no file or folder has one either', async (t) => {
  const old =
    /(^|\/|-)(door|combinator|port|base|collector|garbage|asking|gathering|folding|held|holding|operator|figures|distributed|remembered)s?([./-]|$)/
  const all = [
    ...library,
    ...filesIn('docs/', '.md'),
    ...filesIn('spec/', '.ts'),
    ...filesIn('examples/', '.ts'),
  ]
  t.strictSame(
    all.filter((path) => old.test(path)),
    [],
  )
})

/** Returns the comments of a source. */
const commentsOf = (source: string): string =>
  (source.match(/\/\*\*?[\s\S]*?\*\/|(?<=^|\s)\/\/ .*/g) ?? []).join('\n')

const phrases =
  /\b(doors?|whoever|so many|is told of|are told of|believe[sd]?|graves?|tidy|who waits|who wait|what waits|nobody's|garbage(?! collection)|somebody's|the same, of|combinators?|swept|whosoever)\b/gi

t.test('no prose has the phrases of the old dialect', async (t) => {
  const pages = [
    'README.md',
    'ARCHITECTURE.md',
    'SECURITY.md',
    'CONTRIBUTING.md',
    'CHANGELOG.md',
    ...filesIn('docs/', '.md'),
  ]
  const texts = [
    ...pages.map((path) => [path, read(path)] as const),
    ...[...sources].map(([path, source]) => [path, commentsOf(source)] as const),
  ]
  const found = texts.flatMap(([path, text]) =>
    [...text.matchAll(phrases)].map(
      (match) =>
        `${path}: ${text.slice(Math.max(0, match.index - 30), match.index + 30).replaceAll('\n', ' ')}`,
    ),
  )
  t.strictSame(found, [])
})

const roomOf = (path: string): string => path.slice(0, path.lastIndexOf('/'))
const isFace = (path: string): boolean => /\/(index|adapter|main|prelude)\.c?ts$|^lib\/entry\//.test(path)

t.test('there are few rooms, and none of their files is too small or too large', async (t) => {
  t.ok(new Set(library.map(roomOf)).size <= 17, `${String(new Set(library.map(roomOf)).size)} rooms`)
  t.ok(library.length <= 153, `${String(library.length)} files`)
  const lines = (path: string): number => (sources.get(path) ?? '').trimEnd().split('\n').length
  t.strictSame(
    library.filter((path) => (lines(path) < 30 && !isFace(path)) || lines(path) > 400),
    [],
  )
})

interface Stop {
  readonly path: string
  readonly name: string
  /** The file of the interface through which the previous stop reaches this stop. */
  readonly through: string | undefined
}

/** Returns the stops of a path in a section of ARCHITECTURE.md, in order. */
const wayOf = (heading: string): readonly Stop[] => {
  const section = read('ARCHITECTURE.md').split(`## ${heading}`)[1]?.split('\n## ')[0] ?? ''
  const stops = section.matchAll(/^\d+\. `(lib\/[\w/.-]+\.ts)` `(\w+)`(?:.*\(Through `(.*?)`\.\))?/gm)
  return [...stops].map(([, path = '', name = '', through]) => ({ path, name, through }))
}

const importsOf = (path: string): ReadonlySet<string> =>
  new Set(
    [...(sources.get(path) ?? '').matchAll(/from '(\.[^']+)\.js'/g)].map(([, name]) =>
      new URL(`${name ?? ''}.ts`, new URL(path, root)).pathname.slice(root.pathname.length),
    ),
  )

for (const [heading, most] of [
  ['The path of a key from `sessionSet` to its row', 12],
  ['The path of a cookie from Express to the load', 10],
] as const)
  t.test(heading, async (t) => {
    const way = wayOf(heading)
    const paths = way.map(({ path }) => path)
    t.ok(paths.length > 3 && new Set(paths).size <= most, `${String(new Set(paths).size)} files`)
    for (const { path, name } of way) t.ok(new Set(declared(path)).has(name), `${path} declares ${name}`)
    // A stop has an import relation to an earlier stop, or both stops import the interface between them.
    const isTied = ({ path, through }: Stop, before: readonly string[]): boolean =>
      before.some((other) =>
        through === undefined
          ? other === path || importsOf(other).has(path) || importsOf(path).has(other)
          : importsOf(other).has(through) && importsOf(path).has(through),
      )
    const apart = way.filter((stop, index) => index > 0 && !isTied(stop, paths.slice(0, index)))
    t.strictSame(apart, [])
  })

const architecture = read('ARCHITECTURE.md')
const quotedIn = (cell: string): readonly string[] =>
  [...cell.matchAll(/`([^`]+)`/g)].map(([, name]) => name ?? '')

t.test('each identifier that ARCHITECTURE.md says to change is declared in a file of its row', async (t) => {
  const table = architecture.split('## Where to change what')[1]?.split('\n## ')[0] ?? ''
  const rows = [...table.matchAll(/^\|[^|]*\|([^|]*)\|([^|]*)\|$/gm)].slice(2)
  t.ok(rows.length > 20, `${String(rows.length)} rows`)
  const missing = rows.flatMap(([, files = '', names = '']) => {
    const known = new Set(quotedIn(files).flatMap(declared))
    const wanted = quotedIn(names)
    return wanted.length === 0
      ? [`${files}: names nothing`]
      : wanted.filter((name) => !known.has(name)).map((name) => `${files}: ${name}`)
  })
  t.strictSame(missing, [])
})

t.test('ARCHITECTURE.md lists each room with its floor', async (t) => {
  const [, list = ''] = /const floors = \[([^\]]*)\]/.exec(read('eslint.config.js')) ?? []
  const floors = [...list.matchAll(/'([\w-]+)'/g)].map(([, room]) => room)
  const rooms = new Set(library.map((path) => roomOf(path).replace(/^lib\/?/, '')))
  const expected = [...rooms].map((room) => {
    const floor = room === '' ? floors.length : floors.indexOf(room.split('/')[0]) + 1
    return `${String(floor)} ${room || 'index.ts'}`
  })
  const rows = [...architecture.matchAll(/^\| (\d+) \| `([\w./-]+?)\/?` \|/gm)]
  t.strictSame(rows.map(([, floor, room]) => `${floor ?? ''} ${room ?? ''}`).sort(), expected.sort())
})

t.test('the picture in ARCHITECTURE.md shows the imports between rooms', async (t) => {
  const roomIn = (path: string): string => path.split('/')[1]?.replace(/[.]ts$/, '') ?? ''
  const imports = new Set(
    library.flatMap((path) => [...importsOf(path)].map((other) => `${roomIn(path)} ${roomIn(other)}`)),
  )
  const arrows = [...architecture.matchAll(/^ {2}([\w-]+)(?:\["[^"]+"\])? --> ([\w-]+)$/gm)].map(
    ([, from = '', to = '']) => [from, to] as const,
  )
  t.strictSame(
    arrows.map((arrow) => arrow.join(' ')).filter((arrow) => !imports.has(arrow)),
    [],
    'each arrow is an import',
  )
  const reaches = (from: string, to: string): boolean =>
    from === to || arrows.some(([start, next]) => start === from && reaches(next, to))
  t.strictSame(
    [...imports].filter((pair) => {
      const [from = '', to = ''] = pair.split(' ')
      return !reaches(from, to)
    }),
    [],
    'each import follows arrows',
  )
})
