// A real OpenID provider on loopback for tests/functional/test_cli_login.py: people, devices and CI log in to the gateway's API.
// Usage: node operators.mjs DIRECTORY_WITH_NODE_MODULES RESOURCE_URL...   Prints one line of JSON, serves until killed.
import { generateKeyPairSync } from 'node:crypto';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const [directory, ...resources] = process.argv.slice(2);
const entry = pathToFileURL(join(directory, 'node_modules', 'oidc-provider', 'lib', 'index.js'));
const { default: Provider, errors } = await import(entry);

const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const jwk = { ...privateKey.export({ format: 'jwk' }), kid: 'ec', alg: 'ES256', use: 'sig' };
const device = 'urn:ietf:params:oauth:grant-type:device_code';

const http = createServer();
http.listen(0, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${http.address().port}`;
  const provider = new Provider(issuer, {
    clients: [
      {
        client_id: 'legation-cli', token_endpoint_auth_method: 'none', application_type: 'native',
        grant_types: ['authorization_code', 'refresh_token', device], response_types: ['code'],
        redirect_uris: ['http://127.0.0.1/callback'],
      },
      { client_id: 'ci', client_secret: 'a secret: +%/', grant_types: ['client_credentials'], response_types: [], redirect_uris: [] },
    ],
    jwks: { keys: [jwk] },
    cookies: { keys: ['a key for the cookies of a test'] },
    scopes: ['openid', 'offline_access', 'registry'],
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
    rotateRefreshToken: true,
    extraTokenClaims: (_, token) => ({ groups: token.accountId === 'ann' ? ['platform'] : [] }),
    features: {
      clientCredentials: { enabled: true },
      deviceFlow: { enabled: true },
      revocation: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => undefined,
        getResourceServerInfo: (_, resource) => {
          if (!resources.includes(resource)) throw new errors.InvalidTarget();
          return { scope: 'registry', accessTokenFormat: 'jwt', accessTokenTTL: 300, jwt: { sign: { alg: 'ES256' } } };
        },
      },
    },
    enabledJWA: { idTokenSigningAlgValues: ['ES256'] },
    clientDefaults: { id_token_signed_response_alg: 'ES256' },
  });
  http.on('request', provider.callback());
  console.log(JSON.stringify({ issuer }));
});
