"""The Python SDK 1.x as a peer of scripts/peers.

python1.py client URL | server stdio | server http PORT
"""

import asyncio
import os
import sys
from contextlib import asynccontextmanager

import mcp.types as t
import scene
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.server.fastmcp import Context, FastMCP
from pydantic import AnyUrl, BaseModel

# ---- the server ----

server = FastMCP("peer", log_level="WARNING")
watching = {}


class Name(BaseModel):
    name: str


@server.tool()
def echo(text: str) -> str:
    return text


@server.tool()
async def progress(steps: int, text: str, ctx: Context, pause_ms: int = 0) -> str:
    for step in range(1, steps + 1):
        await ctx.report_progress(step, steps, text)
        await asyncio.sleep(pause_ms / 1000)
    return f"{steps} steps"


@server.tool()
async def wait(ctx: Context) -> str:
    await ctx.report_progress(1)
    try:
        await asyncio.sleep(60)
    except BaseException:
        with open(os.environ["CANCELLED_FILE"], "a") as file:
            file.write("cancelled\n")
        raise
    return "never cancelled"


@server.tool()
async def ask(message: str, ctx: Context) -> str:
    answer = await ctx.elicit(message, Name)
    return f"{answer.action} {answer.data.name}"


@server.tool()
async def sample(ctx: Context) -> str:
    question = t.SamplingMessage(role="user", content=t.TextContent(type="text", text="?"))
    answer = await ctx.session.create_message([question], max_tokens=10, related_request_id=ctx.request_id)
    return answer.content.text


@server.tool()
async def log(text: str, ctx: Context) -> str:
    await ctx.session.send_log_message("warning", {"a": text}, "peer", related_request_id=ctx.request_id)
    return "logged"


@server.tool()
async def touch() -> str:
    with open(os.environ["CHANGES_FILE"], "a") as file:
        file.write("changed\n")
    return "touched"


@server.resource(scene.HELLO)
def hello() -> str:
    return "h\u00e9llo"


@server._mcp_server.subscribe_resource()
async def subscribe(uri):
    session = server._mcp_server.request_context.session
    watching[session] = asyncio.create_task(scene.watch(lambda: session.send_resource_updated(uri)))


@server._mcp_server.unsubscribe_resource()
async def unsubscribe(uri):
    watching.pop(server._mcp_server.request_context.session).cancel()


@server._mcp_server.set_logging_level()
async def set_logging_level(level):
    pass


# ---- the client ----


class User:
    def __init__(self):
        self.updates, self.logs = scene.Ears(), scene.Ears()

    async def sample(self, context, params):
        return t.CreateMessageResult(role="assistant", model="m", content=t.TextContent(type="text", text="sampled"))

    async def elicit(self, context, params):
        return t.ElicitResult(action="accept", content={"name": "Alice"})

    async def log(self, params):
        self.logs.hear([params.level, params.data["a"]])

    async def hear(self, message):
        if isinstance(message, t.ServerNotification) and isinstance(message.root, t.ResourceUpdatedNotification):
            self.updates.hear(str(message.root.params.uri))

    async def list(self, cursor):
        page = await self.session.list_tools(params=t.PaginatedRequestParams(cursor=cursor))
        return [tool.name for tool in page.tools], page.nextCursor

    async def call(self, name, arguments, progress=None):
        return (await self.session.call_tool(name, arguments, progress_callback=progress)).content[0].text

    async def cancel(self, name, progress, begun):
        raise NotImplementedError("the SDK's client has nothing to cancel with")

    @asynccontextmanager
    async def subscribed(self, uri):
        await self.session.subscribe_resource(AnyUrl(uri))
        yield
        await self.session.unsubscribe_resource(AnyUrl(uri))

    async def logged(self, name, arguments):
        await self.session.set_logging_level("debug")
        await self.call(name, arguments)


async def client(url):
    user = User()
    async with streamable_http_client(url) as (read, write, _):
        async with ClientSession(
            read,
            write,
            sampling_callback=user.sample,
            elicitation_callback=user.elicit,
            logging_callback=user.log,
            message_handler=user.hear,
        ) as user.session:
            hello = await user.session.initialize()
            results = await scene.play(user)
    scene.report(hello.protocolVersion, results)


if __name__ == "__main__":
    role, where, *port = sys.argv[1:]
    if role == "client":
        asyncio.run(client(where))
    elif where == "stdio":
        server.run("stdio")
    else:
        server.settings.port = int(port[0])
        server.run("streamable-http")
