// The house: data flows one way. Each level may import its own level's neighbours named here and what stands below.
const CORE = '^packages/core/src'
const GROUND = `${CORE}/(errors|options|events|circuit-breaker)\\.ts$`
const SCOPE = `${CORE}/scope/`
const STORES = `${CORE}/(postgres|redis)/`
const FEATURES = `${CORE}/(jobs|locks|limits)/`
const TOP = `${CORE}/(index|scopes|health)\\.ts$|${CORE}/(decorators|http)/`

/** What is in `from` may import, inside core, only what is in `to`. */
const layer = (name, from, to, comment) => ({
  name,
  comment,
  severity: 'error',
  from: { path: from },
  to: { path: CORE, pathNot: to },
})

export default {
  forbidden: [
    {
      name: 'no-cycles',
      comment: 'Modules that import each other cannot be understood one at a time. Types may refer to each other.',
      severity: 'error',
      from: {},
      to: { circular: true, viaOnly: { dependencyTypesNot: ['type-only'] } },
    },
    {
      name: 'ground-imports-nothing-above',
      comment: 'errors, options, events and circuit-breaker are what everything else stands on.',
      severity: 'error',
      from: { path: GROUND },
      to: { path: CORE, pathNot: GROUND },
    },
    layer(
      'scope-imports-only-the-ground',
      SCOPE,
      [GROUND, SCOPE],
      'scope/ declares interfaces; scopes.ts fills them in.',
    ),
    layer(
      'postgres-knows-scope-and-ground',
      `${CORE}/postgres/`,
      [GROUND, SCOPE, `${CORE}/postgres/`],
      'A store knows no other store and no feature.',
    ),
    layer(
      'redis-knows-scope-and-ground',
      `${CORE}/redis/`,
      [GROUND, SCOPE, `${CORE}/redis/`],
      'A store knows no other store and no feature.',
    ),
    ...['jobs', 'locks', 'limits'].map((feature) =>
      layer(
        `${feature}-knows-only-what-is-below`,
        `${CORE}/${feature}/`,
        [GROUND, SCOPE, STORES, `${CORE}/${feature}/`],
        'jobs, locks and limits stand beside each other, on the stores.',
      ),
    ),
    layer(
      'decorators-and-http-know-only-what-is-below',
      `${CORE}/(decorators|http)/`,
      [GROUND, SCOPE, STORES, FEATURES, `${CORE}/(decorators|http)/`],
      'What both adapters share, and the decorators, need no runtime.',
    ),
    layer(
      'the-top-knows-no-exporter',
      TOP,
      [GROUND, SCOPE, STORES, FEATURES, TOP],
      'Exporters read events and health; nothing of core needs them.',
    ),
    {
      name: 'nothing-imports-exporters',
      comment: 'Exporters are entries of their own.',
      severity: 'error',
      from: { path: '^packages/[^/]+/src', pathNot: `${CORE}/exporters/` },
      to: { path: `${CORE}/exporters/` },
    },
    {
      name: 'core-knows-no-framework',
      severity: 'error',
      from: { path: CORE },
      to: { path: '(^|/)node_modules/(@fastify/|fastify|express)|^packages/(fastify-plugin|express-adapter)/' },
    },
    {
      name: 'core-knows-no-framework-by-name',
      comment: 'The same for a package that cannot be resolved from core.',
      severity: 'error',
      from: { path: CORE },
      to: { path: '^(@fastify/|fastify|express|@types/express|@reqscope/(fastify-plugin|express-adapter))' },
    },
    {
      name: 'adapters-use-public-entries',
      comment: 'Import `@reqscope/core` or one of its entries, never a file of its sources.',
      severity: 'error',
      from: { path: '^packages/(fastify-plugin|express-adapter)/src' },
      to: { path: CORE, dependencyTypes: ['local'] },
    },
    {
      name: 'examples-use-public-entries',
      severity: 'error',
      from: { path: '^(examples|benchmarks)/' },
      to: { path: '^packages/[^/]+/src', dependencyTypes: ['local'] },
    },
    {
      name: 'no-servers-in-what-is-published',
      comment: 'packages/services is for tests, examples and benchmarks.',
      severity: 'error',
      from: { path: '^packages/(core|fastify-plugin|express-adapter)/src' },
      to: { path: '^packages/services/' },
    },
    {
      name: 'resolvable',
      comment: 'A typing error, or a dependency that is missing in package.json.',
      severity: 'error',
      from: { path: '^(packages|examples|benchmarks)/' },
      to: { couldNotResolve: true },
    },
  ],
  options: {
    parser: 'tsc',
    // Types count: a layer that needs only a type of a higher one still points back.
    tsPreCompilationDeps: true,
    doNotFollow: { path: 'node_modules' },
    exclude: { path: '(^|/)(dist|extracted)/' },
    enhancedResolveOptions: {
      exportsFields: ['exports'],
      conditionNames: ['import', 'node', 'default', 'types'],
      extensions: ['.ts', '.mts', '.js', '.mjs', '.json'],
    },
  },
}
