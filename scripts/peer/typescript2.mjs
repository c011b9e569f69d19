// The TypeScript SDK 2.x as a peer of scripts/peers; ERA is legacy or modern.
//
//   node typescript2.mjs client ERA URL | client ERA COMMAND ARG… | server stdio | server http PORT
//
// The server speaks 2026-07-28 only; with PEER_ERA=dual, both eras, as the SDK does by default. The packages are found through NODE_PATH, which import does not look at.
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { Readable } from "node:stream";
import * as scene from "./scene.mjs";

const require = createRequire(import.meta.url);
const { Client, StreamableHTTPClientTransport } = require("@modelcontextprotocol/client");
const { StdioClientTransport } = require("@modelcontextprotocol/client/stdio");
const { Server, createMcpHandler, inputRequired } = require("@modelcontextprotocol/server");
const { serveStdio } = require("@modelcontextprotocol/server/stdio");

const MODERN = "2026-07-28";
const DUAL = process.env.PEER_ERA === "dual";

function server(touched) {
  const server = new Server(scene.CLIENT, { capabilities: scene.SERVER_CAPABILITIES });
  server.setRequestHandler("tools/list", () => ({ tools: scene.TOOLS }));
  server.setRequestHandler("resources/list", () => ({ resources: [scene.RESOURCE] }));
  server.setRequestHandler("resources/subscribe", () => ({}));
  server.setRequestHandler("resources/unsubscribe", () => ({}));
  server.setRequestHandler("tools/call", ({ params }, { mcpReq }) => {
    if (params.name in scene.QUESTIONS) {
      const answer = mcpReq.inputResponses?.q;
      if (answer) return scene.answered(params.name, answer);
      return inputRequired({ inputRequests: { q: scene.QUESTIONS[params.name] } });
    }
    return scene.run(params.name, params.arguments, {
      signal: mcpReq.signal,
      progress: (progress) =>
        mcpReq.notify({
          method: "notifications/progress",
          params: { progressToken: mcpReq._meta?.progressToken, ...progress },
        }),
      log: (level, data, logger) => mcpReq.log(level, data, logger),
      touch: async () => (touched ? touched() : server.sendResourceUpdated({ uri: scene.HELLO })),
    });
  });
  return server;
}

function serveHttp(port) {
  const handler = createMcpHandler(() => server(() => handler.notify.resourceUpdated(scene.HELLO)), {
    legacy: DUAL ? "stateless" : "reject",
  });
  createServer(async (request, response) => {
    const left = new AbortController();
    response.on("close", () => left.abort());
    const body = request.method === "POST" ? { body: Readable.toWeb(request), duplex: "half" } : {};
    const url = `http://127.0.0.1:${port}${request.url}`;
    const headers = Object.entries(request.headers).filter(([name]) => name !== "connection");
    const asked = new Request(url, { method: request.method, headers, signal: left.signal, ...body });
    const answer = await handler.fetch(asked);
    response.writeHead(answer.status, Object.fromEntries(answer.headers));
    if (!answer.body) return response.end();
    Readable.fromWeb(answer.body).on("error", () => response.destroy()).pipe(response);
  }).listen(port, "127.0.0.1");
}

async function user(era, where, args) {
  const mode = era === "modern" ? { pin: MODERN } : "legacy";
  const client = new Client(scene.CLIENT, { capabilities: scene.CAPABILITIES, versionNegotiation: { mode } });
  const [updates, logs] = [new scene.Ears(), new scene.Ears()];
  for (const method of ["elicitation/create", "sampling/createMessage"])
    client.setRequestHandler(method, () => scene.ANSWERS[method]);
  client.setNotificationHandler("notifications/resources/updated", ({ params }) => updates.hear(params.uri));
  client.setNotificationHandler("notifications/message", ({ params }) => logs.hear([params.level, params.data.a]));
  const transport = where.startsWith("http")
    ? new StreamableHTTPClientTransport(new URL(where))
    : new StdioClientTransport({ command: where, args });
  await client.connect(transport);
  const call = (name, args, options, _meta) => client.callTool({ name, arguments: args, _meta }, options);
  return {
    call,
    updates,
    logs,
    list: (cursor) => client.listTools({ cursor }),
    subscribe: async (uri) => {
      if (era === "modern") {
        const subscription = await client.listen({ resourceSubscriptions: [uri] });
        return () => subscription.close();
      }
      await client.subscribeResource({ uri });
      return () => client.unsubscribeResource({ uri });
    },
    logged: async (name, args) => {
      if (era === "modern") return call(name, args, {}, { "io.modelcontextprotocol/logLevel": "debug" });
      await client.setLoggingLevel("debug");
      return call(name, args);
    },
    version: () => client.getNegotiatedProtocolVersion(),
    leave: async () => {
      if (era === "legacy") await transport.terminateSession?.();
      await client.close();
    },
  };
}

const [role, how, where, ...rest] = process.argv.slice(2);
if (role === "client") await scene.play(await user(how, where, rest));
else if (how === "stdio") serveStdio(() => server(), { legacy: DUAL ? "serve" : "reject" });
else serveHttp(Number(where));
