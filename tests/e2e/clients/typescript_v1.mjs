// The official TypeScript SDK 1.x: node typescript_v1.mjs URL ACCESS_TOKEN
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { visit } from "./typescript_visit.mjs";

const [url, accessToken] = process.argv.slice(2);
const client = new Client({ name: "legation-tests", version: "1" });
const requestInit = { headers: { authorization: `Bearer ${accessToken}` } };
await visit(client, new StreamableHTTPClientTransport(new URL(url), { requestInit }));
