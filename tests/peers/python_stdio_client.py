"""Drives an MCP server that is a program, with the official Python SDK, and prints one JSON line.

    python_stdio_client.py --era legacy|modern|auto TOOL PROGRAM [ARGUMENT...]

Lists the tools, then calls TOOL without arguments. The line is `{"ok", "protocol_version", "tools", "result"}`, or with
exit status 1 `{"ok": false, "error"}`. The program gets the SDK's usual environment.
"""

import argparse
import asyncio
import json
import sys

from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

MODES = {"legacy": "legacy", "modern": "2026-07-28", "auto": "auto"}
SESSION_SECONDS_MAX = 60


async def run(arguments):
    program = StdioServerParameters(command=arguments.program, args=arguments.arguments)
    async with Client(stdio_client(program), mode=MODES[arguments.era]) as client:
        listed = await client.list_tools()
        result = await client.call_tool(arguments.tool, {})
        return {
            "ok": not result.is_error,
            "protocol_version": client.protocol_version,
            "tools": [tool.name for tool in listed.tools],
            "result": result.model_dump(mode="json", by_alias=True, exclude_none=True),
        }


def main():
    parser = argparse.ArgumentParser(description="One MCP session with a program, with the official Python SDK")
    parser.add_argument("--era", choices=MODES, default="auto")
    parser.add_argument("tool")
    parser.add_argument("program")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    try:
        line = asyncio.run(asyncio.wait_for(run(parser.parse_args()), SESSION_SECONDS_MAX))
    except Exception as error:
        while isinstance(error, BaseExceptionGroup) and error.exceptions:
            error = error.exceptions[0]
        line = {"ok": False, "error": f"{type(error).__name__}: {error}"}
    print(json.dumps(line))
    sys.exit(0 if line["ok"] else 1)


main()
