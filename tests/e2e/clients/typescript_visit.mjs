// What both TypeScript programs do; the table stands in README.md.
export async function visit(client, transport) {
  const told = {};
  const progress = [];
  await client.connect(transport);
  told.version = transport.protocolVersion;
  told.tools = (await client.listTools()).tools.map((tool) => tool.name);
  const text = async () => (await client.callTool({ name: "test_simple_text", arguments: {} })).content[0].text;
  told.text = await text();
  const request = { name: "test_tool_with_progress", arguments: {} };
  const onprogress = (step) => progress.push(step.progress);
  // 1.x takes a result schema before the options, 2.x takes the options there.
  await (process.argv[1].includes("v1")
    ? client.callTool(request, undefined, { onprogress })
    : client.callTool(request, { onprogress }));
  told.progress = progress;
  told.resource = (await client.readResource({ uri: "test://static-text" })).contents[0].text;
  told.prompt = (await client.getPrompt({ name: "test_simple_prompt" })).messages[0].content.text;
  try {
    await client.callTool({ name: "test_error_handling", arguments: {} });
  } catch (error) {
    told.denied = { code: error.code, message: error.message, data: error.data };
  }
  told.again = await text();
  await transport.terminateSession?.();
  await client.close();
  console.log(JSON.stringify(told));
}
