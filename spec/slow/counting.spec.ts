// Law 5 between real processes, at length: as ../counting.spec.ts, with COUNT (100) increments of each process.

process.env['COUNT'] ??= '100'
await import('../counting.spec.js')
