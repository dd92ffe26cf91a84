"""The official Python SDK, sent away with 401 by an MCP endpoint: it asks a person, and goes on by itself.

    python_oauth_client.py --url URL --redirect URI [--client-id ID [--secret S]] [--method WORD]
                           call TOOL [ARGUMENTS-JSON]

Without `--client-id` it registers itself (RFC 7591); `--method` is then its token_endpoint_auth_method. The lines are
those of `oauth_client.mjs`: `{"authorize": URL}`, then from stdin where the person's browser was sent back to, and last
`{"ok", "client", "tokens": [first, second], "tools", "results", "asked"}`, or, with exit status 1,
`{"ok": false, "error"}`. Between its two calls the access token expires, as far as the SDK knows.
"""

import argparse
import asyncio
import json
import logging
import sys
from urllib.parse import parse_qs, urlsplit

from mcp import Client
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider, TokenStorage
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata

SESSION_SECONDS_MAX = 120
PLAIN = {"mode": "json", "by_alias": True, "exclude_none": True}


class Kept(TokenStorage):
    """Keeps in memory what the provider got, each set of tokens."""

    def __init__(self, client_info):
        self.tokens = []
        self.client_info = client_info

    async def get_tokens(self):
        return self.tokens[-1] if self.tokens else None

    async def set_tokens(self, tokens):
        self.tokens.append(tokens)

    async def get_client_info(self):
        return self.client_info

    async def set_client_info(self, client_info):
        self.client_info = client_info


class Person:
    """Whoever reads our lines goes there, and says where they were sent back to."""

    def __init__(self):
        self.asked = 0

    async def go(self, url):
        self.asked += 1
        print(json.dumps({"authorize": url}), flush=True)

    async def came_back(self):
        callback = (await asyncio.to_thread(sys.stdin.readline)).strip()
        said = {name: values[0] for name, values in parse_qs(urlsplit(callback).query).items()}
        if "code" not in said:
            raise RuntimeError(f"the person was sent back without a code: {said}")
        return AuthorizationCodeResult(code=said["code"], state=said.get("state"), iss=said.get("iss"))


def registered(arguments):
    """Who it is already; `None` if it has to register."""
    if not arguments.client_id:
        return None
    return OAuthClientInformationFull(
        client_id=arguments.client_id,
        client_secret=arguments.secret,
        token_endpoint_auth_method=arguments.method,
        redirect_uris=[arguments.redirect],
    )


async def run(arguments):
    kept, person = Kept(registered(arguments)), Person()
    metadata = OAuthClientMetadata(
        client_name="bailiwick-tests",
        redirect_uris=[arguments.redirect],
        token_endpoint_auth_method=arguments.method,
    )
    provider = OAuthClientProvider(arguments.url, metadata, kept, person.go, person.came_back)
    call = (arguments.tool, json.loads(arguments.arguments))
    async with create_mcp_http_client(auth=provider) as http:
        async with Client(streamable_http_client(arguments.url, http_client=http)) as client:
            tools = [tool.name for tool in (await client.list_tools()).tools]
            results = [await client.call_tool(*call)]
            # The SDK refreshes when the token's time is over, whatever the server would say of it.
            provider.context.token_expiry_time = 1
            results.append(await client.call_tool(*call))
    return {
        "ok": True,
        "client": kept.client_info.model_dump(**PLAIN),
        "tokens": [tokens.model_dump(**PLAIN) for tokens in kept.tokens],
        "tools": tools,
        "results": [result.model_dump(**PLAIN) for result in results],
        "asked": person.asked,
    }


def first_cause(error):
    """The SDK runs in task groups, which wrap what went wrong in groups of one."""
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    return error


def main():
    parser = argparse.ArgumentParser(description="A person's authorization with the official Python SDK")
    for option in ("--url", "--redirect"):
        parser.add_argument(option, required=True)
    for option in ("--client-id", "--secret"):
        parser.add_argument(option)
    parser.add_argument("--method", choices=["none", "client_secret_basic", "client_secret_post"])
    operations = parser.add_subparsers(dest="operation", required=True)
    call = operations.add_parser("call")
    call.add_argument("tool")
    call.add_argument("arguments", nargs="?", default="{}")
    arguments = parser.parse_args()

    logging.disable(logging.CRITICAL)
    try:
        line = asyncio.run(asyncio.wait_for(run(arguments), SESSION_SECONDS_MAX))
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        error = first_cause(error)
        line = {"ok": False, "error": {"name": type(error).__name__, "message": str(error)}}
    print(json.dumps(line), flush=True)
    sys.exit(0 if line["ok"] else 1)


main()
