import createError from '@fastify/error'

export const ProductNotFound = createError<[id: number]>('SHOP_PRODUCT_NOT_FOUND', 'There is no product %d.', 404)
export const UnknownProduct = createError<[id: number]>('SHOP_UNKNOWN_PRODUCT', 'There is no product %d.', 422)
export const UnknownCustomer = createError<[id: number]>('SHOP_UNKNOWN_CUSTOMER', 'There is no customer %d.', 422)
export const OutOfStock = createError<[id: number]>('SHOP_OUT_OF_STOCK', 'There is not enough of product %d left.', 409)
export const EmailTaken = createError<[email: string]>('SHOP_EMAIL_TAKEN', '%s has signed up before.', 409)
