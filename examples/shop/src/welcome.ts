/** What `npm start` prints once the shop is open. */
export function welcome(url: string): string {
  const post = (path: string, body: object) =>
    `curl -X POST ${url}${path} -H 'content-type: application/json' -d '${JSON.stringify(body)}'`
  const lines = [{ productId: 1, quantity: 2 }]
  return `
The shop is open: ${url}/products

  Look around
    curl '${url}/products?search=brass+lamp&page=1'
    curl ${url}/products/1

  Buy: one transaction, and out of stock is 409 and changes nothing
    ${post('/orders', { customerId: 1, lines })}

  Its receipt is a job of the same transaction: look into the mail folder beside the data
  A supplier's new price: what follows is a job with a scope of its own
    ${post('/webhooks/products', { productId: 1, priceCents: 1_999 })}

  Ask for a quote: it waits 100 ms for a tax service, and holds no connection meanwhile
    ${post('/quotes', { country: 'DE', lines })}

  Reserve: read, then write only if nothing has changed meanwhile
    ${post('/reservations', { productId: 1, quantity: 1 })}

  Read a report that is streamed from a cursor: press Ctrl-C in it, and the connection is back
    curl --limit-rate 20k ${url}/reports/orders.csv

  Sign up, twice
    ${post('/signup', { name: 'Ada', email: 'ada@example.com' })}

  On call
    curl ${url}/health
    curl ${url}/debug/connections

Ctrl-C closes the shop.
`
}
