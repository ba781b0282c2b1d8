// A real OpenID provider (npm `oidc-provider`) on loopback, for trials: whoever logs in is who they say they are.
// Usage: node provider.mjs DIRECTORY_WITH_NODE_MODULES CONFIG   Prints one line of JSON, serves until killed.
//
// CONFIG is JSON: `port` (0: any), `resources` (URLs that tokens can be for), `scopes` of these, `groups` of people by login name,
// `clients` (registered ones; others register themselves, or bring a client metadata document), `brief` (people whose access tokens
// last for seconds: what number), `local_documents` (client metadata documents may stand on this machine).
import { generateKeyPairSync } from 'node:crypto';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const [directory, config] = [process.argv[2], JSON.parse(process.argv[3])];
const { port = 0, resources = [], scopes = [], groups = {}, clients = [], brief = {}, local_documents: local = false } = config;
const { default: Provider, errors } = await import(pathToFileURL(join(directory, 'node_modules', 'oidc-provider', 'lib', 'index.js')));

const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });

const http = createServer();
http.listen(port, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${http.address().port}`;
  const provider = new Provider(issuer, {
    clients,
    jwks: { keys: [{ ...privateKey.export({ format: 'jwk' }), kid: 'ec', alg: 'ES256', use: 'sig' }] },
    cookies: { keys: ['a key for the cookies of a trial'] },
    scopes: ['openid', 'offline_access', ...scopes],
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
    rotateRefreshToken: true,
    extraTokenClaims: (_, token) =>
      token.kind === 'ClientCredentials' ? { gty: 'client-credentials' } : { groups: groups[token.accountId] ?? [] },
    ttl: { AccessToken: (_, token) => brief[token.accountId] ?? 300, ClientCredentials: () => 300 },
    features: {
      clientCredentials: { enabled: true },
      registration: { enabled: true },
      clientIdMetadataDocument: { enabled: true, ack: 'draft-02' },
      dPoP: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => undefined,
        getResourceServerInfo: (_, resource) => {
          if (!resources.includes(resource)) throw new errors.InvalidTarget();
          return { scope: scopes.join(' '), accessTokenFormat: 'jwt', jwt: { sign: { alg: 'ES256' } } };
        },
      },
    },
    // The provider refuses to read from this machine. Where the documents of a trial stand here, it is told to.
    ...(local && { fetch: (url, { dispatcher, ...options }) => globalThis.fetch(url, options) }),
    enabledJWA: { idTokenSigningAlgValues: ['ES256'], clientAuthSigningAlgValues: ['ES256', 'RS256'] },
    clientDefaults: { id_token_signed_response_alg: 'ES256' },
  });
  http.on('request', provider.callback());
  console.log(JSON.stringify({ issuer }));
});
