// A real OpenID provider on loopback for tests/functional/test_oidc_provider.py.
// Usage: node server.mjs DIRECTORY_WITH_NODE_MODULES RESOURCE_URL...   Prints one line of JSON, serves until killed.
import { generateKeyPairSync } from 'node:crypto';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const [directory, ...resources] = process.argv.slice(2);
const entry = pathToFileURL(join(directory, 'node_modules', 'oidc-provider', 'lib', 'index.js'));
const { default: Provider, errors } = await import(entry);

const signingKey = (kid, type, options, alg) => ({
  ...generateKeyPairSync(type, options).privateKey.export({ format: 'jwk' }), kid, alg, use: 'sig',
});
const algorithms = ['ES256', 'RS256', 'EdDSA'];

const http = createServer();
http.listen(0, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${http.address().port}`;
  const provider = new Provider(issuer, {
    clients: algorithms.map((alg) => ({
      client_id: `agent ${alg}`, client_secret: 'a secret: +%/',
      grant_types: ['client_credentials'], response_types: [], redirect_uris: [],
    })),
    jwks: {
      keys: [
        signingKey('ec', 'ec', { namedCurve: 'P-256' }, 'ES256'),
        signingKey('rsa', 'rsa', { modulusLength: 2048 }, 'RS256'),
        signingKey('ed', 'ed25519', {}, 'EdDSA'),
      ],
    },
    scopes: ['call'],
    extraTokenClaims: () => ({ groups: ['marketing', 'sales'] }),
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_, resource, client) => {
          if (!resources.includes(resource)) throw new errors.InvalidTarget();
          const alg = client.clientId.split(' ')[1];
          return { scope: 'call', accessTokenFormat: 'jwt', accessTokenTTL: 300, jwt: { sign: { alg } } };
        },
      },
    },
    enabledJWA: { idTokenSigningAlgValues: algorithms },
  });
  http.on('request', provider.callback());
  console.log(JSON.stringify({ issuer, token_url: `${issuer}/token` }));
});
