// The TypeScript SDK 1.x as a peer of scripts/peers.
//
//   node typescript1.mjs client URL | client COMMAND ARG… | server stdio | server http PORT
//
// A client's URL that ends in /sse is one of HTTP+SSE.
//
// The packages are found through NODE_PATH, which import does not look at.
import { randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import * as scene from "./scene.mjs";

const require = createRequire(import.meta.url);
const { Client } = require("@modelcontextprotocol/sdk/client/index.js");
const { SSEClientTransport } = require("@modelcontextprotocol/sdk/client/sse.js");
const { StdioClientTransport } = require("@modelcontextprotocol/sdk/client/stdio.js");
const { StreamableHTTPClientTransport } = require("@modelcontextprotocol/sdk/client/streamableHttp.js");
const { Server } = require("@modelcontextprotocol/sdk/server/index.js");
const { StdioServerTransport } = require("@modelcontextprotocol/sdk/server/stdio.js");
const { StreamableHTTPServerTransport } = require("@modelcontextprotocol/sdk/server/streamableHttp.js");
const types = require("@modelcontextprotocol/sdk/types.js");

function server() {
  const server = new Server(scene.CLIENT, { capabilities: scene.SERVER_CAPABILITIES });
  let watching = false;
  const results = { ask: types.ElicitResultSchema, sample: types.CreateMessageResultSchema };
  server.setRequestHandler(types.ListToolsRequestSchema, () => ({ tools: scene.TOOLS }));
  server.setRequestHandler(types.ListResourcesRequestSchema, () => ({ resources: [scene.RESOURCE] }));
  server.setRequestHandler(types.SubscribeRequestSchema, ({ params }) => {
    watching = true;
    scene.watch(async () => {
      if (!watching) throw new Error("unsubscribed");
      await server.sendResourceUpdated({ uri: params.uri });
    });
    return {};
  });
  server.setRequestHandler(types.UnsubscribeRequestSchema, () => ((watching = false), {}));
  server.setRequestHandler(types.CallToolRequestSchema, async ({ params }, extra) => {
    if (params.name in results)
      return scene.answered(params.name, await extra.sendRequest(scene.QUESTIONS[params.name], results[params.name]));
    const notify = (method, params) => extra.sendNotification({ method, params });
    return scene.run(params.name, params.arguments, {
      signal: extra.signal,
      progress: (progress) =>
        notify("notifications/progress", { progressToken: extra._meta?.progressToken, ...progress }),
      log: (level, data, logger) => notify("notifications/message", { level, data, logger }),
    });
  });
  return server;
}

function serveHttp(port) {
  const sessions = new Map();
  createServer(async (request, response) => {
    let transport = sessions.get(request.headers["mcp-session-id"]);
    if (!transport) {
      const onsessioninitialized = (id) => sessions.set(id, transport);
      transport = new StreamableHTTPServerTransport({ sessionIdGenerator: randomUUID, onsessioninitialized });
      await server().connect(transport);
    }
    await transport.handleRequest(request, response);
  }).listen(port, "127.0.0.1");
}

function reach(where, args) {
  if (!where.startsWith("http")) return new StdioClientTransport({ command: where, args });
  return new (where.endsWith("/sse") ? SSEClientTransport : StreamableHTTPClientTransport)(new URL(where));
}

async function user(where, args) {
  const client = new Client(scene.CLIENT, { capabilities: scene.CAPABILITIES });
  const [updates, logs] = [new scene.Ears(), new scene.Ears()];
  for (const schema of [types.ElicitRequestSchema, types.CreateMessageRequestSchema])
    client.setRequestHandler(schema, ({ method }) => scene.ANSWERS[method]);
  client.setNotificationHandler(types.ResourceUpdatedNotificationSchema, ({ params }) => updates.hear(params.uri));
  client.setNotificationHandler(types.LoggingMessageNotificationSchema, ({ params }) =>
    logs.hear([params.level, params.data.a]),
  );
  const transport = reach(where, args);
  let version;
  const negotiated = transport.setProtocolVersion?.bind(transport);
  transport.setProtocolVersion = (spoken) => negotiated?.((version = spoken)) ?? (version = spoken);
  await client.connect(transport);
  const call = (name, args, options) => client.callTool({ name, arguments: args }, undefined, options);
  return {
    call,
    updates,
    logs,
    list: (cursor) => client.listTools({ cursor }),
    subscribe: async (uri) => {
      await client.subscribeResource({ uri });
      return () => client.unsubscribeResource({ uri });
    },
    logged: async (name, args) => {
      await client.setLoggingLevel("debug");
      return call(name, args);
    },
    version: () => version,
    leave: async () => {
      await transport.terminateSession?.();
      await client.close();
    },
  };
}

const [role, where, ...rest] = process.argv.slice(2);
if (role === "client") await scene.play(await user(where, rest));
else if (where === "stdio") await server().connect(new StdioServerTransport());
else serveHttp(Number(rest[0]));
