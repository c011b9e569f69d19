//! What the demo server has: tools, resources, prompts.

use serde_json::{Value, json};

/// A text resource.
pub(crate) const HELLO: &str = "shadowcat://demo/hello.txt";
/// A binary resource.
pub(crate) const DOT: &str = "shadowcat://demo/dot.png";
/// The template of the resources that show a counter.
pub(crate) const COUNTER_TEMPLATE: &str = "shadowcat://demo/count/{key}";
/// What the URIs of counters start with.
pub(crate) const COUNTER_PREFIX: &str = "shadowcat://demo/count/";
/// A PNG image of one pixel.
pub(crate) const DOT_PNG: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg==";
/// The styles the `greet` prompt knows.
pub(crate) const STYLES: [&str; 4] = ["formal", "friendly", "funny", "terse"];

/// All tools, in the words of the newest revision.
pub(crate) fn tools() -> Vec<Value> {
    let text = |about: &str| json!({ "type": "string", "description": about });
    let number = |about: &str| json!({ "type": "integer", "minimum": 0, "description": about });
    let level = json!({ "type": "string", "enum": LEVELS, "description": "How severe." });
    let read_only = json!({ "readOnlyHint": true, "openWorldHint": false });
    let mut tools = vec![
        tool(
            "echo",
            "Answers with the text it was given.",
            json!({ "text": text("What to say.") }),
            &["text"],
            &read_only,
        ),
        tool(
            "payload",
            "Answers with so many bytes of text.",
            json!({ "bytes": number("How many.") }),
            &["bytes"],
            &read_only,
        ),
        tool(
            "progress",
            "Reports progress in steps, then answers.",
            json!({ "steps": number("How many steps; 3 if absent."), "delay_ms": number("Wait before each step.") }),
            &[],
            &read_only,
        ),
        tool(
            "log",
            "Writes a log message to the client.",
            json!({ "level": level, "text": text("The message.") }),
            &["level", "text"],
            &read_only,
        ),
        tool(
            "fail",
            "Fails in the way of tools: a result marked as an error.",
            json!({ "message": text("Why.") }),
            &[],
            &read_only,
        ),
        tool(
            "error",
            "Fails in the way of the protocol: a JSON-RPC error.",
            json!({ "code": { "type": "integer", "description": "The code; -32603 if absent." }, "message": text("Why.") }),
            &[],
            &read_only,
        ),
        tool(
            "sleep",
            "Answers after so long, unless it is cancelled.",
            json!({ "ms": number("How long.") }),
            &["ms"],
            &read_only,
        ),
        tool(
            "ask",
            "Asks the user, then answers with what the user said.",
            json!({
                "message": text("The question."),
                "rounds": number("How often, one after the other; once if absent."),
                "parallel": number("How many questions at a time; one if absent."),
                "params": json!({ "type": "object", "description": "The question, in place of a message." }),
            }),
            &["message"],
            &read_only,
        ),
        tool(
            "sample",
            "Has the client's model say something.",
            json!({ "prompt": text("What to ask it.") }),
            &["prompt"],
            &read_only,
        ),
        tool("roots", "Tells which roots the client has.", json!({}), &[], &read_only),
        tool(
            "count",
            "Adds one to a counter of this process and answers with it.",
            json!({ "key": text("Which counter.") }),
            &["key"],
            &json!({}),
        ),
        tool(
            "pid",
            "Tells what this process is: ids, arguments, names of variables, open files.",
            json!({}),
            &[],
            &read_only,
        ),
        tool("stats", "Tells what this server has seen so far.", json!({}), &[], &read_only),
        tool(
            "notify",
            "Sends any notification, as part of this call.",
            json!({ "method": text("Its method."), "params": { "type": "object", "description": "Its params." } }),
            &["method"],
            &read_only,
        ),
        tool(
            "touch",
            "Tells the subscribers of a resource that it changed.",
            json!({ "uri": text("Its URI.") }),
            &["uri"],
            &json!({}),
        ),
        tool(
            "change",
            "Tells clients that a list has changed.",
            json!({ "kind": { "type": "string", "enum": ["tools", "prompts", "resources"], "description": "Which list." } }),
            &["kind"],
            &json!({}),
        ),
        tool(
            "exit",
            "Ends the process.",
            json!({
                "code": { "type": "integer", "minimum": 0, "maximum": 255, "description": "The exit code; 0 if absent." },
                "when": { "type": "string", "enum": ["before", "after"], "description": "Before the answer (the default) or after it." },
            }),
            &[],
            &json!({ "destructiveHint": true }),
        ),
        tool("meta", "Answers with the params of this very call, as they arrived.", json!({}), &[], &read_only),
        tool(
            "region",
            "Answers with the region it was given, which HTTP clients also send as a header.",
            json!({ "region": { "type": "string", "description": "A region.", "x-mcp-header": "Region" } }),
            &["region"],
            &read_only,
        ),
    ];
    for tool in &mut tools {
        if tool["name"] == "count" {
            tool["outputSchema"] = json!({
                "type": "object",
                "properties": { "key": { "type": "string" }, "count": { "type": "integer" } },
                "required": ["key", "count"],
            });
        }
    }
    tools
}

fn tool(name: &str, about: &str, properties: Value, required: &[&str], annotations: &Value) -> Value {
    let mut schema = json!({ "type": "object", "properties": properties });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    let mut title = name.to_owned();
    title[..1].make_ascii_uppercase();
    let mut tool = json!({ "name": name, "title": title, "description": about, "inputSchema": schema });
    if annotations.as_object().is_some_and(|hints| !hints.is_empty()) {
        tool["annotations"] = annotations.clone();
    }
    tool
}

/// The log levels, least severe first.
pub(crate) const LEVELS: [&str; 8] = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

/// The rank of a log level.
pub(crate) fn level_rank(level: &str) -> Option<usize> {
    LEVELS.iter().position(|known| *known == level)
}

/// All resources.
pub(crate) fn resources() -> Vec<Value> {
    vec![
        json!({ "uri": HELLO, "name": "hello", "title": "Hello", "description": "A few friendly words.", "mimeType": "text/plain" }),
        json!({ "uri": DOT, "name": "dot", "title": "Dot", "description": "An image of one pixel.", "mimeType": "image/png" }),
    ]
}

/// All resource templates.
pub(crate) fn templates() -> Vec<Value> {
    vec![json!({
        "uriTemplate": COUNTER_TEMPLATE, "name": "count", "title": "Counter",
        "description": "What a counter of the `count` tool is at.", "mimeType": "application/json",
    })]
}

/// All prompts.
pub(crate) fn prompts() -> Vec<Value> {
    vec![
        json!({
            "name": "greet", "title": "Greet", "description": "Greet somebody.",
            "arguments": [
                { "name": "name", "description": "Whom to greet.", "required": true },
                { "name": "style", "description": "How: formal, friendly, funny or terse." },
            ],
        }),
        json!({ "name": "tour", "title": "Tour", "description": "Try the tools of this server, one by one." }),
    ]
}

/// Takes out of a list entry what a legacy revision does not know.
pub(crate) fn trim(entry: &mut Value, revision: &str) {
    let Some(entry) = entry.as_object_mut() else {
        return;
    };
    if revision < "2025-03-26" {
        entry.remove("annotations");
    }
    if revision < "2025-06-18" {
        entry.remove("title");
        entry.remove("outputSchema");
    }
}
