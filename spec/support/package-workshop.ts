// A workshop for the published package: a directory that is gone in the end, in which the tarball is packed
// and projects install it from the npm registry. Every child has a deadline and goes with all its own
// children, however this process ends.
import { type ChildProcess, spawn } from 'node:child_process'
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join, relative, sep } from 'node:path'

const MINUTE = 60_000

export interface Outcome {
  /** `null` when the child was killed: at its deadline, or by somebody else. */
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

const running = new Set<ChildProcess>()

const kill = (child: ChildProcess): void => {
  try {
    // The whole group: npm starts processes of its own.
    if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL')
  } catch {
    // It is gone already.
  }
}

/** What an outer npm tells the scripts it runs is not meant for projects elsewhere. */
const surroundings = (): NodeJS.ProcessEnv =>
  Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !/^npm_(package|lifecycle|config_local)_/.test(name)),
  )

/** Runs a program to its end, or to its deadline. */
export const run = (cwd: string, program: string, ...args: readonly string[]): Promise<Outcome> =>
  new Promise((resolve, reject) => {
    // tap puts its module loader into the NODE_OPTIONS of whatever is spawned; by `env` they are empty again.
    const child = spawn('env', ['NODE_OPTIONS=', program, ...args], {
      cwd,
      env: surroundings(),
      detached: true,
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    running.add(child)
    const deadline = setTimeout(() => kill(child), 2 * MINUTE)
    let stdout = ''
    let stderr = ''
    child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text))
    child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text))
    child.once('error', reject)
    child.once('close', (code) => {
      clearTimeout(deadline)
      running.delete(child)
      resolve({ code, stdout, stderr })
    })
  })

/** The same for a program that must succeed; gives what it printed. */
export const succeed = async (cwd: string, program: string, ...args: readonly string[]): Promise<string> => {
  const { code, stdout, stderr } = await run(cwd, program, ...args)
  if (code === 0) return stdout
  throw new Error(
    `${[basename(program), ...args].join(' ')} ended with ${String(code)}\n${stdout}\n${stderr}`,
  )
}

export interface Workshop {
  readonly directory: string
  readonly close: () => void
}

/** An empty directory for everything here; closing it ends what still runs, and removes it. */
export const openWorkshop = (): Workshop => {
  const directory = mkdtempSync(join(tmpdir(), 'keyrow-package-'))
  const close = (): void => {
    for (const child of running) kill(child)
    rmSync(directory, { recursive: true, force: true, maxRetries: 5 })
  }
  process.once('exit', close)
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => process.exit(1))
  return { directory, close }
}

/** What is made from the sources, or belongs to one machine. */
const made = new Set(['.git', '.tap', '.data', 'build', 'coverage', 'dist', 'node_modules'])

/** Packs a copy of the repository, in which `strays` lie about that must not be published; gives the tarball. */
export const pack = async (
  { directory }: Workshop,
  repository: string,
  strays: readonly string[],
): Promise<string> => {
  const copy = join(directory, 'repository')
  cpSync(repository, copy, { recursive: true, filter: (path) => !made.has(relative(repository, path)) })
  symlinkSync(join(repository, 'node_modules'), join(copy, 'node_modules'), 'dir')
  for (const stray of strays) {
    mkdirSync(dirname(join(copy, stray)), { recursive: true })
    writeFileSync(join(copy, stray), '')
  }
  await succeed(copy, 'npm', 'pack', '--pack-destination', directory)
  const [tarball, ...others] = readdirSync(directory).filter((name) => name.endsWith('.tgz'))
  if (tarball === undefined || others.length > 0) throw new Error('npm pack did not make one tarball')
  return join(directory, tarball)
}

/** An empty project of ES modules, in which these packages are installed. */
export const project = async (
  { directory }: Workshop,
  name: string,
  ...packages: readonly string[]
): Promise<string> => {
  const path = join(directory, name)
  mkdirSync(path)
  writeFileSync(join(path, 'package.json'), JSON.stringify({ name, private: true, type: 'module' }))
  await install(path, ...packages)
  return path
}

/** Installs packages in a project; their install scripts do not run, nobody should need them. */
export const install = (project: string, ...packages: readonly string[]): Promise<string> =>
  succeed(project, 'npm', 'install', '--ignore-scripts', '--no-audit', '--no-fund', ...packages)

/** The npm package that holds the executable of Node for this machine. */
const nodePackage = (): string => {
  const platform = process.platform === 'win32' ? 'win' : process.platform
  const prefix = platform === 'darwin' && process.arch === 'arm64' ? 'node-bin' : 'node'
  return `${prefix}-${platform}-${process.arch}`
}

const isOurs = (major: number): boolean => process.versions.node.startsWith(`${String(major)}.`)

/** What to install for these majors of Node, the one that runs this left out. */
export const nodePackages = (majors: readonly number[]): readonly string[] =>
  majors.filter((major) => !isOurs(major)).map((major) => `node${major}@npm:${nodePackage()}@${major}`)

/** The executable of this major of Node, from the project where its package is installed. */
export const nodeProgram = (project: string, major: number): string =>
  isOurs(major) ? process.execPath : join(project, 'node_modules', `node${major}`, 'bin', 'node')

/** All files below a directory, by their paths in it, with `/`. */
export const filesIn = (directory: string): readonly string[] =>
  readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(directory, join(entry.parentPath, entry.name)).split(sep).join('/'))
    .sort()

/** The bytes of a file, or of all files below a directory, in words. */
export const bytesIn = (path: string): number =>
  statSync(path).isFile()
    ? statSync(path).size
    : filesIn(path).reduce((sum, file) => sum + statSync(join(path, file)).size, 0)

export const sizeOf = (path: string): string => {
  const bytes = bytesIn(path)
  return bytes < 1_000_000 ? `${Math.round(bytes / 1000)} kB` : `${(bytes / 1_000_000).toFixed(1)} MB`
}
