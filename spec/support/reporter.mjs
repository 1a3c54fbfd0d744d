// Reports the results of tap. It prints one line for each spec file with its counts and its time, each failure in full,
// and the total counts at the end.

import { inspect } from 'node:util'

const write = (text) => process.stdout.write(`${text}\n`)
const seconds = (milliseconds) => `${(milliseconds / 1000).toFixed(1)} s`

/** Returns the details of a failed assertion: place, source, difference, other data and stack. */
const details = ({ at, diff, source, stack, ...rest }) => {
  const place = at?.fileName === undefined ? [] : [`at ${at.fileName}:${at.lineNumber}:${at.columnNumber}`]
  const others = Object.keys(rest).length === 0 ? [] : [inspect(rest, { depth: 8, breakLength: 100 })]
  const texts = [...place, source, diff, ...others, stack].filter((text) => typeof text === 'string')
  return texts.join('\n').trimEnd().replaceAll(/^/gm, '    ')
}

// A failed subtest usually only repeats the failure of an assertion in it. It is reported if it has a timeout or an
// exception.
const isRepeated = ({ diag }, failures, before) =>
  failures.length > before && diag?.exitCode === undefined && diag?.error === undefined

const collect = (parser, names, failures) => {
  let before = failures.length
  parser.on('child', (child) => {
    before = failures.length
    collect(child, [...names, child.name], failures)
  })
  parser.on('assert', (result) => {
    if (!result.ok && !isRepeated(result, failures, before)) failures.push({ names, result })
    before = failures.length
  })
}

/** Returns how the process of a file ended, if only this end makes the file fail. */
const endOf = ({ results, options: { exitCode, signal, failure } }) => {
  if (results?.ok !== false) return []
  if (signal)
    return [`ended by ${signal}${failure === 'timeout' ? ', after the time that a file may take' : ''}`]
  return exitCode === 0 || exitCode === undefined ? [] : [`exit code ${exitCode}`]
}

const tell = (file, failures) => {
  const ok = file.results?.ok ?? false
  const { total, pass } = file.counts
  const counts = ok ? `${pass} passed` : `${total - pass} of ${total} FAILED`
  const end = failures.length === 0 ? endOf(file) : []
  write(
    [`${ok ? 'ok    ' : 'NOT OK'} ${file.name}  ${counts} in ${seconds(file.time ?? 0)}`, ...end].join(', '),
  )
  for (const { names, result } of failures)
    write(`\n  not ok: ${[...names, result.name].join(' > ')}\n${details(result.diag ?? {})}\n`)
  return ok
}

export default ({ test }) => {
  const start = performance.now()
  const found = new Map()
  let [files, passed] = [0, 0]
  test.on('subtestStart', (file) => {
    found.set(file, [])
    collect(file.parser, [file.name], found.get(file))
  })
  test.on('subtestEnd', (file) => {
    files += 1
    if (tell(file, found.get(file) ?? [])) passed += 1
  })
  test.on('complete', ({ ok }) => {
    const all = `${test.counts.pass} of ${test.counts.total} assertions, ${passed} of ${files} files, in ${seconds(performance.now() - start)}`
    write(`${ok ? 'ok    ' : 'NOT OK'} ${all}`)
  })
  return null
}
