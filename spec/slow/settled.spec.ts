// ../settled.spec.ts with five times as many answers that are lost.

process.env['LONG'] = '1'
await import('../settled.spec.js')
