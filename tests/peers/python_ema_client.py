"""Enterprise-Managed Authorization with the official Python SDK: from a person's ID token to a tool's answer.

    python_ema_client.py --idp ISSUER --id-token T --url URL --issuer ISSUER --client-id ID --secret S
                         [--scope WORDS] [--auth client_secret_post|client_secret_basic] call TOOL [ARGUMENTS-JSON]

The SDK's provider exchanges the assertion; getting one at the company's provider (RFC 8693) is left to its user, so it
is done here. The line on stdout is `{"ok", "tokens", "results": [...]}`, or, with exit status 1,
`{"ok": false, "error"}`.
"""

import argparse
import asyncio
import json
import logging
import sys

import httpx2
from mcp import Client
from mcp.client.auth import TokenStorage
from mcp.client.auth.extensions.identity_assertion import IdentityAssertionOAuthProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

# As idp.mjs knows the client (sign_in.mjs).
CLIENT_AT_PROVIDER = ("assistant-at-acme", "assistant-secret-at-acme")
SESSION_SECONDS_MAX = 60


class Kept(TokenStorage):
    """Keeps what the provider got."""

    def __init__(self):
        self.tokens = None

    async def get_tokens(self):
        return self.tokens

    async def set_tokens(self, tokens):
        self.tokens = tokens

    async def get_client_info(self):
        return None

    async def set_client_info(self, client_info):
        pass


async def assertion(arguments, audience, resource):
    client_id, client_secret = CLIENT_AT_PROVIDER
    form = {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "requested_token_type": "urn:ietf:params:oauth:token-type:id-jag",
        "audience": audience,
        "resource": resource,
        "subject_token": arguments.id_token,
        "subject_token_type": "urn:ietf:params:oauth:token-type:id_token",
        "client_id": client_id,
        "client_secret": client_secret,
    }
    if arguments.scope:
        form["scope"] = arguments.scope
    async with httpx2.AsyncClient() as http:
        answer = (await http.post(f"{arguments.idp}/token", data=form)).json()
    if "access_token" not in answer:
        raise RuntimeError(f"the company's provider refuses: {answer}")
    return answer["access_token"]


async def run(arguments):
    kept = Kept()
    provider = IdentityAssertionOAuthProvider(
        server_url=arguments.url,
        storage=kept,
        client_id=arguments.client_id,
        client_secret=arguments.secret,
        issuer=arguments.issuer,
        assertion_provider=lambda audience, resource: assertion(arguments, audience, resource),
        scope=arguments.scope,
        token_endpoint_auth_method=arguments.auth,
    )
    async with create_mcp_http_client(auth=provider) as http:
        async with Client(streamable_http_client(arguments.url, http_client=http)) as client:
            result = await client.call_tool(arguments.tool, json.loads(arguments.arguments))
    plain = {"mode": "json", "by_alias": True, "exclude_none": True}
    return {"ok": True, "tokens": kept.tokens.model_dump(**plain), "results": [result.model_dump(**plain)]}


def first_cause(error):
    """The SDK runs in task groups, which wrap what went wrong in groups of one."""
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    return error


def main():
    parser = argparse.ArgumentParser(description="One exchange and one call with the official Python SDK")
    for option in ("--idp", "--id-token", "--url", "--issuer", "--client-id", "--secret"):
        parser.add_argument(option, required=True)
    parser.add_argument("--scope")
    parser.add_argument("--auth", default="client_secret_post", choices=["client_secret_post", "client_secret_basic"])
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
    print(json.dumps(line))
    sys.exit(0 if line["ok"] else 1)


main()
