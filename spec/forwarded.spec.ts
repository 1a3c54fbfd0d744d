// Tests the headers that real proxies add about the client, and which of their values are trusted.

import t from 'tap'
import { addressOf, forwardedBy, networkOf, type TrustProxy } from '../lib/http/forwarded.js'

const read = (trust: TrustProxy | undefined, headers: Record<string, string>, peer = '10.0.0.1') => {
  const { address, proto, host } = forwardedBy(trust)((name) => headers[name], peer)
  return { address, proto, host }
}

const NOTHING = { address: undefined, proto: undefined, host: undefined }

t.test('addresses as proxies write them', async (t) => {
  for (const [text, address] of [
    ['1.2.3.4', '1.2.3.4'],
    ['1.2.3.4:5678', '1.2.3.4'],
    ['2001:db8::1', '2001:db8::1'],
    ['[2001:db8::1]', '2001:db8::1'],
    ['[2001:DB8:0::1]:443', '2001:db8::1'],
    ['::ffff:1.2.3.4', '1.2.3.4'],
    ['::ffff:102:304', '1.2.3.4'],
    ['[::ffff:1.2.3.4]:80', '1.2.3.4'],
    ['fe80::1%eth0', 'fe80::1%eth0'],
    ['_hidden', '_hidden'],
    ['_hidden:_port', '_hidden'],
    ['unknown', undefined],
    ['', undefined],
    ['1.2.3', undefined],
    ['0x7f.1', undefined],
    ['<script>', undefined],
    [`_${'x'.repeat(5_000)}`, undefined],
  ] as const)
    t.equal(addressOf(text), address, text.slice(0, 40))
})

t.test('an IPv6 client is its network, an IPv4 one its address', async (t) => {
  t.equal(networkOf('2001:db8:1:2:3:4:5:6'), networkOf('2001:db8:1:2::9'))
  t.not(networkOf('2001:db8:1:2::9'), networkOf('2001:db8:1:3::9'))
  t.equal(networkOf('::ffff:1.2.3.4'), '1.2.3.4')
  t.not(networkOf('1.2.3.4'), networkOf('1.2.3.5'))
  t.equal(networkOf('fe80::1%eth0'), networkOf('fe80::2%eth0'))
  t.not(networkOf('_one'), networkOf('_two'))
})

t.test('of a chain, what the trusted proxies have added counts', async (t) => {
  const chain = { 'x-forwarded-for': '6.6.6.6, 1.2.3.4:99, 10.0.0.7' }
  for (const [trust, address] of [
    [undefined, undefined],
    [false, undefined],
    [0, undefined],
    [true, '10.0.0.7'],
    [1, '10.0.0.7'],
    [2, '1.2.3.4'],
    [9, '6.6.6.6'],
    [['10.0.0.0/8'], '1.2.3.4'],
    [['uniquelocal'], '1.2.3.4'],
    [['10.0.0.1'], '10.0.0.7'],
    [['10.0.0.0/8', '1.2.3.4/32'], '6.6.6.6'],
    [['0.0.0.0/0'], '6.6.6.6'],
    [['192.168.0.0/16', '::/0'], undefined],
    [[], undefined],
  ] as const)
    t.equal(read(trust, chain).address, address, JSON.stringify(trust))
  t.equal(read(['loopback'], chain, '::1').address, '10.0.0.7')
  t.equal(read(['127.0.0.1'], chain, '::ffff:127.0.0.1').address, '10.0.0.7')
  t.strictSame(
    read(['loopback'], { 'x-forwarded-proto': 'https' }, '6.6.6.6'),
    NOTHING,
    'from beside the proxy',
  )
})

t.test('Forwarded says the same, where nothing else does', async (t) => {
  const forwarded =
    'for="[2001:db8::9]:1";proto=http;host="a,b;c", For=1.2.3.4:5;Proto=HTTPS;Host=shop.example:8443'
  t.strictSame(read(true, { forwarded }), { address: '1.2.3.4', proto: 'https', host: 'shop.example:8443' })
  t.strictSame(read(2, { forwarded }), { address: '2001:db8::9', proto: 'http', host: 'a,b;c' })
  t.equal(read(['10.0.0.0/8', '1.2.3.4'], { forwarded }).address, '2001:db8::9')
  t.strictSame(read(false, { forwarded }), NOTHING)
  t.strictSame(
    read(true, { forwarded, 'x-forwarded-for': '5.6.7.8' }),
    { address: '5.6.7.8', proto: undefined, host: undefined },
    'a client may have made it up',
  )
  for (const broken of ['', ';', '=', 'for', 'for="', 'for=unknown;proto', '"', ',,,'])
    t.equal(read(true, { forwarded: broken }).address, undefined, broken)
})

t.test('X-Forwarded-Proto and -Host', async (t) => {
  const headers = {
    'x-forwarded-for': '1.2.3.4',
    'x-forwarded-proto': 'HTTPS, http',
    'x-forwarded-host': 'a:1, b',
  }
  t.strictSame(read(true, headers), { address: '1.2.3.4', proto: 'https', host: 'a:1' })
  t.strictSame(read(false, headers), NOTHING)
})

t.test('what cannot be meant is refused at once', async (t) => {
  for (const wrong of [-1, 1.5, Number.NaN, Number.POSITIVE_INFINITY])
    t.throws(() => forwardedBy(wrong), { name: 'RangeError', message: String(wrong) })
  for (const wrong of [
    '',
    'proxy',
    '10.0.0.0/33',
    '10.0.0.0/',
    '10.0.0/8',
    '::1/129',
    '10.0.0.0/8/8',
    '10.0.0.0/-1',
  ])
    t.throws(() => forwardedBy([wrong]), { name: 'TypeError', message: `"${wrong}"` }, wrong)
})
