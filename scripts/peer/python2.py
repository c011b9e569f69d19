"""The Python SDK 2.x as a client of scripts/peers; ERA is legacy or modern. Its server is the fixture.

python2.py client URL ERA
"""

import asyncio
import sys
from contextlib import asynccontextmanager

import scene
from mcp import Client
from mcp import types as t


class User:
    def __init__(self, url, era):
        self.era, self.updates, self.logs = era, scene.Ears(), scene.Ears()
        self.client = Client(
            url,
            mode="2026-07-28" if era == "modern" else "legacy",
            sampling_callback=self.sample,
            elicitation_callback=self.elicit,
            logging_callback=self.log,
            log_level="debug",
            message_handler=self.hear,
            cache=None,
        )

    async def sample(self, context, params):
        return t.CreateMessageResult(role="assistant", model="m", content=t.TextContent(type="text", text="sampled"))

    async def elicit(self, context, params):
        return t.ElicitResult(action="accept", content={"name": "Alice"})

    async def log(self, params):
        self.logs.hear([params.level, params.data["a"]])

    async def hear(self, message):
        if isinstance(message, t.ResourceUpdatedNotification):
            self.updates.hear(str(message.params.uri))

    async def list(self, cursor):
        page = await self.client.list_tools(cursor=cursor)
        return [tool.name for tool in page.tools], page.next_cursor

    async def call(self, name, arguments, progress=None):
        result = await self.client.call_tool(name, arguments, progress_callback=progress)
        return result.content[0].text

    async def cancel(self, name, progress, begun):
        call = asyncio.create_task(self.call(name, {}, progress))
        heard = asyncio.create_task(begun.at_least(1))
        await asyncio.wait([call, heard], return_when=asyncio.FIRST_COMPLETED)
        heard.cancel()
        if call.done():
            raise RuntimeError(f"it ended by itself: {call.result()}")
        call.cancel()
        await asyncio.wait([call])

    @asynccontextmanager
    async def subscribed(self, uri):
        if self.era == "modern":
            async with self.client.listen(resource_subscriptions=[uri]):
                yield
        else:
            await self.client.subscribe_resource(uri)
            yield
            await self.client.unsubscribe_resource(uri)

    async def logged(self, name, arguments):
        if self.era == "legacy":
            await self.client.set_logging_level("debug")
        await self.call(name, arguments)


async def main(url, era):
    user = User(url, era)
    async with user.client:
        results = await scene.play(user)
        version = user.client.protocol_version
    scene.report(version, results)


asyncio.run(main(*sys.argv[2:]))
