"""What a user of the Python SDK would write: connect, list, call, read, get; a JSON report on stdout.

python.py URL TASK MODE     TASK: the names to use, as try-clients writes them; MODE: legacy | auto
"""

import asyncio
import json
import sys

from mcp import Client


async def main(url, task, mode):
    progress = []

    async def on_progress(done, total, message):
        progress.append([done, total])

    async with Client(url, mode=mode) as client:
        tools = await client.list_tools()
        called = await client.call_tool(task["tool"], task["arguments"], progress_callback=on_progress)
        read = await client.read_resource(task["resource"])
        got = await client.get_prompt(task["prompt"], task["promptArguments"])
        report = {
            "version": client.protocol_version,
            "server": client.server_info and client.server_info.name,
            "tools": {tool.name: tool.input_schema for tool in tools.tools},
            "progress": progress,
            "called": called.content[0].text,
            "read": [read.contents[0].mime_type, read.contents[0].text],
            "got": [[message.role, message.content.text] for message in got.messages],
        }
    print(json.dumps(report))


asyncio.run(main(sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]))
