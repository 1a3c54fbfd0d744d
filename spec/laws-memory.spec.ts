import t from 'tap'
import { sessionStoreLaws } from '../lib/testing/index.js'
import { openMemory } from './support/stores.js'

for (const { name, run } of sessionStoreLaws(openMemory)) t.test(name, run)
