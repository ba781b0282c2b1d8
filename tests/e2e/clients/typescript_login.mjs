// The official TypeScript SDK 2.x logs in by itself: node typescript_login.mjs CONFIG
// CONFIG is JSON: `url` of the MCP server, `how` (browser, secret, key, bound), `issuer`, `client`, `secret`, `key`, and `browser`, a
// command that logs somebody in at the page that it gets as its last argument. Prints what the tool said, who the client was, and
// every credential that went over the wire.
import { execFile } from "node:child_process";
import { createServer } from "node:http";
import { promisify } from "node:util";
import {
  Client, ClientCredentialsProvider, DpopSession, PrivateKeyJwtProvider, StreamableHTTPClientTransport, UnauthorizedError,
} from "@modelcontextprotocol/client";

const config = JSON.parse(process.argv[2]);
const credentials = [];

// What is sent and what comes back, seen on the wire.
async function watched(input, init) {
  const headers = new Headers(init?.headers);
  credentials.push(headers.get("authorization")?.split(" ").at(-1), headers.get("dpop"));
  if (init?.body instanceof URLSearchParams) {
    for (const name of ["client_secret", "refresh_token", "code", "code_verifier", "client_assertion"]) credentials.push(init.body.get(name));
  }
  const response = await fetch(input, init);
  if (String(input).startsWith(config.issuer) && response.headers.get("content-type")?.includes("json")) {
    const got = await response.clone().json();
    credentials.push(got.access_token, got.refresh_token, got.id_token, got.registration_access_token);
  }
  return response;
}

class BrowserLogin {
  #known = {};
  #answers = [];
  #server = createServer((request, response) => {
    this.answer = new URL(request.url, this.redirectUrl);
    response.end("You can close this page.");
  });
  async listen() {
    await new Promise((listening) => this.#server.listen(0, "127.0.0.1", listening));
    this.redirectUrl = `http://127.0.0.1:${this.#server.address().port}/callback`;
    return this;
  }
  close() { this.#server.close(); }
  get clientMetadata() {
    return { client_name: "Legation tests", redirect_uris: [this.redirectUrl], token_endpoint_auth_method: "none", application_type: "native" };
  }
  clientInformation() { return this.#known.client; }
  saveClientInformation(client) { this.#known.client = client; }
  tokens() { return this.#known.tokens; }
  saveTokens(tokens) { this.#known.tokens = tokens; }
  saveCodeVerifier(verifier) { this.#known.verifier = verifier; }
  codeVerifier() { return this.#known.verifier; }
  discoveryState() { return this.#known.discovery; }
  saveDiscoveryState(state) { this.#known.discovery = state; }
  async redirectToAuthorization(url) {
    const [program, ...args] = config.browser;
    await promisify(execFile)(program, [...args, url.href]);
  }
}

class BoundClient extends ClientCredentialsProvider {
  #session = DpopSession.create();
  dpop() { return this.#session; }
}

const alone = { clientId: config.client, expectedIssuer: config.issuer };
const provider = await {
  browser: () => new BrowserLogin().listen(),
  secret: () => new ClientCredentialsProvider({ ...alone, clientSecret: config.secret }),
  key: () => new PrivateKeyJwtProvider({ ...alone, privateKey: config.key, algorithm: "ES256" }),
  bound: () => new BoundClient({ ...alone, clientSecret: config.secret }),
}[config.how]();

const transport = () => new StreamableHTTPClientTransport(new URL(config.url), { authProvider: provider, fetch: watched });
const client = () => new Client({ name: "legation-tests", version: "1" });
let connected = client();
const first = transport();
try {
  await connected.connect(first);
} catch (error) {
  if (!(error instanceof UnauthorizedError)) throw error;
  await first.finishAuth(provider.answer.searchParams);
  connected = client();
  await connected.connect(transport());
}
const result = await connected.callTool({ name: "search_contacts", arguments: { text: "nordvik" } });
await connected.close();
provider.close?.();
console.log(JSON.stringify({
  text: result.content[0].text,
  client: (await provider.clientInformation()).client_id,
  kind: (await provider.tokens()).token_type,
  credentials: credentials.filter(Boolean),
}));
