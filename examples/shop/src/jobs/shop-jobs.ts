import { productUpdated } from './product-updated.ts'
import { sendReceipt } from './send-receipt.ts'
import { stockCheck } from './stock-check.ts'

export const shopJobs = [sendReceipt, productUpdated, stockCheck]
