// The settings of the site. `build.js` copies this file next to the pages.

import { readdirSync } from 'node:fs'

const links = (...pages) => pages.map(([text, link]) => ({ text, link }))

const api = readdirSync(new URL('../api', import.meta.url), { recursive: true })
  .filter((name) => name.endsWith('.md') && name !== 'index.md')
  .map((name) => name.replace(/(\/index)?\.md$/, ''))
  .sort()

export default {
  title: 'keyrow',
  description: 'Web sessions in PostgreSQL, one row for each key, edited by pure functions and saved once',
  cleanUrls: true,
  lastUpdated: false,
  head: [['link', { rel: 'icon', href: 'data:,' }]],
  markdown: { theme: { light: 'github-light', dark: 'github-dark' } },
  themeConfig: {
    search: { provider: 'local' },
    outline: [2, 3],
    nav: links(['Tutorial', '/tutorial'], ['Recipes', '/recipes'], ['Options', '/options'], ['API', '/api/']),
    sidebar: [
      {
        text: 'Begin',
        items: links(
          ['What it is', '/'],
          ['Tutorial', '/tutorial'],
          ['Moving to keyrow', '/moving'],
          ['Comparison', '/comparison'],
          ['Recipes', '/recipes'],
          ['Deployment', '/deployment'],
          ['All options', '/options'],
        ),
      },
      {
        text: 'Guide',
        items: links(
          ['Stores', '/stores'],
          ['HTTP', '/http'],
          ['Framework adapters', '/frameworks'],
          ['Next.js', '/next'],
          ['Flows', '/flows'],
          ['Sessions of a user', '/user-sessions'],
          ['Bound sessions', '/bound-sessions'],
          ['Records', '/records'],
          ['Drizzle, Kysely', '/orm'],
          ['Events', '/events'],
        ),
      },
      {
        text: 'In depth',
        items: links(
          ['Concurrency', '/concurrency'],
          ['Durability', '/durability'],
          ['Performance', '/performance'],
          ['Security', '/security'],
          ['Operations', '/operations'],
          ['Command line', '/cli'],
          ['Dependencies', '/dependencies'],
          ['Glossary', '/glossary'],
        ),
      },
      {
        text: 'API reference',
        collapsed: true,
        items: api.map((name) => ({ text: name, link: `/api/${name}` })),
      },
      {
        text: 'Project',
        collapsed: true,
        items: links(
          ['Architecture', '/architecture'],
          ['Decisions', '/decisions/1-one-row-per-key'],
          ['Contributing', '/contributing'],
          ['Security policy', '/security-policy'],
          ['Changelog', '/changelog'],
        ),
      },
    ],
  },
}
