"""A server on the official Python SDK over standard input and output, or over HTTP+SSE with `--sse PORT`.

Started by the end-to-end tests through Bailiwick, so that it is met by code that it was not written for.
"""

import sys

from mcp.server.mcpserver import Context, MCPServer

server = MCPServer("sdk")


@server.tool()
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


@server.tool()
async def work(steps: int, ctx: Context) -> str:
    """Reports progress."""
    for step in range(steps):
        await ctx.report_progress(step + 1, steps)
    return "done"


@server.prompt()
def greet(name: str) -> str:
    """Greets somebody."""
    return f"Say hello to {name}."


@server.resource("memo://today")
def today() -> str:
    """A resource."""
    return "a fine day"


if "--sse" in sys.argv:
    server.run("sse", port=int(sys.argv[sys.argv.index("--sse") + 1]))
else:
    server.run("stdio")
