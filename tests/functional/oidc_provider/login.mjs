// A real OpenID provider on loopback that only logs people in, for tests/functional/authorization_world.py: it knows one client (the
// gateway), has no resources, and takes no registrations. Groups and department stand in its ID tokens.
// Usage: node login.mjs DIRECTORY_WITH_NODE_MODULES CONFIG   Prints one line of JSON, serves until killed.
// CONFIG is JSON: `clients`, and `people` (by login name: their claims).
import { generateKeyPairSync } from 'node:crypto';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const [directory, config] = [process.argv[2], JSON.parse(process.argv[3])];
const { default: Provider } = await import(pathToFileURL(join(directory, 'node_modules', 'oidc-provider', 'lib', 'index.js')));
const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });

const http = createServer();
http.listen(0, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${http.address().port}`;
  const provider = new Provider(issuer, {
    clients: config.clients,
    jwks: { keys: [{ ...privateKey.export({ format: 'jwk' }), kid: 'rsa', alg: 'RS256', use: 'sig' }] },
    cookies: { keys: ['a key for the cookies of a test'] },
    claims: { openid: ['sub', 'groups', 'department'] },
    conformIdTokenClaims: false,
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, ...config.people[id] }) }),
    enabledJWA: { clientAuthSigningAlgValues: ['ES256', 'RS256'] },
  });
  http.on('request', provider.callback());
  console.log(JSON.stringify({ issuer }));
});
