// ../history.spec.ts with more processes and operations, more kinds of broken stores, and a server that is killed.

process.env['LONG'] = '1'
await import('../history.spec.js')
