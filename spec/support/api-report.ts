// Prints the public types of an entry point. The types are printed as the compiler resolves them. So a moved
// declaration, or an equivalent form of it, changes no line.

import { execFileSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import ts from 'typescript'

const root = fileURLToPath(new URL('../../', import.meta.url))
const dist = `${root}dist/`

const options: ts.CompilerOptions = {
  target: ts.ScriptTarget.ES2022,
  module: ts.ModuleKind.NodeNext,
  moduleResolution: ts.ModuleResolutionKind.NodeNext,
  strict: true,
  exactOptionalPropertyTypes: true,
  skipLibCheck: true,
  types: ['node'],
}

const { SyntaxKind, SymbolFlags, ModifierFlags, NodeBuilderFlags } = ts
const FLAGS = (NodeBuilderFlags.NoTruncation |
  NodeBuilderFlags.MultilineObjectLiterals |
  NodeBuilderFlags.IgnoreErrors) as ts.NodeBuilderFlags
const ALIAS_FLAGS = (FLAGS | NodeBuilderFlags.InTypeAlias) as ts.NodeBuilderFlags

const printer = ts.createPrinter({ removeComments: true })
const blank = ts.createSourceFile('', '', ts.ScriptTarget.ES2022)
const print = (node: ts.Node): string => printer.printNode(ts.EmitHint.Unspecified, node, blank)

const sorted = (texts: readonly string[]): readonly string[] => texts.toSorted()

/** Sorts the members of unions, because the compiler's order depends on the order of files. */
const withSortedUnions = (node: ts.Node): ts.Node => {
  const visit = (inner: ts.Node): ts.Node => {
    const visited = ts.visitEachChild(inner, visit, undefined)
    if (!ts.isUnionTypeNode(visited)) return visited
    return ts.factory.createUnionTypeNode(visited.types.toSorted((a, b) => (print(a) < print(b) ? -1 : 1)))
  }
  return visit(node)
}

const isOurs = (symbol: ts.Symbol): boolean =>
  (symbol.declarations ?? []).some((one) => one.getSourceFile().fileName.startsWith(dist))

const hasModifier = (declaration: ts.Declaration, flags: ts.ModifierFlags): boolean =>
  (ts.getCombinedModifierFlags(declaration) & flags) !== 0

const isPublic = ({ name, declarations = [] }: ts.Symbol): boolean =>
  name !== 'prototype' &&
  !name.startsWith('#') &&
  !declarations.some((one) => hasModifier(one, ModifierFlags.Private))

const isReadonly = ({ declarations = [] }: ts.Symbol): boolean =>
  declarations.some((one) => hasModifier(one, ModifierFlags.Readonly) || ts.isGetAccessorDeclaration(one)) &&
  !declarations.some(ts.isSetAccessorDeclaration)

/** Returns the source text of a key, which may be quoted or a symbol in brackets. */
const keyOf = (symbol: ts.Symbol): string => {
  const [declaration] = symbol.declarations ?? []
  return (declaration && ts.getNameOfDeclaration(declaration)?.getText()) ?? symbol.name
}

const block = (head: string, members: readonly string[]): string =>
  members.length === 0 ? `${head} {} // (no members)` : `${head} {\n${members.join('\n')}\n}`

/** Prints declarations, and calls `refer` with each symbol that a printed type names. */
const declarer = (checker: ts.TypeChecker, refer: (symbol: ts.Symbol) => void) => {
  const text = (node: ts.Node | undefined): string => {
    if (node === undefined) throw new Error('the compiler has no text for a type')
    const visit = (inner: ts.Node): void => {
      // The compiler attaches a symbol to each generated identifier, but its types do not declare this.
      const { symbol } = inner as { readonly symbol?: ts.Symbol }
      if (ts.isIdentifier(inner) && symbol !== undefined) refer(symbol)
      ts.forEachChild(inner, visit)
    }
    visit(node)
    return print(withSortedUnions(node))
  }

  const typeText = (type: ts.Type, flags = FLAGS): string =>
    type.flags & ts.TypeFlags.UniqueESSymbol
      ? 'unique symbol'
      : text(checker.typeToTypeNode(type, undefined, flags))

  const calls = (
    signatures: readonly ts.Signature[],
    kind: ts.SyntaxKind.CallSignature | ts.SyntaxKind.ConstructSignature | ts.SyntaxKind.Constructor,
  ): readonly string[] =>
    signatures.map((one) => text(checker.signatureToSignatureDeclaration(one, kind, undefined, FLAGS)))

  /** `a?: string` and `a?: string | undefined` are two types, but the compiler prints both as the second. */
  const optionalText = (type: ts.Type): string => {
    const node = checker.typeToTypeNode(type, undefined, FLAGS)
    if (!type.isUnion() || node === undefined || !ts.isUnionTypeNode(node)) return typeText(type)
    const kept = node.types.filter((one) => one.kind !== SyntaxKind.UndefinedKeyword)
    const allowed = type.types.includes(checker.getUndefinedType())
      ? [...kept, ts.factory.createKeywordTypeNode(SyntaxKind.UndefinedKeyword)]
      : kept
    return text(ts.factory.createUnionTypeNode(allowed))
  }

  const member = (symbol: ts.Symbol): string => {
    const isOptional = (symbol.flags & SymbolFlags.Optional) !== 0
    const key = `${keyOf(symbol)}${isOptional ? '?' : ''}`
    const type = checker.getTypeOfSymbol(symbol)
    if (symbol.flags & SymbolFlags.Method)
      return calls(checker.getNonNullableType(type).getCallSignatures(), SyntaxKind.CallSignature)
        .map((call) => `${key}${call}`)
        .join('\n')
    return `${isReadonly(symbol) ? 'readonly ' : ''}${key}: ${(isOptional ? optionalText : typeText)(type)}`
  }

  /** Includes members inherited inside this package, since the hierarchy of its interfaces is not public. */
  const members = (type: ts.Type): readonly string[] =>
    sorted(
      type
        .getProperties()
        .filter((symbol) => isOurs(symbol) && isPublic(symbol))
        .map(member),
    )

  /** Returns the base types of other packages, whose members are not listed. */
  const foreignBases = (symbol: ts.Symbol): readonly ts.Type[] => {
    const type = checker.getDeclaredTypeOfSymbol(symbol)
    if (!type.isClassOrInterface()) return []
    return checker.getBaseTypes(type).flatMap((base) => {
      const { symbol: named } = base as { readonly symbol?: ts.Symbol }
      if (named === undefined || !(named.flags & (SymbolFlags.Class | SymbolFlags.Interface))) return []
      return isOurs(named) ? foreignBases(named) : [base]
    })
  }

  const head = (name: string, symbol: ts.Symbol): string => {
    const declared = (symbol.declarations ?? []).find(
      (one) => ts.isInterfaceDeclaration(one) || ts.isClassDeclaration(one) || ts.isTypeAliasDeclaration(one),
    )
    const parameters = (declared?.typeParameters ?? []).map((one) =>
      text(checker.typeParameterToDeclaration(checker.getTypeAtLocation(one), undefined, FLAGS)),
    )
    const bases = foreignBases(symbol).map((base) => typeText(base))
    return [
      name,
      parameters.length > 0 ? `<${parameters.join(', ')}>` : '',
      bases.length > 0 ? ` extends ${bases.join(', ')}` : '',
    ].join('')
  }

  const constructors = (type: ts.Type): readonly string[] =>
    type.getConstructSignatures().flatMap((signature) => {
      const { declaration } = signature as { readonly declaration?: ts.SignatureDeclaration }
      const isClosed =
        declaration !== undefined && hasModifier(declaration, ModifierFlags.Private | ModifierFlags.Protected)
      return calls([signature], SyntaxKind.Constructor).map((call) => (isClosed ? `private ${call}` : call))
    })

  const classText = (name: string, symbol: ts.Symbol): string => {
    const statics = checker.getTypeOfSymbol(symbol)
    return block(`class ${head(name, symbol)}`, [
      ...constructors(statics),
      ...members(statics).map((one) => `static ${one}`),
      ...members(checker.getDeclaredTypeOfSymbol(symbol)),
    ])
  }

  const interfaceText = (name: string, symbol: ts.Symbol): string => {
    const type = checker.getDeclaredTypeOfSymbol(symbol)
    return block(`interface ${head(name, symbol)}`, [
      ...calls(type.getConstructSignatures(), SyntaxKind.ConstructSignature),
      ...calls(type.getCallSignatures(), SyntaxKind.CallSignature),
      ...checker
        .getIndexInfosOfType(type)
        .map((info) => text(checker.indexInfoToIndexSignatureDeclaration(info, undefined, FLAGS))),
      ...members(type),
    ])
  }

  const aliasText = (name: string, symbol: ts.Symbol): string => {
    const aliased = typeText(checker.getDeclaredTypeOfSymbol(symbol), ALIAS_FLAGS)
    return `type ${head(name, symbol)} = ${aliased}${aliased === '{}' ? ' // (no members)' : ''}`
  }

  /** One name may be a constant and a type. */
  return (name: string, symbol: ts.Symbol): string => {
    const type = checker.getTypeOfSymbol(symbol)
    const texts = [
      ...(symbol.flags & SymbolFlags.Class ? [classText(name, symbol)] : []),
      ...(symbol.flags & SymbolFlags.Interface ? [interfaceText(name, symbol)] : []),
      ...(symbol.flags & SymbolFlags.TypeAlias ? [aliasText(name, symbol)] : []),
      ...(symbol.flags & SymbolFlags.Variable ? [`const ${name}: ${typeText(type)}`] : []),
      ...(symbol.flags & SymbolFlags.Function
        ? calls(type.getCallSignatures(), SyntaxKind.CallSignature).map((call) => `function ${name}${call}`)
        : []),
    ]
    if (texts.length === 0) throw new Error(`${name} is exported as something that reports do not know`)
    return texts.join('\n')
  }
}

interface Entry {
  readonly file: string
  /** The exported name of each symbol. */
  readonly exports: ReadonlyMap<ts.Symbol, string>
}

const DECLARED =
  SymbolFlags.Class |
  SymbolFlags.Interface |
  SymbolFlags.TypeAlias |
  SymbolFlags.Variable |
  SymbolFlags.Function

const resolved = (checker: ts.TypeChecker, symbol: ts.Symbol): ts.Symbol =>
  symbol.flags & SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol

const report = (checker: ts.TypeChecker, entry: Entry, entries: readonly Entry[]): string => {
  const known = new Set(entry.exports.keys())
  const queue: ts.Symbol[] = []
  const declare = declarer(checker, (named) => {
    const symbol = resolved(checker, named)
    if (known.has(symbol) || !isOurs(symbol) || !(symbol.flags & DECLARED)) return
    known.add(symbol)
    queue.push(symbol)
  })
  const exported = [...entry.exports].map(([symbol, name]) => declare(name, symbol))
  const [referenced, elsewhere]: [string[], string[]] = [[], []]
  for (let next = queue.pop(); next !== undefined; next = queue.pop()) {
    const symbol = next
    const other = entries.find(({ exports }) => exports.has(symbol))
    if (other === undefined) referenced.push(declare(symbol.name, symbol))
    else elsewhere.push(`// ${other.file}: ${other.exports.get(symbol) ?? ''}`)
  }
  return [
    ...sorted(exported),
    ...(referenced.length > 0 ? ['// referenced', ...sorted(referenced)] : []),
    ...(elsewhere.length > 0 ? ['// referenced, and exported elsewhere', sorted(elsewhere).join('\n')] : []),
  ].join('\n\n')
}

const SEPARATOR = '// next report\n'

/** Biome breaks long signatures into lines, so that a changed parameter is a changed line. One process formats all. */
const formatted = (reports: readonly string[]): readonly string[] => {
  const biome = `${root}node_modules/@biomejs/biome/bin/biome`
  const input = reports.join(`\n\n${SEPARATOR}\n`)
  const output = execFileSync(
    process.execPath,
    [biome, 'format', '--stdin-file-path=spec/frozen/api/report.d.ts'],
    { cwd: root, input, encoding: 'utf8' },
  )
  return output.split(SEPARATOR).map((text) => `${text.trim()}\n`)
}

/** Returns the report of each entry point by file name. `entries` are the `exports` of package.json. */
export const apiReports = (entries: Readonly<Record<string, string>>): ReadonlyMap<string, string> => {
  const files = Object.entries(entries).map(([name, path]) => ({
    file: `${name === '.' ? 'index' : name.slice(2).replace('/', '-')}.txt`,
    types: `${root}${path.slice(2).replace(/js$/, 'd.ts')}`,
  }))
  const program = ts.createProgram(
    files.map(({ types }) => types),
    options,
  )
  const checker = program.getTypeChecker()
  const found = files.map(({ file, types }): Entry => {
    const source = program.getSourceFile(types)
    const module = source && checker.getSymbolAtLocation(source)
    if (module === undefined)
      throw new Error(`${file}: its entry point has no types in dist; build them first`)
    const symbols = checker.getExportsOfModule(module)
    return { file, exports: new Map(symbols.map((one) => [resolved(checker, one), one.name])) }
  })
  const texts = formatted(found.map((entry) => report(checker, entry, found)))
  return new Map(found.map(({ file }, index) => [file, texts[index] ?? '']))
}
