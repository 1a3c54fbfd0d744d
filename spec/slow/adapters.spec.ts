// ../adapters.spec.ts with ten times as many redirects, and more requests at once.

process.env['LONG'] = '1'
await import('../adapters.spec.js')
