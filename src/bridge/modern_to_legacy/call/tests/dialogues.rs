//! What is said, line by line: `>` comes from the client or goes to it, `<` comes from the server or goes to it. `…` is time
//! that passes, `!` what is counted or decided.

use super::*;

struct Dialogue {
    call: Call,
    now: Instant,
    lines: Vec<String>,
}

impl Dialogue {
    fn begin(method: &str, params: &str, meta: &str) -> Dialogue {
        let now = now();
        let request = request("7", method, params, meta);
        let call = begun(&request, now);
        let mut dialogue = Dialogue { call, now, lines: Vec::new() };
        dialogue.lines.push(format!("> client: {}", text(&request)));
        dialogue.lines.push(format!("<   to server: {}", text(&upward(&request, 42))));
        dialogue
    }

    /// One that is sent to become a task, whose client takes it for an answer.
    fn offered() -> Dialogue {
        let mut dialogue = Dialogue::begin("tools/call", r#""name":"x""#, TAKES_TASKS);
        let request = request("7", "tools/call", r#""name":"x""#, TAKES_TASKS);
        dialogue.call = dialogue.call.offered();
        dialogue.lines[1] = format!("<   to server: {}", text(&upward_as_task(&request, 42).unwrap()));
        dialogue
    }

    fn feed(mut self, line: String, input: Input) -> Dialogue {
        self.lines.push(line);
        let mut effects = Vec::new();
        self.call.handle(input, self.now, &mut effects);
        for effect in effects {
            self.lines.push(match effect {
                Effect::Client(message) => format!(">   to client: {}", text(&message)),
                Effect::Answer(message) => format!(">   answer: {}", text(&message)),
                Effect::Ask(id, requests) => format!(">   asks, as the answer to {}: {requests}", id.as_json()),
                Effect::Server(message) => format!("<   to server: {}", text(&message)),
                Effect::Again => "<   the request is sent again".to_owned(),
                Effect::AsTask => {
                    let request = request("7", "tools/call", r#""name":"x""#, "");
                    format!("<   to server: {}", text(&upward_as_task(&request, 43).unwrap()))
                }
                Effect::Fetch(task) => format!("<   to server: {}", text(&about_task(Known::TasksResult, 44, &task))),
                Effect::Made(id, theirs, made) => {
                    format!(
                        ">   answer: {} (the server calls it {theirs})",
                        text(&task::created(&id, made, "ours", 60_000))
                    )
                }
                Effect::CancelTask(task) => {
                    format!("<   to server: {}", text(&about_task(Known::TasksCancel, 45, &task)))
                }
                Effect::Cancel => "<   the call is cancelled".to_owned(),
                Effect::Lost(loss) => format!("!   lost: {}", loss.as_str()),
                Effect::Drop(why) => format!("!   dropped: {why}"),
            });
        }
        self
    }

    fn server(self, said: &str) -> Dialogue {
        let said = said.replace("{rpc}", r#""jsonrpc":"2.0""#);
        self.feed(format!("< server: {said}"), Input::Server(message(&said)))
    }

    fn wait(mut self, time: Duration) -> Dialogue {
        self.now += time;
        self.feed(format!("… {time:?}"), Input::Timer)
    }

    fn back(self, id: &str, answers: &str, meta: &str) -> Dialogue {
        let retry = request(id, "tools/call", &format!(r#""inputResponses":{answers}"#), meta);
        let leg = leg(&retry);
        self.feed(format!("> client comes back as {id}: {answers}"), Input::Back(leg, question::answers(&retry)))
    }

    fn gone(self) -> Dialogue {
        self.feed("> client goes away".to_owned(), Input::Gone)
    }

    fn told(self) -> String {
        self.lines.join("\n")
    }
}

const ASKS: &str =
    r#"{{rpc},"id":"s/9","method":"elicitation/create","params":{"message":"Who?","requestedSchema":{}}}"#;

/// Lists: `resultType` and how long they keep are added.
#[test]
fn a_list() {
    let told = Dialogue::begin("tools/list", "", "")
        .server(r#"{{rpc},"id":42,"result":{"tools":[{"name":"x","execution":{"taskSupport":"optional"}}]}}"#)
        .told();
    insta::assert_snapshot!(told, @r#"
    > client: {"jsonrpc":"2.0","id":7,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{"form":{},"url":{}},"sampling":{},"roots":{}}}}}
    <   to server: {"jsonrpc":"2.0","id":42,"method":"tools/list","params":{"_meta":{}}}
    < server: {"jsonrpc":"2.0","id":42,"result":{"tools":[{"name":"x","execution":{"taskSupport":"optional"}}]}}
    >   answer: {"jsonrpc":"2.0","id":7,"result":{"resultType":"complete","ttlMs":0,"cacheScope":"private","tools":[{"name":"x","execution":{"taskSupport":"optional"}}]}}
    "#);
}

/// `prompts/list`, `resources/list`, `resources/templates/list`, `resources/read`: as `tools/list`; what a prompt wants to know is
/// asked as for a call.
#[test]
fn prompts_and_resources() {
    let mut told = String::new();
    for (method, params, result) in [
        ("prompts/list", "", r#"{"prompts":[],"nextCursor":"c"}"#),
        ("resources/list", r#""cursor":"c""#, r#"{"resources":[]}"#),
        ("resources/templates/list", "", r#"{"resourceTemplates":[]}"#),
        ("resources/read", r#""uri":"a://b""#, r#"{"contents":[],"n":1.50}"#),
    ] {
        let said = format!(r#"{{"jsonrpc":"2.0","id":42,"result":{result}}}"#);
        let dialogue = Dialogue::begin(method, params, "").server(&said);
        told += &format!("{}\n", dialogue.lines[1..].join("\n"));
    }
    insta::assert_snapshot!(told, @r#"
    <   to server: {"jsonrpc":"2.0","id":42,"method":"prompts/list","params":{"_meta":{}}}
    < server: {"jsonrpc":"2.0","id":42,"result":{"prompts":[],"nextCursor":"c"}}
    >   answer: {"jsonrpc":"2.0","id":7,"result":{"resultType":"complete","ttlMs":0,"cacheScope":"private","prompts":[],"nextCursor":"c"}}
    <   to server: {"jsonrpc":"2.0","id":42,"method":"resources/list","params":{"cursor":"c","_meta":{}}}
    < server: {"jsonrpc":"2.0","id":42,"result":{"resources":[]}}
    >   answer: {"jsonrpc":"2.0","id":7,"result":{"resultType":"complete","ttlMs":0,"cacheScope":"private","resources":[]}}
    <   to server: {"jsonrpc":"2.0","id":42,"method":"resources/templates/list","params":{"_meta":{}}}
    < server: {"jsonrpc":"2.0","id":42,"result":{"resourceTemplates":[]}}
    >   answer: {"jsonrpc":"2.0","id":7,"result":{"resultType":"complete","ttlMs":0,"cacheScope":"private","resourceTemplates":[]}}
    <   to server: {"jsonrpc":"2.0","id":42,"method":"resources/read","params":{"uri":"a://b","_meta":{}}}
    < server: {"jsonrpc":"2.0","id":42,"result":{"contents":[],"n":1.50}}
    >   answer: {"jsonrpc":"2.0","id":7,"result":{"resultType":"complete","ttlMs":0,"cacheScope":"private","contents":[],"n":1.50}}
    "#);
    let asked = Dialogue::begin("prompts/get", r#""name":"p""#, "")
        .server(r#"{{rpc},"id":"s1","method":"sampling/createMessage","params":{"maxTokens":1}}"#)
        .server(r#"{{rpc},"id":"s2","method":"roots/list"}"#)
        .wait(WINDOW)
        .back("8", r#"{"s1":{"role":"assistant"},"s2":{"roots":[]}}"#, "")
        .server(r#"{{rpc},"id":42,"result":{"messages":[]}}"#);
    insta::assert_snapshot!(asked.lines[1..].join("\n"), @r#"
    <   to server: {"jsonrpc":"2.0","id":42,"method":"prompts/get","params":{"name":"p","_meta":{}}}
    < server: {"jsonrpc":"2.0","id":"s1","method":"sampling/createMessage","params":{"maxTokens":1}}
    < server: {"jsonrpc":"2.0","id":"s2","method":"roots/list"}
    … 20ms
    >   asks, as the answer to 7: {"s1":{"method":"sampling/createMessage","params":{"maxTokens":1}},"s2":{"method":"roots/list"}}
    > client comes back as 8: {"s1":{"role":"assistant"},"s2":{"roots":[]}}
    <   to server: {"jsonrpc":"2.0","id":"s1","result":{"role":"assistant"}}
    <   to server: {"jsonrpc":"2.0","id":"s2","result":{"roots":[]}}
    < server: {"jsonrpc":"2.0","id":42,"result":{"messages":[]}}
    >   answer: {"jsonrpc":"2.0","id":8,"result":{"resultType":"complete","messages":[]}}
    "#);
}

/// Calls: metadata of 2026-07-28 stays here, progress tokens are translated.
#[test]
fn a_call_with_progress() {
    let told = Dialogue::begin("tools/call", r#""name":"x""#, r#","progressToken":"p","traceparent":"t""#)
        .server(r#"{{rpc},"method":"notifications/progress","params":{"progressToken":42,"progress":0.50}}"#)
        .server(r#"{{rpc},"id":42,"result":{"content":[]}}"#)
        .told();
    insta::assert_snapshot!(told, @r#"
    > client: {"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"x","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{"form":{},"url":{}},"sampling":{},"roots":{}},"progressToken":"p","traceparent":"t"}}}
    <   to server: {"jsonrpc":"2.0","id":42,"method":"tools/call","params":{"name":"x","_meta":{"progressToken":42,"traceparent":"t"}}}
    < server: {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":42,"progress":0.50}}
    >   to client: {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"p","progress":0.50}}
    < server: {"jsonrpc":"2.0","id":42,"result":{"content":[]}}
    >   answer: {"jsonrpc":"2.0","id":7,"result":{"resultType":"complete","content":[]}}
    "#);
}

/// Log messages: from the level on that this request asks for.
#[test]
fn log_messages() {
    let told = Dialogue::begin("tools/call", r#""name":"x""#, r#","io.modelcontextprotocol/logLevel":"warning""#)
        .server(r#"{{rpc},"method":"notifications/message","params":{"level":"error","data":1}}"#)
        .server(r#"{{rpc},"method":"notifications/message","params":{"level":"info","data":2}}"#)
        .told();
    insta::assert_snapshot!(told, @r#"
    > client: {"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"x","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{"form":{},"url":{}},"sampling":{},"roots":{}},"io.modelcontextprotocol/logLevel":"warning"}}}
    <   to server: {"jsonrpc":"2.0","id":42,"method":"tools/call","params":{"name":"x","_meta":{}}}
    < server: {"jsonrpc":"2.0","method":"notifications/message","params":{"level":"error","data":1}}
    >   to client: {"jsonrpc":"2.0","method":"notifications/message","params":{"level":"error","data":1}}
    < server: {"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":2}}
    !   dropped: unasked_log
    "#);
}

/// A question in mid-call.
#[test]
fn a_question() {
    let told = Dialogue::begin("tools/call", r#""name":"x""#, "")
        .server(ASKS)
        .wait(WINDOW)
        .back("8", r#"{"q1":{"action":"accept","content":{"name":"me"}}}"#, "")
        .server(r#"{{rpc},"id":42,"result":{"content":[]}}"#)
        .told();
    insta::assert_snapshot!(told, @r#"
    > client: {"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"x","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{"form":{},"url":{}},"sampling":{},"roots":{}}}}}
    <   to server: {"jsonrpc":"2.0","id":42,"method":"tools/call","params":{"name":"x","_meta":{}}}
    < server: {"jsonrpc":"2.0","id":"s/9","method":"elicitation/create","params":{"message":"Who?","requestedSchema":{}}}
    … 20ms
    >   asks, as the answer to 7: {"q1":{"method":"elicitation/create","params":{"message":"Who?","requestedSchema":{}}}}
    > client comes back as 8: {"q1":{"action":"accept","content":{"name":"me"}}}
    <   to server: {"jsonrpc":"2.0","id":"s/9","result":{"action":"accept","content":{"name":"me"}}}
    < server: {"jsonrpc":"2.0","id":42,"result":{"content":[]}}
    >   answer: {"jsonrpc":"2.0","id":8,"result":{"resultType":"complete","content":[]}}
    "#);
}

/// Several questions are asked at once; what is missing is asked again, with what came in between.
#[test]
fn several_questions_and_rounds() {
    let told = Dialogue::begin("tools/call", r#""name":"x""#, "")
        .server(ASKS)
        .server(
            r#"{{rpc},"id":10,"method":"sampling/createMessage","params":{"maxTokens":1,"_meta":{"progressToken":1}}}"#,
        )
        .wait(WINDOW)
        .server(r#"{{rpc},"id":11,"method":"roots/list"}"#)
        .back("8", r#"{"q1":{"action":"decline"}}"#, "")
        .back("9", r#"{"q2":{"role":"assistant"},"q3":{"roots":[]}}"#, "")
        .server(r#"{{rpc},"id":42,"result":{}}"#)
        .told();
    insta::assert_snapshot!(told, @r#"
    > client: {"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"x","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{"form":{},"url":{}},"sampling":{},"roots":{}}}}}
    <   to server: {"jsonrpc":"2.0","id":42,"method":"tools/call","params":{"name":"x","_meta":{}}}
    < server: {"jsonrpc":"2.0","id":"s/9","method":"elicitation/create","params":{"message":"Who?","requestedSchema":{}}}
    < server: {"jsonrpc":"2.0","id":10,"method":"sampling/createMessage","params":{"maxTokens":1,"_meta":{"progressToken":1}}}
    … 20ms
    !   lost: question_progress
    >   asks, as the answer to 7: {"q1":{"method":"elicitation/create","params":{"message":"Who?","requestedSchema":{}}},"q2":{"method":"sampling/createMessage","params":{"maxTokens":1}}}
    < server: {"jsonrpc":"2.0","id":11,"method":"roots/list"}
    > client comes back as 8: {"q1":{"action":"decline"}}
    <   to server: {"jsonrpc":"2.0","id":"s/9","result":{"action":"decline"}}
    >   asks, as the answer to 8: {"q2":{"method":"sampling/createMessage","params":{"maxTokens":1}},"q3":{"method":"roots/list"}}
    > client comes back as 9: {"q2":{"role":"assistant"},"q3":{"roots":[]}}
    <   to server: {"jsonrpc":"2.0","id":10,"result":{"role":"assistant"}}
    <   to server: {"jsonrpc":"2.0","id":11,"result":{"roots":[]}}
    < server: {"jsonrpc":"2.0","id":42,"result":{}}
    >   answer: {"jsonrpc":"2.0","id":9,"result":{"resultType":"complete"}}
    "#);
}

/// While a call is parked: progress is remembered, log messages are kept, a question may be withdrawn.
#[test]
fn what_happens_while_parked() {
    let told = Dialogue::begin("tools/call", r#""name":"x""#, "")
        .server(ASKS)
        .wait(WINDOW)
        .server(r#"{{rpc},"method":"notifications/progress","params":{"progressToken":42,"progress":1}}"#)
        .server(r#"{{rpc},"method":"notifications/progress","params":{"progressToken":42,"progress":2}}"#)
        .server(r#"{{rpc},"method":"notifications/message","params":{"level":"error","data":1}}"#)
        .server(r#"{{rpc},"method":"notifications/cancelled","params":{"requestId":"s/9"}}"#)
        .back("8", "{}", r#","progressToken":"p2","io.modelcontextprotocol/logLevel":"info""#)
        .server(r#"{{rpc},"id":42,"result":{}}"#)
        .told();
    insta::assert_snapshot!(told, @r#"
    > client: {"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"x","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{"form":{},"url":{}},"sampling":{},"roots":{}}}}}
    <   to server: {"jsonrpc":"2.0","id":42,"method":"tools/call","params":{"name":"x","_meta":{}}}
    < server: {"jsonrpc":"2.0","id":"s/9","method":"elicitation/create","params":{"message":"Who?","requestedSchema":{}}}
    … 20ms
    >   asks, as the answer to 7: {"q1":{"method":"elicitation/create","params":{"message":"Who?","requestedSchema":{}}}}
    < server: {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":42,"progress":1}}
    < server: {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":42,"progress":2}}
    !   lost: parked_progress
    < server: {"jsonrpc":"2.0","method":"notifications/message","params":{"level":"error","data":1}}
    < server: {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"s/9"}}
    > client comes back as 8: {}
    >   to client: {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"p2","progress":2}}
    >   to client: {"jsonrpc":"2.0","method":"notifications/message","params":{"level":"error","data":1}}
    < server: {"jsonrpc":"2.0","id":42,"result":{}}
    >   answer: {"jsonrpc":"2.0","id":8,"result":{"resultType":"complete"}}
    "#);
}

/// A server that does not wait for the answer: its own is there when the client comes back.
#[test]
fn an_answer_while_parked() {
    let told = Dialogue::begin("tools/call", r#""name":"x""#, "")
        .server(ASKS)
        .wait(WINDOW)
        .server(r#"{{rpc},"id":42,"result":{"isError":true}}"#)
        .back("8", r#"{"q1":{"action":"accept"}}"#, "")
        .told();
    insta::assert_snapshot!(told, @r#"
    > client: {"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"x","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{"form":{},"url":{}},"sampling":{},"roots":{}}}}}
    <   to server: {"jsonrpc":"2.0","id":42,"method":"tools/call","params":{"name":"x","_meta":{}}}
    < server: {"jsonrpc":"2.0","id":"s/9","method":"elicitation/create","params":{"message":"Who?","requestedSchema":{}}}
    … 20ms
    >   asks, as the answer to 7: {"q1":{"method":"elicitation/create","params":{"message":"Who?","requestedSchema":{}}}}
    < server: {"jsonrpc":"2.0","id":42,"result":{"isError":true}}
    <   to server: {"jsonrpc":"2.0","id":"s/9","result":{"action":"cancel"}}
    > client comes back as 8: {"q1":{"action":"accept"}}
    >   answer: {"jsonrpc":"2.0","id":8,"result":{"resultType":"complete","isError":true}}
    "#);
}

/// Nobody comes back.
#[test]
fn nobody_comes_back() {
    let told = Dialogue::begin("tools/call", r#""name":"x""#, "")
        .server(ASKS)
        .server(r#"{{rpc},"id":10,"method":"roots/list"}"#)
        .wait(WINDOW)
        .wait(PARKED)
        .back("8", r#"{"q1":{"action":"accept"}}"#, "")
        .told();
    insta::assert_snapshot!(told, @r#"
    > client: {"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"x","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{"form":{},"url":{}},"sampling":{},"roots":{}}}}}
    <   to server: {"jsonrpc":"2.0","id":42,"method":"tools/call","params":{"name":"x","_meta":{}}}
    < server: {"jsonrpc":"2.0","id":"s/9","method":"elicitation/create","params":{"message":"Who?","requestedSchema":{}}}
    < server: {"jsonrpc":"2.0","id":10,"method":"roots/list"}
    … 20ms
    >   asks, as the answer to 7: {"q1":{"method":"elicitation/create","params":{"message":"Who?","requestedSchema":{}}},"q2":{"method":"roots/list"}}
    … 600s
    !   lost: parked_expired
    <   to server: {"jsonrpc":"2.0","id":"s/9","result":{"action":"cancel"}}
    <   to server: {"jsonrpc":"2.0","id":10,"error":{"code":-32603,"message":"The client did not answer","data":{"origin":"proxy"}}}
    <   the call is cancelled
    > client comes back as 8: {"q1":{"action":"accept"}}
    "#);
}

/// Who closes the stream has cancelled, with a question on its way.
#[test]
fn the_client_goes_away() {
    insta::assert_snapshot!(Dialogue::begin("tools/call", r#""name":"x""#, "").server(ASKS).gone().told(), @r#"
    > client: {"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"x","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{"form":{},"url":{}},"sampling":{},"roots":{}}}}}
    <   to server: {"jsonrpc":"2.0","id":42,"method":"tools/call","params":{"name":"x","_meta":{}}}
    < server: {"jsonrpc":"2.0","id":"s/9","method":"elicitation/create","params":{"message":"Who?","requestedSchema":{}}}
    > client goes away
    <   to server: {"jsonrpc":"2.0","id":"s/9","result":{"action":"cancel"}}
    <   the call is cancelled
    "#);
}

/// What was not declared, or cannot be asked there, is refused.
#[test]
fn questions_that_are_not_asked() {
    let none = r#""io.modelcontextprotocol/clientCapabilities":{"elicitation":{}}"#;
    let told = Dialogue::begin("tools/call", r#""name":"x""#, none)
        .server(r#"{{rpc},"id":10,"method":"roots/list"}"#)
        .server(r#"{{rpc},"id":11,"method":"elicitation/create","params":{"mode":"url","url":"https://a"}}"#)
        .told();
    insta::assert_snapshot!(told, @r#"
    > client: {"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"x","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{}}}}}
    <   to server: {"jsonrpc":"2.0","id":42,"method":"tools/call","params":{"name":"x","_meta":{}}}
    < server: {"jsonrpc":"2.0","id":10,"method":"roots/list"}
    <   to server: {"jsonrpc":"2.0","id":10,"error":{"code":-32601,"message":"There is no client that can be asked this now","data":{"origin":"proxy"}}}
    !   lost: question_undeclared
    < server: {"jsonrpc":"2.0","id":11,"method":"elicitation/create","params":{"mode":"url","url":"https://a"}}
    <   to server: {"jsonrpc":"2.0","id":11,"error":{"code":-32601,"message":"There is no client that can be asked this now","data":{"origin":"proxy"}}}
    !   lost: question_undeclared
    "#);
    insta::assert_snapshot!(Dialogue::begin("completion/complete", "", "").server(ASKS).told(), @r#"
    > client: {"jsonrpc":"2.0","id":7,"method":"completion/complete","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{"form":{},"url":{}},"sampling":{},"roots":{}}}}}
    <   to server: {"jsonrpc":"2.0","id":42,"method":"completion/complete","params":{"_meta":{}}}
    < server: {"jsonrpc":"2.0","id":"s/9","method":"elicitation/create","params":{"message":"Who?","requestedSchema":{}}}
    <   to server: {"jsonrpc":"2.0","id":"s/9","error":{"code":-32601,"message":"There is no client that can be asked this now","data":{"origin":"proxy"}}}
    !   lost: question_outside
    "#);
}

/// A question has the server's name, where that is a word that this call has not heard yet and that is none of ours.
#[test]
fn what_questions_are_called() {
    let asks = |id: &str| r#"{{rpc},"id":ID,"method":"roots/list"}"#.replace("ID", id);
    let names = [r#""user_name""#, "5", r#""q1""#, r#""a b""#, r#""a\u002fb""#, r#""""#];
    let mut dialogue = Dialogue::begin("tools/call", r#""name":"x""#, "");
    for name in names {
        dialogue = dialogue.server(&asks(name));
    }
    let told = dialogue.wait(Duration::from_millis(20)).told();
    let (_, asked) = told.rsplit_once(" 7: ").unwrap();
    let asked: serde_json::Value = serde_json::from_str(asked).unwrap();
    let keys: Vec<&String> = asked.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["q2", "q3", "q4", "q5", "q6", "user_name"]);

    let told = Dialogue::begin("tools/call", r#""name":"x""#, "")
        .server(&asks(r#""again""#))
        .wait(Duration::from_millis(20))
        .back("8", r#"{"again":{"roots":[]}}"#, "")
        .server(&asks(r#""again""#))
        .wait(Duration::from_millis(20))
        .told();
    assert!(told.ends_with(r#"8: {"q2":{"method":"roots/list"}}"#), "no name means two questions: {told}");
}

/// Answers that come with the call are for questions of these very names, once; no name of ours can be meant. The server does
/// not see them.
#[test]
fn answers_that_come_with_the_call() {
    let given = r#""name":"x","inputResponses":{"root":{"roots":[]},"q2":{"roots":[]},"more":{}}"#;
    let asks = |id: &str| r#"{{rpc},"id":ID,"method":"roots/list"}"#.replace("ID", id);
    let dialogue = Dialogue::begin("tools/call", given, "").server(&asks(r#""root""#));
    assert!(!dialogue.lines[1].contains("inputResponses"), "{}", dialogue.lines[1]);
    assert_eq!(dialogue.lines[3], r#"<   to server: {"jsonrpc":"2.0","id":"root","result":{"roots":[]}}"#);
    let told = dialogue.server(&asks("7")).server(&asks(r#""root""#)).wait(Duration::from_millis(20)).told();
    assert!(told.ends_with(r#" 7: {"q2":{"method":"roots/list"},"q3":{"method":"roots/list"}}"#), "{told}");
}

/// What fails for want of a question that its client cannot be asked says so; what does without it does not
/// (2026-07-28, Basic › Capabilities).
#[test]
fn what_the_client_would_have_had_to_declare() {
    let none = r#""io.modelcontextprotocol/clientCapabilities":{"elicitation":{}}"#;
    let told = |answer: &str| {
        let dialogue = Dialogue::begin("tools/call", r#""name":"x""#, none)
            .server(r#"{{rpc},"id":10,"method":"sampling/createMessage","params":{"tools":[]}}"#)
            .server(r#"{{rpc},"id":11,"method":"elicitation/create","params":{"mode":"url","url":"https://a"}}"#)
            .server(answer);
        dialogue.lines.last().unwrap().clone()
    };
    let needs = r#">   answer: {"jsonrpc":"2.0","id":7,"error":{"code":-32021,"data":{"origin":"proxy","requiredCapabilities":{"elicitation":{"url":{}},"sampling":{"tools":{}}}},"message":"This needs a client that can be asked: see requiredCapabilities"}}"#;
    assert_eq!(told(r#"{{rpc},"id":42,"result":{"content":[],"isError":true}}"#), needs);
    assert_eq!(told(r#"{{rpc},"id":42,"error":{"code":-32603,"message":"m"}}"#), needs);
    assert!(told(r#"{{rpc},"id":42,"result":{"content":[],"isError":false}}"#).contains("complete"));
}

/// What was agreed to is made again when the server has refused it, and never while the server is at it: not when it takes a
/// question back, nor when it says late that the user has been there.
#[test]
fn a_call_that_runs_is_not_made_again() {
    let go = r#"{{rpc},"id":42,"error":{"code":-32042,"message":"m","data":{"elicitations":[{"url":"https://a"}]}}}"#;
    let complete = r#"{{rpc},"method":"notifications/elicitation/complete","params":{"elicitationId":"e1"}}"#;
    let withdrawn = r#"{{rpc},"method":"notifications/cancelled","params":{"requestId":"s/9"}}"#;
    let told = Dialogue::begin("tools/call", r#""name":"x""#, "")
        .server(go)
        .back("8", r#"{"q1":{"action":"accept"}}"#, "")
        .server(ASKS)
        .server(complete)
        .server(withdrawn)
        .wait(Duration::from_secs(2))
        .told();
    assert_eq!(told.matches("the request is sent again").count(), 1, "{told}");
}

/// The connection of a parked call is for others when the server has answered, unless the answer has the call made again: then
/// it has to be made there.
#[test]
fn a_call_that_will_be_made_again_is_not_done_with_its_connection() {
    let withdrawn = r#"{{rpc},"method":"notifications/cancelled","params":{"requestId":"s/9"}}"#;
    let parked = || Dialogue::begin("tools/call", r#""name":"x""#, "").server(ASKS).wait(WINDOW).server(withdrawn);
    assert!(!parked().call.is_done_with());
    assert!(parked().server(r#"{{rpc},"id":42,"result":{}}"#).call.is_done_with());
    assert!(parked().server(r#"{{rpc},"id":42,"error":{"code":-32603,"message":"m"}}"#).call.is_done_with());
    let go = r#"{{rpc},"id":42,"error":{"code":-32042,"message":"m","data":{"elicitations":[{"url":"https://a"}]}}}"#;
    assert!(!parked().server(go).call.is_done_with());
}

/// `-32042`: the user has to go somewhere first. What they agreed to is waited for, and asked again.
#[test]
fn an_errand() {
    let go = r#"{{rpc},"id":42,"error":{"code":-32042,"message":"Sign in","data":{"elicitations":[{"mode":"url","elicitationId":"e1","url":"https://a","message":"Sign in"}]}}}"#;
    let told = Dialogue::begin("tools/call", r#""name":"x""#, "")
        .server(go)
        .back("8", r#"{"q1":{"action":"accept"}}"#, "")
        .server(go)
        .wait(ERRAND_PAUSE)
        .server(go)
        .server(r#"{{rpc},"method":"notifications/elicitation/complete","params":{"elicitationId":"e1"}}"#)
        .server(r#"{{rpc},"id":44,"result":{}}"#)
        .told();
    insta::assert_snapshot!(told, @r#"
    > client: {"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"x","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{"form":{},"url":{}},"sampling":{},"roots":{}}}}}
    <   to server: {"jsonrpc":"2.0","id":42,"method":"tools/call","params":{"name":"x","_meta":{}}}
    < server: {"jsonrpc":"2.0","id":42,"error":{"code":-32042,"message":"Sign in","data":{"elicitations":[{"mode":"url","elicitationId":"e1","url":"https://a","message":"Sign in"}]}}}
    >   asks, as the answer to 7: {"q1":{"method":"elicitation/create","params":{"message":"Sign in","mode":"url","url":"https://a"}}}
    > client comes back as 8: {"q1":{"action":"accept"}}
    <   the request is sent again
    < server: {"jsonrpc":"2.0","id":42,"error":{"code":-32042,"message":"Sign in","data":{"elicitations":[{"mode":"url","elicitationId":"e1","url":"https://a","message":"Sign in"}]}}}
    … 1s
    <   the request is sent again
    < server: {"jsonrpc":"2.0","id":42,"error":{"code":-32042,"message":"Sign in","data":{"elicitations":[{"mode":"url","elicitationId":"e1","url":"https://a","message":"Sign in"}]}}}
    < server: {"jsonrpc":"2.0","method":"notifications/elicitation/complete","params":{"elicitationId":"e1"}}
    <   the request is sent again
    < server: {"jsonrpc":"2.0","id":44,"result":{}}
    >   answer: {"jsonrpc":"2.0","id":8,"result":{"resultType":"complete"}}
    "#);
    let declined = Dialogue::begin("tools/call", r#""name":"x""#, "")
        .server(go)
        .back("8", r#"{"q1":{"action":"decline"}}"#, "")
        .told();
    insta::assert_snapshot!(declined, @r#"
    > client: {"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"x","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{"form":{},"url":{}},"sampling":{},"roots":{}}}}}
    <   to server: {"jsonrpc":"2.0","id":42,"method":"tools/call","params":{"name":"x","_meta":{}}}
    < server: {"jsonrpc":"2.0","id":42,"error":{"code":-32042,"message":"Sign in","data":{"elicitations":[{"mode":"url","elicitationId":"e1","url":"https://a","message":"Sign in"}]}}}
    >   asks, as the answer to 7: {"q1":{"method":"elicitation/create","params":{"message":"Sign in","mode":"url","url":"https://a"}}}
    > client comes back as 8: {"q1":{"action":"decline"}}
    >   answer: {"jsonrpc":"2.0","id":8,"result":{"content":[{"text":"The user declined to open the URL that this needs","type":"text"}],"isError":true,"resultType":"complete"}}
    "#);
    let form = r#""io.modelcontextprotocol/clientCapabilities":{"elicitation":{}}"#;
    insta::assert_snapshot!(Dialogue::begin("prompts/get", r#""name":"x""#, form).server(go).told(), @r#"
    > client: {"jsonrpc":"2.0","id":7,"method":"prompts/get","params":{"name":"x","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{}}}}}
    <   to server: {"jsonrpc":"2.0","id":42,"method":"prompts/get","params":{"name":"x","_meta":{}}}
    < server: {"jsonrpc":"2.0","id":42,"error":{"code":-32042,"message":"Sign in","data":{"elicitations":[{"mode":"url","elicitationId":"e1","url":"https://a","message":"Sign in"}]}}}
    >   answer: {"jsonrpc":"2.0","id":7,"error":{"code":-32021,"data":{"origin":"proxy","requiredCapabilities":{"elicitation":{"url":{}}}},"message":"This needs a client that can be asked: see requiredCapabilities"}}
    "#);
}

/// A tool that is called as a task only: it is, and the client need not know. The server may ask meanwhile.
#[test]
fn a_tool_that_requires_a_task() {
    let told = Dialogue::begin("tools/call", r#""name":"x""#, "")
        .server(r#"{{rpc},"id":42,"error":{"code":-32601,"message":"Task augmentation required"}}"#)
        .server(r#"{{rpc},"id":43,"result":{"task":{"taskId":"t1","status":"working","ttl":null}}}"#)
        .server(ASKS)
        .wait(WINDOW)
        .back("8", r#"{"q1":{"action":"accept"}}"#, "")
        .server(r#"{{rpc},"id":44,"result":{"content":[],"_meta":{"io.modelcontextprotocol/related-task":{"taskId":"t1"}}}}"#)
        .told();
    insta::assert_snapshot!(told, @r#"
    > client: {"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"x","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{"form":{},"url":{}},"sampling":{},"roots":{}}}}}
    <   to server: {"jsonrpc":"2.0","id":42,"method":"tools/call","params":{"name":"x","_meta":{}}}
    < server: {"jsonrpc":"2.0","id":42,"error":{"code":-32601,"message":"Task augmentation required"}}
    <   to server: {"jsonrpc":"2.0","id":43,"method":"tools/call","params":{"_meta":{},"name":"x","task":{}}}
    < server: {"jsonrpc":"2.0","id":43,"result":{"task":{"taskId":"t1","status":"working","ttl":null}}}
    <   to server: {"jsonrpc":"2.0","id":44,"method":"tasks/result","params":{"taskId":"t1"}}
    < server: {"jsonrpc":"2.0","id":"s/9","method":"elicitation/create","params":{"message":"Who?","requestedSchema":{}}}
    … 20ms
    >   asks, as the answer to 7: {"q1":{"method":"elicitation/create","params":{"message":"Who?","requestedSchema":{}}}}
    > client comes back as 8: {"q1":{"action":"accept"}}
    <   to server: {"jsonrpc":"2.0","id":"s/9","result":{"action":"accept"}}
    < server: {"jsonrpc":"2.0","id":44,"result":{"content":[],"_meta":{"io.modelcontextprotocol/related-task":{"taskId":"t1"}}}}
    >   answer: {"jsonrpc":"2.0","id":8,"result":{"resultType":"complete","content":[],"_meta":{"io.modelcontextprotocol/related-task":{"taskId":"t1"}}}}
    "#);
    let gone = Dialogue::begin("tools/call", r#""name":"x""#, "")
        .server(r#"{{rpc},"id":42,"error":{"code":-32601,"message":"Task augmentation required"}}"#)
        .server(r#"{{rpc},"id":43,"result":{"task":{"taskId":"t1","status":"working","ttl":null}}}"#)
        .gone()
        .told();
    insta::assert_snapshot!(gone, @r#"
    > client: {"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"x","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{"form":{},"url":{}},"sampling":{},"roots":{}}}}}
    <   to server: {"jsonrpc":"2.0","id":42,"method":"tools/call","params":{"name":"x","_meta":{}}}
    < server: {"jsonrpc":"2.0","id":42,"error":{"code":-32601,"message":"Task augmentation required"}}
    <   to server: {"jsonrpc":"2.0","id":43,"method":"tools/call","params":{"_meta":{},"name":"x","task":{}}}
    < server: {"jsonrpc":"2.0","id":43,"result":{"task":{"taskId":"t1","status":"working","ttl":null}}}
    <   to server: {"jsonrpc":"2.0","id":44,"method":"tasks/result","params":{"taskId":"t1"}}
    > client goes away
    <   to server: {"jsonrpc":"2.0","id":45,"method":"tasks/cancel","params":{"taskId":"t1"}}
    <   the call is cancelled
    "#);
}

/// A resource that is not there has no code of its own any more.
#[test]
fn a_resource_that_is_not_there() {
    let told = Dialogue::begin("resources/read", r#""uri":"a://b""#, "")
        .server(r#"{{rpc},"id":42,"error":{"code":-32002,"message":"Resource not found"}}"#)
        .told();
    insta::assert_snapshot!(told, @r#"
    > client: {"jsonrpc":"2.0","id":7,"method":"resources/read","params":{"uri":"a://b","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{"form":{},"url":{}},"sampling":{},"roots":{}}}}}
    <   to server: {"jsonrpc":"2.0","id":42,"method":"resources/read","params":{"uri":"a://b","_meta":{}}}
    < server: {"jsonrpc":"2.0","id":42,"error":{"code":-32002,"message":"Resource not found"}}
    >   answer: {"jsonrpc":"2.0","id":7,"error":{"code":-32602,"data":{"uri":"a://b"},"message":"Resource not found"}}
    "#);
}

/// What belongs to no request does not come on a request's stream.
#[test]
fn what_belongs_to_no_request() {
    let told = Dialogue::begin("tools/call", r#""name":"x""#, "")
        .server(r#"{{rpc},"method":"notifications/tools/list_changed"}"#)
        .server(r#"{{rpc},"method":"vendor/note","params":{"n":1.50}}"#)
        .told();
    insta::assert_snapshot!(told, @r#"
    > client: {"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"x","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{"form":{},"url":{}},"sampling":{},"roots":{}}}}}
    <   to server: {"jsonrpc":"2.0","id":42,"method":"tools/call","params":{"name":"x","_meta":{}}}
    < server: {"jsonrpc":"2.0","method":"notifications/tools/list_changed"}
    !   dropped: of_no_request
    < server: {"jsonrpc":"2.0","method":"vendor/note","params":{"n":1.50}}
    >   to client: {"jsonrpc":"2.0","method":"vendor/note","params":{"n":1.50}}
    "#);
}

/// Tasks: a client that takes one for an answer gets it, with what the server asks.
#[test]
fn a_task_for_a_client_that_takes_tasks() {
    let made = r#"{{rpc},"id":42,"result":{"task":{"taskId":"t1","status":"working","ttl":null,"pollInterval":5}}}"#;
    insta::assert_snapshot!(Dialogue::offered().server(made).told(), @r#"
    > client: {"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"x","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{"form":{},"url":{}},"sampling":{},"roots":{},"extensions":{"io.modelcontextprotocol/tasks":{}}}}}}
    <   to server: {"jsonrpc":"2.0","id":42,"method":"tools/call","params":{"_meta":{},"name":"x","task":{}}}
    < server: {"jsonrpc":"2.0","id":42,"result":{"task":{"taskId":"t1","status":"working","ttl":null,"pollInterval":5}}}
    >   answer: {"jsonrpc":"2.0","id":7,"result":{"pollIntervalMs":5,"resultType":"task","status":"working","taskId":"ours","ttlMs":60000}} (the server calls it "t1")
    "#);
    // It asks something before it makes the task.
    insta::assert_snapshot!(
        Dialogue::offered().server(ASKS).wait(WINDOW).back("8", r#"{"q1":{"action":"accept"}}"#, TAKES_TASKS).server(made).told(),
        @r#"
    > client: {"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"x","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{"form":{},"url":{}},"sampling":{},"roots":{},"extensions":{"io.modelcontextprotocol/tasks":{}}}}}}
    <   to server: {"jsonrpc":"2.0","id":42,"method":"tools/call","params":{"_meta":{},"name":"x","task":{}}}
    < server: {"jsonrpc":"2.0","id":"s/9","method":"elicitation/create","params":{"message":"Who?","requestedSchema":{}}}
    … 20ms
    >   asks, as the answer to 7: {"q1":{"method":"elicitation/create","params":{"message":"Who?","requestedSchema":{}}}}
    > client comes back as 8: {"q1":{"action":"accept"}}
    <   to server: {"jsonrpc":"2.0","id":"s/9","result":{"action":"accept"}}
    < server: {"jsonrpc":"2.0","id":42,"result":{"task":{"taskId":"t1","status":"working","ttl":null,"pollInterval":5}}}
    >   answer: {"jsonrpc":"2.0","id":8,"result":{"pollIntervalMs":5,"resultType":"task","status":"working","taskId":"ours","ttlMs":60000}} (the server calls it "t1")
    "#
    );
    // Its client is not there when the task is made, and comes back on a request on which it takes none.
    insta::assert_snapshot!(
        Dialogue::offered().server(ASKS).wait(WINDOW).server(made).back("8", r#"{"q1":{"action":"accept"}}"#, "").told(),
        @r#"
    > client: {"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"x","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{"form":{},"url":{}},"sampling":{},"roots":{},"extensions":{"io.modelcontextprotocol/tasks":{}}}}}}
    <   to server: {"jsonrpc":"2.0","id":42,"method":"tools/call","params":{"_meta":{},"name":"x","task":{}}}
    < server: {"jsonrpc":"2.0","id":"s/9","method":"elicitation/create","params":{"message":"Who?","requestedSchema":{}}}
    … 20ms
    >   asks, as the answer to 7: {"q1":{"method":"elicitation/create","params":{"message":"Who?","requestedSchema":{}}}}
    < server: {"jsonrpc":"2.0","id":42,"result":{"task":{"taskId":"t1","status":"working","ttl":null,"pollInterval":5}}}
    > client comes back as 8: {"q1":{"action":"accept"}}
    <   to server: {"jsonrpc":"2.0","id":"s/9","result":{"action":"accept"}}
    <   to server: {"jsonrpc":"2.0","id":44,"method":"tasks/result","params":{"taskId":"t1"}}
    "#
    );
    // The tool is none that can be a task any more.
    insta::assert_snapshot!(
        Dialogue::offered().server(r#"{{rpc},"id":42,"error":{"code":-32601,"message":"No tasks"}}"#).told(),
        @r#"
    > client: {"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"x","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{"form":{},"url":{}},"sampling":{},"roots":{},"extensions":{"io.modelcontextprotocol/tasks":{}}}}}}
    <   to server: {"jsonrpc":"2.0","id":42,"method":"tools/call","params":{"_meta":{},"name":"x","task":{}}}
    < server: {"jsonrpc":"2.0","id":42,"error":{"code":-32601,"message":"No tasks"}}
    <   the request is sent again
    "#
    );
    // Nobody comes back for it.
    insta::assert_snapshot!(Dialogue::offered().server(ASKS).wait(WINDOW).server(made).gone().told(), @r#"
    > client: {"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"x","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{"form":{},"url":{}},"sampling":{},"roots":{},"extensions":{"io.modelcontextprotocol/tasks":{}}}}}}
    <   to server: {"jsonrpc":"2.0","id":42,"method":"tools/call","params":{"_meta":{},"name":"x","task":{}}}
    < server: {"jsonrpc":"2.0","id":"s/9","method":"elicitation/create","params":{"message":"Who?","requestedSchema":{}}}
    … 20ms
    >   asks, as the answer to 7: {"q1":{"method":"elicitation/create","params":{"message":"Who?","requestedSchema":{}}}}
    < server: {"jsonrpc":"2.0","id":42,"result":{"task":{"taskId":"t1","status":"working","ttl":null,"pollInterval":5}}}
    > client goes away
    <   to server: {"jsonrpc":"2.0","id":"s/9","result":{"action":"cancel"}}
    <   to server: {"jsonrpc":"2.0","id":45,"method":"tasks/cancel","params":{"taskId":"t1"}}
    "#);
}

/// Completion, and what neither of us knows: as they are, but for the envelope; what the server does not know is 404.
#[test]
fn what_is_not_known_goes_on() {
    let completion =
        Dialogue::begin("completion/complete", r#""ref":{"type":"ref/prompt","name":"p"},"context":{}"#, "")
            .server(r#"{{rpc},"id":42,"result":{"completion":{"values":["a"]}}}"#)
            .told();
    insta::assert_snapshot!(completion, @r#"
    > client: {"jsonrpc":"2.0","id":7,"method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"p"},"context":{},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{"form":{},"url":{}},"sampling":{},"roots":{}}}}}
    <   to server: {"jsonrpc":"2.0","id":42,"method":"completion/complete","params":{"ref":{"type":"ref/prompt","name":"p"},"context":{},"_meta":{}}}
    < server: {"jsonrpc":"2.0","id":42,"result":{"completion":{"values":["a"]}}}
    >   answer: {"jsonrpc":"2.0","id":7,"result":{"resultType":"complete","completion":{"values":["a"]}}}
    "#);
    let unknown = Dialogue::begin("vendor/x", r#""n":1.50"#, "")
        .server(r#"{{rpc},"id":42,"error":{"code":-32601,"message":"Method not found","data":1.50}}"#)
        .told();
    insta::assert_snapshot!(unknown, @r#"
    > client: {"jsonrpc":"2.0","id":7,"method":"vendor/x","params":{"n":1.50,"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{"form":{},"url":{}},"sampling":{},"roots":{}}}}}
    <   to server: {"jsonrpc":"2.0","id":42,"method":"vendor/x","params":{"n":1.50,"_meta":{}}}
    < server: {"jsonrpc":"2.0","id":42,"error":{"code":-32601,"message":"Method not found","data":1.50}}
    >   answer: {"jsonrpc":"2.0","id":7,"error":{"code":-32601,"message":"Method not found","data":1.50}}
    "#);
}

/// Discovery: what the handshake said.
#[test]
fn a_description() {
    let greeting = r#"{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{"listChanged":true},"logging":{},"tasks":{"requests":{"tools":{"call":{}}}}},"serverInfo":{"name":"s","version":"1"},"instructions":"Ask."}}"#;
    let id = RequestId::from_json("7").unwrap();
    let told = crate::bridge::modern_to_legacy::describe::discovered(&message(greeting), &id, 60_000, &[], true);
    let lines = [
        "> client: server/discover".to_owned(),
        format!("<   to server: {}", text(&Declared::default().handshake().request(1))),
        format!("< server: {greeting}"),
        format!(">   answer: {told}"),
    ];
    insta::assert_snapshot!(lines.join("\n"), @r#"
    > client: server/discover
    <   to server: {"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"shadowcat","version":"0.1.0"}}}
    < server: {"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{"listChanged":true},"logging":{},"tasks":{"requests":{"tools":{"call":{}}}}},"serverInfo":{"name":"s","version":"1"},"instructions":"Ask."}}
    >   answer: {"jsonrpc":"2.0","id":7,"result":{"_meta":{"io.modelcontextprotocol/serverInfo":{"name":"s","version":"1"}},"cacheScope":"private","capabilities":{"extensions":{"io.modelcontextprotocol/tasks":{}},"logging":{},"tools":{"listChanged":true}},"instructions":"Ask.","resultType":"complete","supportedVersions":["2026-07-28","2025-11-25","2025-06-18","2025-03-26","2024-11-05"],"ttlMs":60000}}
    "#);
}

/// Subscriptions: one stream for what the server says by itself.
#[test]
fn a_stream_of_notifications() {
    use crate::bridge::modern_to_legacy::listen::{Wishes, ended};
    use crate::bridge::sharing;

    let filter =
        r#""notifications":{"toolsListChanged":true,"promptsListChanged":true,"resourceSubscriptions":["a://b"]}"#;
    let listen = request("\"L\"", "subscriptions/listen", filter, "");
    let greeting = r#"{"jsonrpc":"2.0","id":1,"result":{"capabilities":{"tools":{"listChanged":true},"resources":{"subscribe":true}}}}"#;
    let (wishes, id) = (Wishes::of(&listen).granted(&message(greeting)), listen.id().unwrap());
    let subscribe = sharing::subscription(Known::ResourcesSubscribe, 2, &wishes.uris()[0]).unwrap();
    let mut lines = vec![
        format!("> client: {}", text(&listen)),
        format!("<   to server: {}", text(&subscribe)),
        r#"< server: {"jsonrpc":"2.0","id":2,"result":{}}"#.to_owned(),
        format!(">   to client: {}", text(&wishes.acknowledged(&id))),
    ];
    for said in [
        r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/prompts/list_changed"}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"a://b"}}"#,
    ] {
        lines.push(format!("< server: {said}"));
        let told = wishes.told(&message(said), &id);
        lines.push(told.map_or_else(
            || "!   not asked for, or not promised".into(),
            |told| format!(">   to client: {}", text(&told)),
        ));
    }
    lines.push("… the proxy stops".to_owned());
    lines.push(format!(">   answer: {}", text(&ended(&id))));
    insta::assert_snapshot!(lines.join("\n"), @r#"
    > client: {"jsonrpc":"2.0","id":"L","method":"subscriptions/listen","params":{"notifications":{"toolsListChanged":true,"promptsListChanged":true,"resourceSubscriptions":["a://b"]},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{"form":{},"url":{}},"sampling":{},"roots":{}}}}}
    <   to server: {"jsonrpc":"2.0","id":2,"method":"resources/subscribe","params":{"uri":"a://b"}}
    < server: {"jsonrpc":"2.0","id":2,"result":{}}
    >   to client: {"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":"L"},"notifications":{"resourceSubscriptions":["a://b"],"toolsListChanged":true}}}
    < server: {"jsonrpc":"2.0","method":"notifications/tools/list_changed"}
    >   to client: {"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":"L"}}}
    < server: {"jsonrpc":"2.0","method":"notifications/prompts/list_changed"}
    !   not asked for, or not promised
    < server: {"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"a://b"}}
    >   to client: {"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":"L"},"uri":"a://b"}}
    … the proxy stops
    >   answer: {"jsonrpc":"2.0","id":"L","result":{"resultType":"complete","_meta":{"io.modelcontextprotocol/subscriptionId":"L"}}}
    "#);
}
