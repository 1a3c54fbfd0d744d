// The command line as ../cli.spec.ts has it, with a process of its own for each run.

process.env['CLI_PROCESSES'] = '1'
await import('../cli.spec.js')
