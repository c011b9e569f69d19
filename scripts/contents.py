"""What a client sees of the fixture, message by message: more than the suite looks at.

Many of the suite's scenarios pass on an answer that is merely polite: a list without entries, a text that says that
something failed. Here the same questions are asked of the fixture directly and through a proxy, in one revision, and
what comes back has to be the same.
"""

import base64
import http.client
import itertools
import json
import re
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

DEADLINE = 60
AT_ONCE = 6
META = "io.modelcontextprotocol/"
CAPABILITIES = {"sampling": {}, "elicitation": {}, "roots": {}}
PNG = "test_image_content"

ANSWERS = {
    "elicitation/create": {
        "action": "accept",
        "content": {"name": "Alice", "color": "blue", "ok": True, "context": "c", "response": "r\u00fc"},
    },
    "sampling/createMessage": {
        "role": "assistant",
        "model": "m",
        "content": {"type": "text", "text": "Paris"},
        "stopReason": "endTurn",
    },
    "roots/list": {"roots": [{"uri": "file:///home/\u00fc", "name": "home"}]},
}

# The form has to be filled in as its schema wants it: the fixture's SDK checks that in one era.
FORMS = {
    "test_elicitation_sep1034_defaults": {"name": "a", "age": 1, "score": 0.5, "verified": False, "status": "active"},
    "test_elicitation_sep1330_enums": {
        "untitledSingle": "option1",
        "titledSingle": "value1",
        "legacyEnum": "opt1",
        "untitledMulti": ["option1"],
        "titledMulti": ["value2"],
    },
}

CALLS = (
    ("test_simple_text", None),
    (PNG, {}),
    ("test_audio_content", {}),
    ("test_embedded_resource", {}),
    ("test_multiple_content_types", {}),
    ("test_error_handling", {}),
    ("test_x_mcp_header", {"region": "h\u00e9llo"}),
    ("echo", {"text": '\u00e9 \U0001f600 \u2028 "\\ \u0001'}),
    ("structured", {"a": 1, "b": 2}),
    ("fail", {}),
    ("test_no_such_tool", {}),
)
QUESTIONS = (
    ("test_elicitation", {"message": "Who?"}),
    ("test_sampling", {"prompt": "What?"}),
    ("test_elicitation_sep1034_defaults", {}),
    ("test_elicitation_sep1330_enums", {}),
    ("test_input_required_result_elicitation", {}),
    ("test_input_required_result_sampling", {}),
    ("test_input_required_result_list_roots", {}),
    ("test_input_required_result_request_state", {}),
    ("test_input_required_result_multiple_inputs", {}),
    ("test_input_required_result_multi_round", {}),
)
READS = ("test://static-text", "test://static-binary", "test://template/4%202/data", "test://no-such-resource")
PROMPTS = (
    ("test_simple_prompt", None),
    ("test_prompt_with_arguments", {"arg1": "a", "arg2": "\u00fc"}),
    ("test_prompt_with_embedded_resource", {"resourceUri": "test://x"}),
    ("test_prompt_with_image", None),
    ("test_input_required_result_prompt", None),
)


def accepted(content):
    return {"action": "accept", "content": content}


class Silent(Exception):
    """The server did not answer a request."""


SEVERAL = "ask several at once"
# What is seen of one call.
PARTS = ("said", "asked", "result", "error")

# What reading the contents of something that does not work can raise.
UNREADABLE = (Silent, OSError, ValueError, KeyError, AttributeError, TypeError, http.client.HTTPException)


