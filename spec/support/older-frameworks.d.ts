// Older versions of the frameworks, under names of their own, by the types of the newer ones.

declare module 'express4' {
  export { default } from 'express'
}

declare module 'koa2' {
  export { default } from 'koa'
}
