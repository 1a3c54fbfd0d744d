// ../docs.spec.ts with a process of its own for each code block.

process.env['LONG'] = '1'
await import('../docs.spec.js')
