// What the TypeScript SDK executes: one request per line on stdin, what its handlers were given per line on stdout.
// `node typescript_sdk.mjs v1|v2`; the lines are those of python_sdk.py. The real web-standard transport reads the request.
import { createInterface } from "node:readline";

let executed = [];
const saw = (request) => {
  executed.push({ method: request.method, params: request.params ?? {} });
};
const capabilities = { tools: {}, prompts: {}, resources: { subscribe: true }, completions: {}, logging: {} };
const info = { name: "fuzz", version: "1" };
const results = {
  "tools/call": { content: [] },
  "prompts/get": { messages: [] },
  "resources/read": { contents: [] },
  "tools/list": { tools: [] },
  "prompts/list": { prompts: [] },
  "resources/list": { resources: [] },
  "resources/templates/list": { resourceTemplates: [] },
  "completion/complete": { completion: { values: [] } },
  "resources/subscribe": {},
  "resources/unsubscribe": {},
  "logging/setLevel": {},
  ping: {},
};

async function first() {
  const { Server } = await import("@modelcontextprotocol/sdk/server/index.js");
  const { WebStandardStreamableHTTPServerTransport } = await import("@modelcontextprotocol/sdk/server/webStandardStreamableHttp.js");
  const types = await import("@modelcontextprotocol/sdk/types.js");
  const schemas = [
    types.CallToolRequestSchema, types.GetPromptRequestSchema, types.ReadResourceRequestSchema, types.ListToolsRequestSchema,
    types.ListPromptsRequestSchema, types.ListResourcesRequestSchema, types.ListResourceTemplatesRequestSchema,
    types.CompleteRequestSchema, types.SubscribeRequestSchema, types.UnsubscribeRequestSchema, types.SetLevelRequestSchema,
    types.PingRequestSchema,
  ];
  return async (request) => {
    const server = new Server(info, { capabilities });
    for (const schema of schemas) {
      server.setRequestHandler(schema, (given) => {
        saw(given);
        return results[given.method];
      });
    }
    server.fallbackNotificationHandler = async (given) => saw(given);
    const transport = new WebStandardStreamableHTTPServerTransport({ sessionIdGenerator: undefined, enableJsonResponse: true });
    await server.connect(transport);
    try {
      return await transport.handleRequest(request);
    } finally {
      setImmediate(() => server.close());
    }
  };
}

async function second() {
  const { Server, createMcpHandler } = await import("@modelcontextprotocol/server");
  const handler = createMcpHandler(() => {
    const server = new Server(info, { capabilities });
    for (const method of Object.keys(results)) {
      server.setRequestHandler(method, (given) => {
        saw(given);
        return results[method];
      });
    }
    server.fallbackNotificationHandler = async (given) => saw(given);
    return server;
  });
  return (request) => handler.fetch(request);
}

const serve = process.argv[2] === "v2" ? await second() : await first();
console.error = () => {};
console.log(JSON.stringify({ ready: true }));
for await (const line of createInterface({ input: process.stdin })) {
  const sent = JSON.parse(line);
  executed = [];
  let status = 0;
  try {
    const body = Buffer.from(sent.body, "base64");
    const headers = new Headers();
    for (const [name, value] of sent.headers) headers.append(name, value);
    const bare = sent.method === "GET" || sent.method === "HEAD";
    const request = new Request("http://127.0.0.1/mcp", { method: sent.method, headers, body: bare ? undefined : body });
    const response = await Promise.race([serve(request), new Promise((resolve) => setTimeout(resolve, 2000))]);
    status = response?.status ?? 0;
    if (response?.headers.get("content-type")?.startsWith("text/event-stream")) await response.body?.cancel();
    else await response?.text();
    if (status === 202) await new Promise((resolve) => setImmediate(resolve));
  } catch {
    status = 0;
  }
  console.log(JSON.stringify({ executed, status }));
}
