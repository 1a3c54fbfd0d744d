// Builds the site in build/site: the pages of docs, the README as the first page, and a page for each entry point of
// the package, which is made from the docstrings. `npm run site` runs this program. The build fails for a dead link.

import { cp, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Application, ReflectionKind } from 'typedoc'
import { build } from 'vitepress'

const root = fileURLToPath(new URL('../..', import.meta.url))
const source = join(root, 'build', 'site-source')

/** The pages of the repository that are not in docs, and their names in the site. */
const others = [
  ['ARCHITECTURE.md', 'architecture'],
  ['CHANGELOG.md', 'changelog'],
  ['CONTRIBUTING.md', 'contributing'],
  ['SECURITY.md', 'security-policy'],
]

/** Corrects the links of a page, which has another place in the site than in the repository. */
const relinked = (text) =>
  others
    .reduce((rest, [name, to]) => rest.replaceAll(`${name})`, `/${to})`).replaceAll(`${name}#`, `/${to}#`), text)
    .replaceAll(/\]\((?:\.\.\/)*README\.md(#[^)]*)?\)/g, (_, hash = '') => `](/${hash})`)
    .replaceAll(/\]\((?:\.\.\/)+(\/[a-z-]+(?:#[^)]*)?)\)/g, ']($1)')
    .replaceAll('](docs/', '](')

const page = async (from, to) => writeFile(join(source, to), relinked(await readFile(join(root, from), 'utf8')))

const pages = async () => {
  await rm(source, { recursive: true, force: true })
  await mkdir(source, { recursive: true })
  await cp(join(root, 'docs', '.vitepress', 'config.js'), join(source, '.vitepress', 'config.js'))
  await cp(join(root, 'docs', 'decisions'), join(source, 'decisions'), { recursive: true })
  await page('README.md', 'index.md')
  for (const [name, to] of others) await page(name, `${to}.md`)
  for (const name of await readdir(join(root, 'docs'))) {
    if (name.endsWith('.md')) await page(join('docs', name), name)
    if (name.endsWith('.svg')) await cp(join(root, 'docs', name), join(source, name))
  }
  for (const name of await readdir(join(source, 'decisions'))) await page(join('docs', 'decisions', name), join('decisions', name))
}

/** Writes a page for each entry point. */
const reference = async () => {
  const { exports } = JSON.parse(await readFile(join(root, 'package.json'), 'utf8'))
  const entries = new Map(
    Object.entries(exports).map(([path, file]) => [
      join(root, file.replace('./dist/', 'lib/').replace(/js$/, 'ts')),
      path.replace('.', 'keyrow'),
    ]),
  )
  const app = await Application.bootstrapWithPlugins({
    entryPoints: [...entries.keys()],
    tsconfig: join(root, 'lib', 'tsconfig.json'),
    plugin: ['typedoc-plugin-markdown'],
    outputs: [{ name: 'markdown', path: join(source, 'api') }],
    outputFileStrategy: 'modules',
    entryFileName: 'index',
    readme: 'none',
    name: 'API reference',
    hidePageHeader: true,
    hideBreadcrumbs: true,
    // The source files are needed to name the modules.
    disableGit: true,
    sourceLinkTemplate: '{path}',
    basePath: root,
    excludeInternal: true,
    excludeExternals: true,
    useHTMLAnchors: true,
    logLevel: 'Error',
    skipErrorChecking: true,
  })
  const project = await app.convert()
  if (project === undefined) throw new Error('the reference cannot be made')
  for (const module of project.children ?? []) {
    const file = module.sources?.[0]?.fullFileName ?? ''
    module.name = entries.get(file) ?? basename(file)
  }
  await writeFile(join(source, 'options.md'), optionsPage(project))
  await app.generateOutputs(project)
  for (const name of await readdir(join(source, 'api'), { recursive: true })) {
    const path = join(source, 'api', name)
    if (name.endsWith('.md')) await writeFile(path, (await readFile(path, 'utf8')).replaceAll(/^Defined in: .*\n\n?/gm, ''))
  }
}

const textOf = (comment) => (comment?.summary ?? []).map(({ text }) => text).join('').replaceAll(/\s+/g, ' ')

/** Returns a page with a table for each interface of options, from the docstrings. */
const optionsPage = (project) => {
  const found = new Map()
  for (const module of project.children ?? [])
    for (const item of module.children ?? [])
      if (item.kind === ReflectionKind.Interface && item.name.endsWith('Options') && !found.has(item.name))
        found.set(item.name, { module: module.name, options: item.children ?? [] })
  const row = ({ name, type, comment }) =>
    `| \`${name}\` | \`${String(type).replaceAll('|', '\\|')}\` | ${textOf(comment).replaceAll('|', '\\|')} |`
  const tables = [...found].sort().map(
    ([name, { module, options }]) =>
      `## ${name}\n\n\`import type { ${name} } from '${module}'\`\n\n| option | type | meaning |\n|---|---|---|\n${options.map(row).join('\n')}\n`,
  )
  return `# All options\n\nThis page is made from the docstrings. The search finds each option.\n\n${tables.join('\n')}`
}

await pages()
await reference()
await build(source, { outDir: join(root, 'build', 'site') })
