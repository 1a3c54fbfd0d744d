// Makes a temporary directory in which the package is packed, and in which projects install it. Every child process has
// a deadline. Each child ends with its own children when this process ends.
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
  /** `null` if the child was killed, at its deadline or from outside. */
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

const running = new Set<ChildProcess>()

const kill = (child: ChildProcess): void => {
  try {
    // Kills the whole process group, because npm starts further processes.
    if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL')
  } catch {
    // The group has already ended.
  }
}

/** The environment without the variables that npm sets for its scripts. With `omit=dev` npm also sets `NODE_ENV`. */
const surroundings = (): NodeJS.ProcessEnv =>
  Object.fromEntries(
    Object.entries(process.env).filter(
      ([name]) => !/^(NODE_ENV$|npm_((package|lifecycle|config_local)_|config_(omit|include)$))/.test(name),
    ),
  )

/** Runs a program until its end or its deadline. */
export const run = (cwd: string, program: string, ...args: readonly string[]): Promise<Outcome> =>
  new Promise((resolve, reject) => {
    // tap adds its module loader to the NODE_OPTIONS of each child. The command `env` clears the variable.
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

/** Runs a program that must succeed, and returns its output. */
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

/** Makes an empty directory. `close` ends all running children and removes the directory. */
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

/** Files that are generated, or belong to one machine. */
const made = new Set(['.git', '.tap', '.data', 'build', 'coverage', 'dist', 'node_modules'])

/**
 * Packs a copy of the repository, and returns the tarball. The copy also has the files `strays`, which must not be
 * published.
 */
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

/** Makes an empty project of ES modules, and installs these packages. */
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

/** Installs packages in a project, without their install scripts. */
export const install = (project: string, ...packages: readonly string[]): Promise<string> =>
  succeed(project, 'npm', 'install', '--ignore-scripts', '--no-audit', '--no-fund', ...packages)

/** Returns the npm package with the executable of Node.js for this machine. */
const nodePackage = (): string => {
  const platform = process.platform === 'win32' ? 'win' : process.platform
  const prefix = platform === 'darwin' && process.arch === 'arm64' ? 'node-bin' : 'node'
  return `${prefix}-${platform}-${process.arch}`
}

const isOurs = (major: number): boolean => process.versions.node.startsWith(`${String(major)}.`)

/** Returns the packages for these major versions of Node.js, except the running version. */
export const nodePackages = (majors: readonly number[]): readonly string[] =>
  majors.filter((major) => !isOurs(major)).map((major) => `node${major}@npm:${nodePackage()}@${major}`)

/** Returns the executable of this major version of Node.js in the project. */
export const nodeProgram = (project: string, major: number): string =>
  isOurs(major) ? process.execPath : join(project, 'node_modules', `node${major}`, 'bin', 'node')

/** Returns the relative paths of all files below a directory, with `/`. */
export const filesIn = (directory: string): readonly string[] =>
  readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(directory, join(entry.parentPath, entry.name)).split(sep).join('/'))
    .sort()

/** Returns the size of a file, or of all files below a directory, in bytes. */
export const bytesIn = (path: string): number =>
  statSync(path).isFile()
    ? statSync(path).size
    : filesIn(path).reduce((sum, file) => sum + statSync(join(path, file)).size, 0)

export const sizeOf = (path: string): string => {
  const bytes = bytesIn(path)
  return bytes < 1_000_000 ? `${Math.round(bytes / 1000)} kB` : `${(bytes / 1_000_000).toFixed(1)} MB`
}
