// What the two TypeScript peers have in common: the tools that every server of scripts/peers offers, and the scene
// that every client plays. What differs between the SDKs is handed in.
import { appendFileSync, statSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

export const HELLO = "test://hello";
export const CLIENT = { name: "peer", version: "1.0.0" };
export const CAPABILITIES = { sampling: {}, elicitation: {} };
const PATIENCE_MS = 10_000;
// This SDK forgets progress that it reads in one piece with the answer.
const PAUSE_MS = 50;
const AGAIN_MS = 300;

// ---- the server ----

export const SERVER_CAPABILITIES = { tools: {}, resources: { subscribe: true }, logging: {} };
const NAMES = ["echo", "progress", "wait", "ask", "sample", "log", "touch"];
export const TOOLS = NAMES.map((name) => ({ name, description: name, inputSchema: { type: "object" } }));
export const RESOURCE = { uri: HELLO, name: "hello", mimeType: "text/plain" };

export const QUESTIONS = {
  ask: {
    method: "elicitation/create",
    params: {
      mode: "form",
      message: "Who is it?",
      requestedSchema: { type: "object", properties: { name: { type: "string" } }, required: ["name"] },
    },
  },
  sample: {
    method: "sampling/createMessage",
    params: { messages: [{ role: "user", content: { type: "text", text: "?" } }], maxTokens: 10 },
  },
};

export const said = (text) => ({ content: [{ type: "text", text }] });
export const answered = (tool, answer) =>
  said(tool === "ask" ? `${answer.action} ${answer.content?.name}` : answer.content.text);

// Runs a tool that asks nothing; `peer` is how its SDK lets it talk.
export async function run(tool, args, peer) {
  switch (tool) {
    case "echo":
      return said(args.text);
    case "progress":
      for (let step = 1; step <= args.steps; step++) {
        await peer.progress({ progress: step, total: args.steps, message: args.text });
        await sleep(args.pause_ms);
      }
      return said(`${args.steps} steps`);
    case "wait": {
      const cancelled = new Promise((resolve) => peer.signal.addEventListener("abort", resolve));
      await peer.progress({ progress: 1 });
      await cancelled;
      appendFileSync(process.env.CANCELLED_FILE, "cancelled\n");
      return said("cancelled");
    }
    case "log":
      await peer.log("warning", { a: args.text }, "peer");
      return said("logged");
    case "touch":
      appendFileSync(process.env.CHANGES_FILE, "changed\n");
      await peer.touch?.();
      return said("touched");
    default:
      throw new Error(`no such tool: ${tool}`);
  }
}

// Tells of changes for as long as it can. They are made outside, in a file: whoever calls `touch` need not be on the
// connection, or in the process, that somebody listens to.
export async function watch(tell) {
  let known = statSync(process.env.CHANGES_FILE).size;
  try {
    for (;;) {
      await sleep(PAUSE_MS);
      const size = statSync(process.env.CHANGES_FILE).size;
      if (size !== known) await tell();
      known = size;
    }
  } catch {
    // Nobody listens any more.
  }
}

// ---- the client ----

export const ANSWERS = {
  "elicitation/create": { action: "accept", content: { name: "Alice" } },
  "sampling/createMessage": { role: "assistant", model: "m", content: { type: "text", text: "sampled" } },
};

// Whoever waits for something to be heard, and what was.
export class Ears {
  heard = [];
  waiting = [];
  hear(what) {
    this.heard.push(what);
    for (const wake of this.waiting.splice(0)) wake();
  }
  async atLeast(count) {
    while (this.heard.length < count) await new Promise((resolve) => this.waiting.push(resolve));
    return this.heard;
  }
}

// Plays the scene; `user` is how its SDK lets a client do things. Prints what came of each step.
export async function play(user) {
  const results = {};
  const text = (result) => result.content[0].text;
  const step = async (name, body) => {
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error("nothing came of it in time")), PATIENCE_MS);
    });
    try {
      results[name] = { seen: await Promise.race([body(), late]) };
    } catch (error) {
      results[name] = { error: String(error?.message ?? error) };
    }
    clearTimeout(timer);
  };

  await step("list", async () => {
    const names = [];
    let cursor;
    do {
      const page = await user.list(cursor);
      names.push(...page.tools.map((tool) => tool.name));
      cursor = page.nextCursor;
    } while (cursor);
    return names;
  });
  await step("call", async () => text(await user.call("echo", { text: "h\u00e9llo \u{1f600}" })));
  await step("progress", async () => {
    const steps = [];
    const onprogress = ({ progress, total, message }) => steps.push([progress, total, message]);
    const result = await user.call("progress", { steps: 3, text: "step", pause_ms: PAUSE_MS }, { onprogress });
    return [steps, text(result)];
  });
  await step("cancel", async () => {
    const stop = new AbortController();
    const begun = new Ears();
    const call = user.call("wait", {}, { signal: stop.signal, onprogress: () => begun.hear(1) });
    const ended = call.then(() => "an answer", () => "cancelled");
    await Promise.race([begun.atLeast(1), call]);
    stop.abort("enough");
    return await ended;
  });
  await step("ask", async () => text(await user.call("ask", { message: "Who is it?" })));
  await step("sample", async () => text(await user.call("sample", {})));
  await step("update", async () => {
    const stop = await user.subscribe(HELLO);
    // A server may acknowledge a subscription before it looks.
    while (user.updates.heard.length === 0) {
      await user.call("touch", {});
      await Promise.race([user.updates.atLeast(1), sleep(AGAIN_MS)]);
    }
    await stop();
    return [...new Set(user.updates.heard)];
  });
  await step("log", async () => {
    await user.logged("log", { text: "x" });
    return [...(await user.logs.atLeast(1))];
  });
  const version = user.version();
  await user.leave();
  console.log(JSON.stringify({ version, results }));
  process.exit(0);
}
