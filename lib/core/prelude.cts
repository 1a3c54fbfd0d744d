// Exports the libraries that most modules of keyrow use. Before an ES module imports a CommonJS module, Node.js scans
// the CommonJS module for its exports. For the package `immutable` this scan takes 40 ms. Node.js scans only this short
// file, not the modules that this file requires.
import A = require('fp-ts/lib/ReadonlyArray.js')
import E = require('fp-ts/lib/Either.js')
import fn = require('fp-ts/lib/function.js')
import O = require('fp-ts/lib/Option.js')
import TE = require('fp-ts/lib/TaskEither.js')
import immutable = require('immutable')
import t = require('io-ts')

export { A, E, O, TE, t }
export import constVoid = fn.constVoid
export import flow = fn.flow
export import identity = fn.identity
export import pipe = fn.pipe
export import HashMap = immutable.Map
export import HashSet = immutable.Set
export import is = immutable.is
