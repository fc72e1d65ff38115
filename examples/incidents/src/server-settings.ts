/** It counts the statements. */
export const SERVER_SETTINGS = { shared_preload_libraries: 'pg_stat_statements' }
