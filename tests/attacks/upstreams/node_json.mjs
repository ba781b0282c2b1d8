// A recording upstream that reads bodies as most JavaScript servers do: TextDecoder (replaces what is not UTF-8, drops a byte
// order mark), JSON.parse (the last of equal keys wins). `node node_json.mjs PORT DEFINITIONS`
import { readFileSync } from "node:fs";
import { createServer } from "node:http";

const [port, file] = process.argv.slice(2);
const definitions = JSON.parse(readFileSync(file, "utf8"));

function answer(message) {
  const params = message.params ?? {};
  const ran = { flavour: "node", method: message.method, name: params.name ?? params.uri ?? null, arguments: params.arguments ?? null };
  const result = definitions[message.method] ?? {
    resultType: "complete",
    content: [{ type: "text", text: JSON.stringify(ran) }],
  };
  return { jsonrpc: "2.0", id: message.id ?? null, result };
}

createServer((request, response) => {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    let status = 200;
    let text = "";
    try {
      const message = JSON.parse(new TextDecoder().decode(Buffer.concat(chunks)));
      if (message.id === undefined) status = 202;
      else text = JSON.stringify(answer(message));
    } catch {
      status = 400;
    }
    response.writeHead(status, { "content-type": "application/json", "content-length": Buffer.byteLength(text) });
    response.end(text);
  });
}).listen(Number(port), "127.0.0.1");
