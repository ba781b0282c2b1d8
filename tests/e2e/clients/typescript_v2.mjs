// The official TypeScript SDK 2.x: node typescript_v2.mjs URL ACCESS_TOKEN
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { visit } from "./typescript_visit.mjs";

const [url, accessToken] = process.argv.slice(2);
const client = new Client({ name: "legation-tests", version: "1" });
const requestInit = { headers: { authorization: `Bearer ${accessToken}` } };
await visit(client, new StreamableHTTPClientTransport(new URL(url), { requestInit }));
