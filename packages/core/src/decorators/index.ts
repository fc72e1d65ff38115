export { Locked, type LockedOptions, locked } from './locked.ts'
export type { AsyncMethodDecorator } from './method-decorator.ts'
export { Transactional, transactional } from './transactional.ts'
