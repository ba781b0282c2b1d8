// A legacy server with sessions on the TypeScript SDK 1.x: `node typescript_legacy_server.mjs PORT`. Its questions come on the GET stream
// (`ask`, `model`, `roots`), as those of most servers of this SDK do, or on that of the call (`ask_within`).
import { randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { McpServer } from "@modelcontextprotocol/sdk/server/mcp.js";
import { StreamableHTTPServerTransport } from "@modelcontextprotocol/sdk/server/streamableHttp.js";
import { ElicitResultSchema, isInitializeRequest } from "@modelcontextprotocol/sdk/types.js";

const requestedSchema = { type: "object", properties: { name: { type: "string" } }, required: ["name"] };
const said = (text) => ({ content: [{ type: "text", text }] });
let cancelled = 0;

function makeServer() {
  const mcp = new McpServer({ name: "typescript", version: "1" }, { capabilities: { logging: {} } });
  const form = { message: "Who are you?", requestedSchema };
  mcp.registerTool("say", {}, async () => said("hello"));
  mcp.registerTool("ask", {}, async () => said(JSON.stringify(await mcp.server.elicitInput(form))));
  mcp.registerTool("ask_within", {}, async (extra) =>
    said(JSON.stringify(await extra.sendRequest({ method: "elicitation/create", params: form }, ElicitResultSchema))));
  mcp.registerTool("model", {}, async () => {
    const messages = [{ role: "user", content: { type: "text", text: "Say it" } }];
    return said((await mcp.server.createMessage({ messages, maxTokens: 9 })).content.text);
  });
  mcp.registerTool("roots", {}, async () => said((await mcp.server.listRoots()).roots[0].uri));
  mcp.registerTool("steps", {}, async (extra) => {
    const progressToken = extra._meta?.progressToken;
    for (const progress of [1, 2, 3]) {
      await extra.sendNotification({ method: "notifications/progress", params: { progressToken, progress, total: 3 } });
    }
    return said("stepped");
  });
  mcp.registerTool("wait", {}, async (extra) => {
    await extra.sendNotification({ method: "notifications/progress", params: { progressToken: extra._meta?.progressToken, progress: 1 } });
    await new Promise((resolve) => extra.signal.addEventListener("abort", resolve));
    cancelled += 1;
    return said("never");
  });
  mcp.registerTool("cancelled", {}, async () => said(String(cancelled)));
  return mcp;
}

const transports = new Map();

async function handle(request, response) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = chunks.length ? JSON.parse(Buffer.concat(chunks).toString()) : undefined;
  const id = request.headers["mcp-session-id"];
  let transport = transports.get(id);
  if (!transport && !id && isInitializeRequest(body)) {
    transport = new StreamableHTTPServerTransport({
      sessionIdGenerator: () => randomUUID(),
      onsessioninitialized: (made) => transports.set(made, transport),
    });
    transport.onclose = () => transports.delete(transport.sessionId);
    await makeServer().connect(transport);
  }
  if (!transport) {
    const error = { code: -32000, message: "Bad Request: No valid session ID provided" };
    response.writeHead(400, { "content-type": "application/json" }).end(JSON.stringify({ jsonrpc: "2.0", error, id: null }));
    return;
  }
  await transport.handleRequest(request, response, body);
}

createServer(handle).listen(Number(process.argv[2]), "127.0.0.1");
