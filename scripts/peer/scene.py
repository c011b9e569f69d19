"""What the Python peers of scripts/peers have in common: the scene that the clients play, and what changes."""

import asyncio
import json
import os

HELLO = "test://hello"
PATIENCE_S = 10
AGAIN_S = 0.3


async def watch(tell):
    """Tells of changes for as long as it can. They are made outside, in a file: whoever calls `touch` need not be on
    the connection, or in the process, that somebody listens to."""
    known = os.stat(os.environ["CHANGES_FILE"]).st_size
    while True:
        await asyncio.sleep(0.05)
        size = os.stat(os.environ["CHANGES_FILE"]).st_size
        if size != known:
            await tell()
        known = size


class Ears:
    """What was heard, and a wait for it."""

    def __init__(self):
        self.heard, self.news = [], asyncio.Event()

    def hear(self, what):
        self.heard.append(what)
        self.news.set()

    async def at_least(self, count):
        while len(self.heard) < count:
            self.news.clear()
            await self.news.wait()
        return self.heard


async def play(user):
    """Plays the scene; `user` is how its SDK lets a client do things. What came of each step."""
    results = {}

    async def step(name, body):
        try:
            async with asyncio.timeout(PATIENCE_S):
                results[name] = {"seen": await body()}
        except TimeoutError:
            results[name] = {"error": "nothing came of it in time"}
        except NotImplementedError as error:
            results[name] = {"lacks": str(error)}
        except Exception as error:
            results[name] = {"error": f"{type(error).__name__}: {error}"}

    async def listed():
        names, cursor = [], None
        while True:
            page, cursor = await user.list(cursor)
            names += page
            if not cursor:
                return names

    async def progress():
        steps = []

        async def heard(done, total, message):
            steps.append([done, total, message])

        return [steps, await user.call("progress", {"steps": 3, "text": "step", "pause_ms": 0}, heard)]

    async def cancel():
        begun = Ears()

        async def heard(done, total, message):
            begun.hear(done)

        await user.cancel("wait", heard, begun)
        return "cancelled"

    async def update():
        async with user.subscribed(HELLO):
            # A server may acknowledge a subscription before it looks.
            while not user.updates.heard:
                await user.call("touch", {})
                await asyncio.wait([asyncio.ensure_future(user.updates.at_least(1))], timeout=AGAIN_S)
            return sorted(set(user.updates.heard))

    async def log():
        await user.logged("log", {"text": "x"})
        return list(await user.logs.at_least(1))

    await step("list", listed)
    await step("call", lambda: user.call("echo", {"text": "h\u00e9llo \U0001f600"}))
    await step("progress", progress)
    await step("cancel", cancel)
    await step("ask", lambda: user.call("ask", {"message": "Who is it?"}))
    await step("sample", lambda: user.call("sample", {}))
    await step("update", update)
    await step("log", log)
    return results


def report(version, results):
    print(json.dumps({"version": version, "results": results}), flush=True)
