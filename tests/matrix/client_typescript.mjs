// The official TypeScript SDK 2.x as a client: node client_typescript.mjs; README.md says what it reads and prints, visit.py what the steps are.
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";

const PATIENCE_MS = 60_000;
const ROUND_MS = 3_000;
const LOG_LEVEL = { _meta: { "io.modelcontextprotocol/logLevel": "info" } };

const plan = JSON.parse(await text(process.stdin));
const { tools: TOOLS, colors, root } = plan.agreed;

for (const place of plan.visits) {
  const report = { place: place.place };
  try {
    Object.assign(report, await visited(place));
  } catch (error) {
    report.error = told(error);
  }
  console.log(JSON.stringify(report));
}

async function visited({ place, url, access_token: accessToken, servers }) {
  const changes = new Map();
  const logged = [];
  const changed = (what) => changes.set(what, (changes.get(what) ?? 0) + 1);
  const client = new Client(
    { name: "legation-tests", version: "1" },
    {
      capabilities: { elicitation: {}, sampling: {}, roots: {} },
      versionNegotiation: { mode: plan.mode === "legacy" ? "legacy" : { pin: plan.mode } },
    },
  );
  client.setRequestHandler("elicitation/create", ({ params }) => ({ action: "accept", content: { color: colors[params.message] } }));
  client.setRequestHandler("sampling/createMessage", () => ({
    role: "assistant", content: { type: "text", text: "a lot" }, model: "matrix", stopReason: "endTurn",
  }));
  client.setRequestHandler("roots/list", () => ({ roots: [{ uri: root }] }));
  client.setNotificationHandler("notifications/resources/updated", ({ params }) => changed(params.uri));
  client.setNotificationHandler("notifications/tools/list_changed", () => changed("tools"));
  client.setNotificationHandler("notifications/message", ({ params }) => logged.push(params.data));
  const transport = new StreamableHTTPClientTransport(new URL(url), {
    requestInit: { headers: { authorization: `Bearer ${accessToken}` } },
  });
  await client.connect(transport);
  const modern = plan.mode !== "legacy";
  if (!modern) await client.setLoggingLevel("info");

  const found = {};
  async function look() {
    const listed = async (read, field, value) => {
      const names = {};
      let cursor;
      do {
        const page = await read({ cursor }, { cacheMode: "refresh" });
        for (const item of page[field]) names[item.description] = item[value];
        cursor = page.nextCursor;
      } while (cursor);
      return names;
    };
    found.tools = await listed((...args) => client.listTools(...args), "tools", "name");
    found.prompts = await listed((...args) => client.listPrompts(...args), "prompts", "name");
    found.resources = await listed((...args) => client.listResources(...args), "resources", "uri");
    found.templates = await listed((...args) => client.listResourceTemplates(...args), "resourceTemplates", "uriTemplate");
  }
  const call = (name, args = {}, options = {}) => client.callTool({ name, arguments: args, ...LOG_LEVEL }, { timeout: PATIENCE_MS, ...options });
  const read = async (uri) => (await client.readResource({ uri }, { cacheMode: "bypass" })).contents[0].text;

  await look();
  const notes = servers.map((server) => found.resources[`A note of ${plan.label} [${server}]`]);
  if (modern) await client.listen({ toolsListChanged: true, resourceSubscriptions: notes });
  else for (const uri of notes) await client.subscribeResource({ uri });

  async function announced(what, change) {
    const before = changes.get(what) ?? 0;
    for (let attempt = 0; attempt < PATIENCE_MS / ROUND_MS; attempt += 1) {
      await change(attempt);
      if (await until(() => (changes.get(what) ?? 0) > before, ROUND_MS)) return;
    }
    throw new Error(`no change of ${what} was announced`);
  }

  const done = {};
  for (const server of servers) {
    const named = (kind, text) => found[kind][`${text} [${server}]`];
    const called = (tool, args, options) => call(named("tools", TOOLS[tool]), args, options);
    const textOf = async (tool, args) => (named("tools", TOOLS[tool]) ? (await called(tool, args)).content[0].text : null);
    const label = `${plan.label} at ${place}`;
    const steps = {
      tools: () => Object.keys(TOOLS).filter((tool) => named("tools", TOOLS[tool])),
      note: async () => {
        const uri = named("resources", `A note of ${plan.label}`);
        await announced(uri, (attempt) => called("write_note", { label: plan.label, text: `written at ${place} (${attempt})` }));
        return (await read(uri)).split(" (")[0];
      },
      echo: () => textOf("echo", { text: "hello" }),
      sum: async () => (await called("add", { a: 2, b: 3 })).structuredContent ?? null,
      failure: async () => {
        const failed = await called("fail");
        return [Boolean(failed.isError), failed.content[0].text.includes(`${server} fails`)];
      },
      progress: async () => {
        const progress = [];
        await called("count", {}, { onprogress: (step) => progress.push(step.progress) });
        await until(() => progress.length === 3, ROUND_MS);
        return progress;
      },
      logged: async () => {
        const line = `${label} and ${server}`;
        await called("log", { text: line });
        return until(() => logged.includes(line), ROUND_MS);
      },
      model: () => textOf("ask_model", { prompt: "how much" }),
      roots: () => textOf("ask_roots"),
      user: () => textOf("ask_user", { question: "which color" }),
      twice: () => textOf("ask_twice"),
      prompt: async () => {
        const prompt = { name: named("prompts", "Writes a letter"), arguments: { tone: "formal", name: "Ann" } };
        return (await client.getPrompt(prompt)).messages[0].content.text;
      },
      interview: async () => {
        const name = named("prompts", "Asks the user for a color before it writes");
        return name ? (await client.getPrompt({ name, arguments: {} })).messages[0].content.text : null;
      },
      text: () => read(named("resources", "A text that never changes")),
      book: () => read(named("templates", "A book").replace("{title}", "Faust")),
      tones: () => completed({ type: "ref/prompt", name: named("prompts", "Writes a letter") }, { name: "tone", value: "f" }),
      books: () => completed({ type: "ref/resource", uri: named("templates", "A book") }, { name: "title", value: "F" }),
      cancelled: async () => {
        if (server === "2025-03-26") return null;
        const giveUp = new AbortController();
        const options = { signal: giveUp.signal, onprogress: () => giveUp.abort("no longer wanted") };
        await called("wait", { label }, options).catch(() => {});
        return (await called("was_cancelled", { label })).content[0].text;
      },
      grown: async () => {
        const names = [];
        await announced("tools", (attempt) => {
          names.push(`grown_${plan.label}_${place}_${server}_${attempt}`);
          return called("grow", { name: names.at(-1) });
        });
        for (const end = Date.now() + PATIENCE_MS; Date.now() < end; await pause(200)) {
          await look();
          const name = names.find((each) => named("tools", `Was added: ${each}`));
          if (name) return (await call(named("tools", `Was added: ${name}`))).content[0].text.replace(name, "it");
        }
        throw new Error(`none of ${names} is listed after the change was announced`);
      },
    };
    const completed = async (ref, argument) => (await client.complete({ ref, argument })).completion.values;
    done[server] = {};
    for (const [name, step] of Object.entries(steps)) {
      try {
        done[server][name] = await step();
      } catch (error) {
        done[server][name] = { error: told(error) };
      }
    }
  }
  const version = client.getNegotiatedProtocolVersion?.() ?? transport.protocolVersion;
  if (!modern) await transport.terminateSession();
  await client.close();
  return { version, servers: done };
}

async function until(holds, milliseconds) {
  for (const end = Date.now() + milliseconds; !holds() && Date.now() < end; await pause(20));
  return holds();
}

function pause(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

function told(error) {
  return `${error?.name}: ${error?.message} ${JSON.stringify(error?.data ?? null)}`;
}

async function text(stream) {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return Buffer.concat(parts).toString();
}