def contents(url, revision):
    """What there is to see, by a name for each thing."""
    client = (Legacy if revision < "2026" else Modern)(url, revision)
    seen = {"hello": client.hello()}
    try:
        for method in ("tools/list", "prompts/list", "resources/list", "resources/templates/list"):
            seen[method] = client.ask(method, {})
        for name, arguments in CALLS:
            seen[f"call {name}"] = client.call(name, arguments)
        for name, arguments in QUESTIONS:
            seen[f"call {name}"] = client.call(name, arguments, accepted(FORMS[name]) if name in FORMS else None)
        for action in ("decline", "cancel"):
            seen[f"ask, and {action}"] = client.call("ask", {}, {"action": action})
        with ThreadPoolExecutor(AT_ONCE) as pool:
            calls = [pool.submit(client.call, "ask", {}, accepted({"name": f"number {n}"})) for n in range(AT_ONCE)]
            seen[SEVERAL] = [call.result() for call in calls]
        seen["progress"] = client.ask(
            "tools/call", {"name": "test_tool_with_progress", "_meta": {"progressToken": "t\u00f6ken"}}
        )
        seen["number as a progress token"] = client.ask(
            "tools/call", {"name": "test_tool_with_progress", "_meta": {"progressToken": 7}}
        )
        seen["log"] = client.logged("test_tool_with_logging")
        for uri in READS:
            seen[f"read {uri}"] = client.ask("resources/read", {"uri": uri})
        for name, arguments in PROMPTS:
            params = {"name": name} if arguments is None else {"name": name, "arguments": arguments}
            seen[f"get {name}"] = client.ask("prompts/get", params)
        reference = {"ref": {"type": "ref/prompt", "name": "test_prompt_with_arguments"}}
        seen["completion"] = client.ask(
            "completion/complete", {**reference, "argument": {"name": "arg1", "value": "x"}}
        )
        seen["no such method"] = client.ask("no/such/method", {})
    finally:
        client.leave()
    return seen


def differences(seen, direct, attributed=True):
    """What is not as it is directly, by name, each in one line. Where questions are not `attributed`, any of the calls
    that wait may be the one that is asked: over stdio a legacy server does not say which of them its question is
    about."""
    if not attributed:
        seen, direct = ({**each, SEVERAL: in_total(each.get(SEVERAL, []))} for each in (seen, direct))
    found = {}
    for name in direct.keys() | seen.keys():
        if seen.get(name) != direct.get(name):
            found[name] = difference(seen.get(name), direct.get(name), "")
    return dict(sorted(found.items()))


def difference(seen, direct, path):
    """The first place in which two values differ."""
    if isinstance(seen, dict) and isinstance(direct, dict):
        for key in sorted(direct.keys() | seen.keys()):
            if key not in seen or key not in direct:
                there = "is missing" if key not in seen else "is there in addition"
                return f"{path}/{key} {there}: {short(seen.get(key, direct.get(key)))}"
            if seen[key] != direct[key]:
                return difference(seen[key], direct[key], f"{path}/{key}")
    if isinstance(seen, list) and isinstance(direct, list):
        for n, (one, other) in enumerate(zip(seen, direct)):
            if one != other:
                return difference(one, other, f"{path}/{n}")
        return (
            f"{path or '/'} has {len(seen)} entries instead of {len(direct)}: {short(seen)} instead of {short(direct)}"
        )
    return f"{path or '/'}: {short(seen)} instead of {short(direct)}"


def short(value, limit=160):
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else text[:limit] + " \u2026"


class Client:
    """One client. What it has seen of a request: notifications, questions, and the result or error."""

    def __init__(self, url, revision):
        self.address, self.revision = urlsplit(url), revision
        self.ids = itertools.count(100)

    def post(self, body, headers):
        """The messages that answer, as they come, with the HTTP status before them."""
        connection = http.client.HTTPConnection(self.address.netloc, timeout=DEADLINE)
        headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream", **headers}
        try:
            connection.request("POST", self.address.path, json.dumps(body).encode(), headers)
            response = connection.getresponse()
            yield response
            if response.getheader("content-type", "").startswith("text/event-stream"):
                for line in response:
                    if line.startswith(b"data:") and line[5:].strip():
                        yield json.loads(line[5:])
            elif text := response.read():
                yield json.loads(text)
        finally:
            connection.close()

    def exchange(self, method, params, headers, answer=None):
        """Sends a request and reads to its end: what was said, what was asked, and how it ended."""
        number = next(self.ids)
        body = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        said, asked = [], []
        messages = self.post(body, headers)
        self.response = next(messages)
        for message in messages:
            if "method" not in message:
                if message.get("id") != number:
                    raise Silent(f"{method}: the answer has the id {message.get('id')!r} instead of {number}")
                ended = "error" if "error" in message else "result"
                return said, asked, {ended: message[ended]}
            if "id" in message:
                asked.append({"method": message["method"], "params": message.get("params", {})})
                answer(message)
            else:
                said.append({"method": message["method"], "params": message.get("params")})
        raise Silent(f"{method} has no answer, status {self.response.status}")

    def call(self, tool, arguments, elicited=None):
        params = {"name": tool} if arguments is None else {"name": tool, "arguments": arguments}
        return self.ask("tools/call", params, elicited)

    @staticmethod
    def answer_to(question, elicited):
        if elicited and question["method"] == "elicitation/create":
            return elicited
        return ANSWERS[question["method"]]


