// What a user of the TypeScript SDK would write: connect, list, call, read, get; a JSON report on stdout.
//
//   node typescript.mjs URL TASK     TASK: the names to use, as try-clients writes them
//
// The packages are found through NODE_PATH, which import does not look at.
import { createRequire } from "node:module";

const require = createRequire(import.meta.url);
const { Client } = require("@modelcontextprotocol/sdk/client/index.js");
const { StreamableHTTPClientTransport } = require("@modelcontextprotocol/sdk/client/streamableHttp.js");

const [url, task] = [process.argv[2], JSON.parse(process.argv[3])];
const client = new Client({ name: "try-clients", version: "1.0.0" });
const transport = new StreamableHTTPClientTransport(new URL(url));
await client.connect(transport);

const { tools } = await client.listTools();

const progress = [];
const called = await client.callTool({ name: task.tool, arguments: task.arguments }, undefined, {
  onprogress: ({ progress: done, total }) => progress.push([done, total]),
});

const read = await client.readResource({ uri: task.resource });
const got = await client.getPrompt({ name: task.prompt, arguments: task.promptArguments });

const report = {
  version: transport.protocolVersion,
  server: client.getServerVersion().name,
  tools: Object.fromEntries(tools.map((tool) => [tool.name, tool.inputSchema])),
  progress,
  called: called.content[0].text,
  read: [read.contents[0].mimeType, read.contents[0].text],
  got: got.messages.map((message) => [message.role, message.content.text]),
};
await transport.terminateSession();
await client.close();
console.log(JSON.stringify(report));
