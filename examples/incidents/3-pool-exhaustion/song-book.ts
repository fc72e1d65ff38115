/** How many connections there are: ten, and twenty more in need. */
export const POOL = 30

/** What a statement takes is time of the connection and not of the CPU, so that it is the pool that runs dry. */
export const SECONDS_A_STATEMENT = 0.05
