import { describeHttpContract } from '../../core/test/http-contract/index.ts'
import { fastifyDriver } from './driver.ts'

describeHttpContract(fastifyDriver)
