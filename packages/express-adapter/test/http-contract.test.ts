import { describeHttpContract } from '../../core/test/http-contract/index.ts'
import { expressDriver, frameworks } from './driver.ts'

for (const { name, express } of frameworks) describeHttpContract(expressDriver(name, express))