class Legacy(Client):
    session = None

    def headers(self):
        known = {"Mcp-Session-Id": self.session} if self.session else {}
        return {**known, "MCP-Protocol-Version": self.revision}

    def hello(self):
        info = {"name": "contents", "version": "1"}
        params = {"protocolVersion": self.revision, "capabilities": CAPABILITIES, "clientInfo": info}
        _, _, ended = self.exchange("initialize", params, {})
        self.session = self.response.getheader("mcp-session-id")
        self.tell({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return plain(ended)

    def tell(self, message):
        for _ in self.post(message, self.headers()):
            pass

    def ask(self, method, params, elicited=None):
        def answer(question):
            answer = self.answer_to(question, elicited)
            self.tell({"jsonrpc": "2.0", "id": question["id"], "result": answer})

        said, asked, ended = self.exchange(method, params, self.headers(), answer)
        return plain({"said": said, "asked": in_order(asked), **ended})

    def logged(self, tool):
        return [self.ask("logging/setLevel", {"level": "debug"}), self.ask("tools/call", {"name": tool})]

    def leave(self):
        connection = http.client.HTTPConnection(self.address.netloc, timeout=DEADLINE)
        connection.request("DELETE", self.address.path, headers=self.headers())
        connection.getresponse().read()
        connection.close()


class Modern(Client):
    def send(self, method, params, **meta):
        known = {
            f"{META}protocolVersion": self.revision,
            f"{META}clientInfo": {"name": "contents", "version": "1"},
            f"{META}clientCapabilities": CAPABILITIES,
        }
        params = {**params, "_meta": {**known, **meta, **params.get("_meta", {})}}
        headers = {"MCP-Protocol-Version": self.revision, "Mcp-Method": method}
        if name := params.get("name") or params.get("uri"):
            headers["Mcp-Name"] = name
        if region := params.get("arguments", {}).get("region"):
            headers["Mcp-Param-Region"] = f"=?base64?{base64.b64encode(region.encode()).decode()}?="
        return self.exchange(method, params, headers)

    def hello(self):
        _, _, ended = self.send("server/discover", {})
        # A proxy may serve more of them than the server does.
        served = ended.get("result", {}).pop("supportedVersions", ())
        info = ended.get("result", {}).get("_meta", {}).get(f"{META}serverInfo")
        return {**plain(ended), "serves": self.revision in served, "server": info}

    def ask(self, method, params, elicited=None, **meta):
        """Answers what it is asked for until there is a result; keys and states are the server's own business."""
        heard, questions, retry = [], [], {}
        for _ in range(8):
            said, _, ended = self.send(method, {**params, **retry}, **meta)
            heard += said
            result = ended.get("result", {})
            if result.get("resultType") != "input_required":
                return plain({"said": heard, "asked": questions, **ended})
            asked = result.get("inputRequests", {})
            questions += in_order([{"params": {}, **question} for question in asked.values()])
            retry = {"inputResponses": {key: self.answer_to(question, elicited) for key, question in asked.items()}}
            if "requestState" in result:
                retry["requestState"] = result["requestState"]
        raise Silent(f"{method} asks for ever")

    def logged(self, tool):
        return [
            self.ask("tools/call", {"name": tool}, **{f"{META}logLevel": level} if level else {})
            for level in ("debug", None)
        ]

    def leave(self):
        pass


def in_order(questions):
    """Those that are asked at once come in any order."""
    return sorted(questions, key=lambda question: json.dumps(question, sort_keys=True))


def in_total(calls):
    """What several calls came to, whichever of them it was."""
    total = {part: in_order(entry for call in calls for entry in listed(call.get(part))) for part in PARTS}
    # Who is asked for another gives an answer of its own.
    return json.loads(re.sub(r"\bnumber \d+", "number N", json.dumps(total)))


def listed(part):
    return part if isinstance(part, list) else [] if part is None else [part]


def plain(value):
    """Without what two servers may say differently: who they are in every result, and how long it may be kept."""
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    found = {key: plain(entry) for key, entry in value.items() if key != f"{META}serverInfo"}
    if found.get("_meta") == {}:
        del found["_meta"]
    for key, kind in (("ttlMs", int), ("cacheScope", str)):
        if isinstance(found.get(key), kind):
            found[key] = kind.__name__
    return found
