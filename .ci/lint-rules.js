// The laws of this house that no published lint rule knows: which way imports point, who may import
// which package, and that a task once built is run. eslint.config.js holds the plan they are applied to.

import { dirname, relative, resolve, sep } from 'node:path'

const lib = resolve(import.meta.dirname, '../lib')

const inLib = (file) => relative(lib, file).split(sep).join('/')

/** Visits every module name a file mentions: values and types, static and dynamic, re-exports too. */
const onImport = (check) => {
  const visit = (node) => node.source && check(node.source, String(node.source.value))
  return {
    ImportDeclaration: visit,
    ExportNamedDeclaration: visit,
    ExportAllDeclaration: visit,
    ImportExpression: visit,
    TSImportType: visit,
  }
}

/**
 * `floors` lists the rooms from the ground up; files directly in lib stand on the top floor.
 * An import goes to its own room or to a lower floor. Only the top floor is one open space.
 */
const importsPointDown = {
  meta: { schema: [{ type: 'array' }] },
  create(context) {
    const floors = context.options[0]
    const top = floors.length - 1
    const place = (path) => {
      const room = path.includes('/') ? path.slice(0, path.indexOf('/')) : ''
      const floor = room === '' ? top : floors.indexOf(room)
      return { room, floor, name: `lib/${room} (${floor < 0 ? 'no floor' : `floor ${floor}`})` }
    }
    const from = place(inLib(context.filename))
    const reaches = (to) =>
      to.room === from.room || (to.floor >= 0 && (to.floor < from.floor || from.floor === top))

    return onImport((node, name) => {
      if (!name.startsWith('.')) return
      const to = place(inLib(resolve(dirname(context.filename), name)))
      if (!reaches(to))
        context.report({ node, message: `${from.name} may not import from ${to.name}: imports point down.` })
    })
  },
}

/** `gates` maps a module, and all below it, to the pattern of the only files that may import it, types too. */
const importsThroughGate = {
  meta: { schema: [{ type: 'object' }] },
  create(context) {
    const file = inLib(context.filename)
    const gates = Object.entries(context.options[0])
    const closed = gates.filter(([, files]) => files === null || !new RegExp(`^${files}$`).test(file))

    return onImport((node, name) => {
      const bare = name.replace(/^node:/, '')
      if (closed.some(([module]) => bare === module || bare.startsWith(`${module}/`)))
        context.report({ node, message: `${name} may not be imported by lib/${file}.` })
    })
  },
}

/**
 * A Task is a thunk, not a promise: as a statement, under `await` or `void`, or handed back to a caller who
 * expects nothing (`setTimeout(() => saveSession(s))`), it does nothing at all.
 */
const noUnrunTask = {
  create(context) {
    const { program, esTreeNodeToTSNodeMap } = context.sourceCode.parserServices
    const checker = program.getTypeChecker()
    const typeOf = (node) => checker.getTypeAtLocation(esTreeNodeToTSNodeMap.get(node))
    const parts = (type) => (type.isUnion() ? type.types : [type])
    const calls = (type) => parts(type).flatMap((part) => part.getCallSignatures())

    const isThenable = (type) => parts(type).some((part) => part.getProperty('then'))
    const isIO = (type) => parts(type).some((part) => /^IO(Either|Option)?$/.test(part.symbol?.name))
    const isTask = (type) =>
      isIO(type) ||
      calls(type).some((call) => call.parameters.length === 0 && isThenable(call.getReturnType()))
    const givesTask = (call) => isTask(call.getReturnType())
    const givesVoid = (call) => checker.typeToString(call.getReturnType()) === 'void'

    const report = (node) => context.report({ node, message: 'This task is built but never run.' })
    const check = (node) => {
      const kept = node.type === 'AssignmentExpression' // so it may still be run
      if (!kept && isTask(typeOf(node))) report(node)
    }
    const checkCallback = (node) => {
      const wanted = checker.getContextualType(esTreeNodeToTSNodeMap.get(node))
      const listens = wanted && calls(wanted).length > 0 && calls(wanted).every(givesVoid)
      if (listens && calls(typeOf(node)).some(givesTask)) report(node)
    }
    return {
      ExpressionStatement: (node) => check(node.expression),
      ':not(ExpressionStatement) > AwaitExpression': (node) => check(node.argument),
      'UnaryExpression[operator="void"]': (node) => check(node.argument),
      'CallExpression, NewExpression': (node) => node.arguments.forEach(checkCallback),
    }
  },
}

export default {
  rules: {
    'imports-point-down': importsPointDown,
    'imports-through-gate': importsThroughGate,
    'no-unrun-task': noUnrunTask,
  },
}
