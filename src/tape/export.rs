//! A tape in other forms: HAR, which browsers and HTTP tools read, and one JSON document.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::conversation::Call;
use super::format::{Edge, Frame, Http, Kind, Party, rfc3339};
use super::whole::Tape;
use crate::protocol::message::Message;

/// The tape as one JSON document: `header`, `frames` (byte for byte as on the tape) and `ending`.
#[must_use]
pub fn json(tape: &Tape) -> Vec<u8> {
    let mut out = b"{\"header\":".to_vec();
    tape.header.write(&mut out);
    out.pop();
    out.extend_from_slice(b",\n\"frames\":[");
    for (index, frame) in tape.frames.iter().enumerate() {
        out.extend_from_slice(if index == 0 { b"\n" } else { b",\n" });
        frame.write(&mut out);
        out.pop();
    }
    let whole = matches!(tape.ending, super::format::Ending::Proper { .. });
    out.extend_from_slice(format!("\n],\n\"whole\":{whole}}}\n").as_bytes());
    out
}

/// The tape as an HTTP Archive (version 1.2): an entry for each request and notification of the client, on the edge that is the
/// tape's truth, with what was answered. What went over standard input and output is told as if it were POST.
#[must_use]
pub fn har(tape: &Tape) -> Value {
    let edge = tape.edge();
    let started = tape.header.started_at().unwrap_or(UNIX_EPOCH);
    let by_number: HashMap<u64, &Frame> = tape.frames.iter().map(|frame| (frame.seq, frame)).collect();
    let frame = |seq: u64| by_number.get(&seq).copied();
    let calls = tape.calls(edge);
    let calls = calls.iter().filter(|call| call.upward);
    let mut entries: BTreeMap<(u64, usize), Value> = calls
        .enumerate()
        .map(|(index, call)| ((call.request.seq, index), entry(tape, call, started, &frame)))
        .collect();
    let told: HashSet<u64> = entries.keys().map(|(seq, _)| *seq).collect();
    let others = tape.frames.iter().filter(|frame| {
        frame.edge() == Some(edge) && frame.is_upward() && frame.kind == Kind::Message && !told.contains(&frame.seq)
    });
    entries.extend(others.map(|frame| ((frame.seq, 0), sent(tape, frame, started))));
    let entries: Vec<Value> = entries.into_values().collect();
    let creator = json!({ "name": "shadowcat", "version": env!("CARGO_PKG_VERSION") });
    json!({ "log": { "version": "1.2", "creator": creator, "pages": [], "entries": entries } })
}

fn entry<'t>(tape: &Tape, call: &Call, started: SystemTime, frame: &dyn Fn(u64) -> Option<&'t Frame>) -> Value {
    let (asked, answered) = (frame(call.request.seq), call.answer.as_ref().and_then(|answer| frame(answer.seq)));
    let until = call.answer.as_ref().map_or(call.request.at, |answer| answer.at);
    let text = |message: &Message| String::from_utf8_lossy(message.text()).into_owned();
    shape(
        tape,
        after(started, call.request.at),
        until.saturating_sub(call.request.at),
        (asked, &text(&call.request.message)),
        answered.zip(call.answer.as_ref()).map(|(frame, answer)| (frame, text(&answer.message))),
    )
}

fn after(started: SystemTime, micros: u64) -> SystemTime {
    started.checked_add(Duration::from_micros(micros)).unwrap_or(started)
}

fn sent(tape: &Tape, frame: &Frame, started: SystemTime) -> Value {
    let bytes = frame.body.as_ref().map(|body| body.bytes().clone()).unwrap_or_default();
    shape(tape, after(started, frame.at), 0, (Some(frame), &String::from_utf8_lossy(&bytes)), None)
}

fn shape(
    tape: &Tape,
    started: SystemTime,
    micros: u64,
    (asked, request): (Option<&Frame>, &str),
    answer: Option<(&Frame, String)>,
) -> Value {
    let http = |frame: Option<&Frame>| frame.and_then(|frame| frame.http.as_deref().cloned()).unwrap_or_default();
    let headers = |http: &Http| -> Vec<Value> {
        http.headers.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect()
    };
    let (up, down) = (http(asked), http(answer.as_ref().map(|(frame, _)| *frame)));
    let milliseconds = Duration::from_micros(micros).as_secs_f64() * 1000.0;
    let to = asked.and_then(|frame| frame.to).unwrap_or(Party::Proxy).as_str();
    let name = tape.header.upstream.as_deref().unwrap_or("server");
    let status = down.status.unwrap_or(if answer.is_some() { 200 } else { 0 });
    let text = answer.as_ref().map(|(_, text)| text.as_str()).unwrap_or_default();
    json!({
        "startedDateTime": rfc3339(started),
        "time": milliseconds,
        "request": {
            "method": up.method.as_deref().unwrap_or("POST"),
            "url": format!("http://{to}.invalid/{name}"),
            "httpVersion": "HTTP/1.1",
            "cookies": [],
            "headers": headers(&up),
            "queryString": [],
            "postData": { "mimeType": "application/json", "text": request },
            "headersSize": -1,
            "bodySize": request.len(),
        },
        "response": {
            "status": status,
            "statusText": "",
            "httpVersion": "HTTP/1.1",
            "cookies": [],
            "headers": headers(&down),
            "content": { "size": text.len(), "mimeType": "application/json", "text": text },
            "redirectURL": "",
            "headersSize": -1,
            "bodySize": text.len(),
        },
        "cache": {},
        "timings": { "send": 0, "wait": milliseconds, "receive": 0 },
        "_frame": asked.map(|frame| frame.seq),
        "_edge": asked.and_then(Frame::edge).map(|edge| match edge { Edge::Client => "client", Edge::Upstream => "upstream" }),
    })
}
