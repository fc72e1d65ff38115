// Express 4 beside 5; as far as it is used here, its types are the same.
declare module 'express4' {
  export { default } from 'express'
}
