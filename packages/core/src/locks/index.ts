export type {
  AnyLock,
  Lock,
  LockFor,
  LockKeys,
  LockOptions,
  ManualRelease,
  SharedLock,
} from '../scope/locker.ts'
export type { Moment } from './clock.ts'
export { fenced } from './fence.ts'
export type { LockGrant, LockRefusal, LockRequest, LockStore } from './store.ts'
