// Declares older versions of the frameworks with the types of the newer versions.

declare module 'express4' {
  export { default } from 'express'
}

declare module 'koa2' {
  export { default } from 'koa'
}
