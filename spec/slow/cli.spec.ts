// ../cli.spec.ts with a process of its own for each run of the command line.

process.env['LONG'] = '1'
await import('../cli.spec.js')
