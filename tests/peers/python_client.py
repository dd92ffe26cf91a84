"""Drives an MCP endpoint with the official Python SDK and prints one JSON line.

Called by the end-to-end tests, so that Bailiwick is judged by a client it did not write:

    python_client.py --url URL [--url URL2]... [--token T] [--era legacy|modern|auto] [--times N] list
    python_client.py ... call TOOL [ARGUMENTS-JSON]

With several URLs, the requests of the one session go to them in turn, as behind a load balancer without sticky
sessions: only host and port differ from request to request. The line on stdout is
`{"ok", "protocol_version", "server", "results": [...], "requests": {URL: count}}`, or, with exit status 1,
`{"ok": false, "error": {"code", "message", "data", "status"}}`, where `status` is that of the last POST.
"""

import argparse
import asyncio
import itertools
import json
import logging
import sys

import httpx2
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

MODES = {"legacy": "legacy", "modern": "2026-07-28", "auto": "auto"}
SESSION_SECONDS_MAX = 60


class InTurn(httpx2.AsyncBaseTransport):
    """Sends each request to the next of the URLs and remembers how often, and the last answer's status."""

    def __init__(self, urls):
        self.next_url = itertools.cycle([httpx2.URL(url) for url in urls])
        self.requests = {url: 0 for url in urls}
        self.status = None
        self.inner = httpx2.AsyncHTTPTransport()

    async def handle_async_request(self, request):
        url = next(self.next_url)
        self.requests[str(url)] += 1
        request.url = request.url.copy_with(host=url.host, port=url.port)
        request.headers["Host"] = url.netloc.decode()
        response = await self.inner.handle_async_request(request)
        if request.method == "POST":  # not the goodbye of a session
            self.status = response.status_code
        return response

    async def aclose(self):
        await self.inner.aclose()


def plain(value):
    return value.model_dump(mode="json", by_alias=True, exclude_none=True)


async def run(arguments, in_turn):
    headers = {"Authorization": f"Bearer {arguments.token}"} if arguments.token else {}
    http = create_mcp_http_client(headers=headers)
    http._transport = in_turn
    async with http:
        transport = streamable_http_client(arguments.url[0], http_client=http)
        async with Client(transport, mode=MODES[arguments.era]) as client:
            results = []
            for _ in range(arguments.times):
                if arguments.operation == "list":
                    results.append(plain(await client.list_tools(cache_mode="refresh")))
                else:
                    results.append(plain(await client.call_tool(arguments.tool, json.loads(arguments.arguments))))
            return {
                "ok": True,
                "protocol_version": client.protocol_version,
                "server": plain(client.server_info) if client.server_info else None,
                "results": results,
                "requests": in_turn.requests,
            }


def first_cause(error):
    """The SDK runs in task groups, which wrap what went wrong in groups of one."""
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    return error


def describe(error, status):
    error = first_cause(error)
    if isinstance(error, MCPError):
        described = {"code": error.code, "message": error.message, "data": error.data}
    else:
        described = {"code": None, "message": f"{type(error).__name__}: {error}", "data": None}
    return {"ok": False, "error": {**described, "status": status}}


def main():
    parser = argparse.ArgumentParser(description="One MCP session with the official Python SDK")
    parser.add_argument("--url", action="append", required=True)
    parser.add_argument("--token")
    parser.add_argument("--era", choices=MODES, default="auto")
    parser.add_argument("--times", type=int, default=1)
    operations = parser.add_subparsers(dest="operation", required=True)
    operations.add_parser("list")
    call = operations.add_parser("call")
    call.add_argument("tool")
    call.add_argument("arguments", nargs="?", default="{}")
    arguments = parser.parse_args()

    logging.disable(logging.CRITICAL)
    in_turn = InTurn(arguments.url)
    try:
        line = asyncio.run(asyncio.wait_for(run(arguments, in_turn), SESSION_SECONDS_MAX))
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        line = describe(error, in_turn.status)
    print(json.dumps(line))
    sys.exit(0 if line["ok"] else 1)


main()
