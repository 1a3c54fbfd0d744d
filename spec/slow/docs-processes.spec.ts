// The code blocks as ../docs.spec.ts has them, with a process of its own for each.

process.env['DOCS_PROCESSES'] = '1'
await import('../docs.spec.js')
