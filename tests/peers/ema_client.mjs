// Enterprise-Managed Authorization with other people's clients: from a person's ID token to a tool's answer.
// Prints one JSON line; the exit status is 1 when `ok` is false.
//
//   ema_client.mjs --as sdk --idp ISSUER --id-token T --url URL --client-id ID --secret S [--scope W] call TOOL [JSON]
//   ema_client.mjs --as bare ...
//   ema_client.mjs --as strict ... [--auth basic|post|key] [--key PKCS8-PEM-FILE]
//
// `sdk` is the official TypeScript client with its CrossAppAccessProvider: it is given the URL and finds the rest.
// `bare` is that SDK's exchangeJwtAuthGrant, which names neither resource nor scope. `strict` is npm oauth4webapi: both
// exchanges, and it checks metadata, the answer and the access token by RFC 8414, 9728, 6749 and 9068.
// The line is {"ok", "tokens", "claims", "results"}, or {"ok": false, "error"}.

import { readFileSync } from 'node:fs';
import { createPrivateKey } from 'node:crypto';
import { parseArgs } from 'node:util';
import * as sdk from '@modelcontextprotocol/client';
import * as oauth from 'oauth4webapi';
import { decodeJwt } from 'jose';
import { AT_PROVIDER } from './sign_in.mjs';

const JWT_BEARER = 'urn:ietf:params:oauth:grant-type:jwt-bearer';
const REQUEST_MILLISECONDS_MAX = 30_000;
const OPTIONS = ['as', 'idp', 'id-token', 'url', 'client-id', 'secret', 'scope', 'auth', 'key'];
const plain = { [oauth.allowInsecureRequests]: true };

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: Object.fromEntries(OPTIONS.map((name) => [name, { type: 'string' }])),
});
const [operation, tool, toolArguments = '{}'] = positionals;
if (!values.as || !values.url || operation !== 'call' || !tool) {
  console.error('usage: ema_client.mjs --as sdk|bare|strict OPTIONS… call TOOL [JSON]');
  process.exit(2);
}
const clientId = values['client-id'];

/** The assertion, by the SDK's helper for the provider's side. */
async function assertionFor(audience, resource, scope) {
  const granted = await sdk.discoverAndRequestJwtAuthGrant({
    idpUrl: values.idp,
    audience,
    resource,
    idToken: values['id-token'],
    clientId: AT_PROVIDER.clientId,
    clientSecret: AT_PROVIDER.clientSecret,
    scope,
  });
  return granted.jwtAuthGrant;
}

/** Calls the tool; `tokens` is asked afterwards, as the SDK gets them on the way. */
async function call(transportOptions, tokens) {
  const client = new sdk.Client({ name: 'bailiwick-tests', version: '1.0.0' });
  const transport = new sdk.StreamableHTTPClientTransport(new URL(values.url), transportOptions);
  const options = { timeout: REQUEST_MILLISECONDS_MAX };
  await client.connect(transport, options);
  try {
    const result = await client.callTool({ name: tool, arguments: JSON.parse(toolArguments) }, options);
    return { ok: true, tokens: tokens(), claims: decodeJwt(tokens().access_token), results: [result] };
  } finally {
    await client.close();
  }
}

/** With a token that is there already. */
function bearing(tokens) {
  const headers = { Authorization: `Bearer ${tokens.access_token}` };
  return call({ requestInit: { headers } }, () => tokens);
}

async function bySdk() {
  const resource = await sdk.discoverOAuthProtectedResourceMetadata(values.url);
  const provider = new sdk.CrossAppAccessProvider({
    assertion: (found) => assertionFor(found.authorizationServerUrl, found.resourceUrl, values.scope ?? found.scope),
    clientId,
    clientSecret: values.secret,
    expectedIssuer: resource.authorization_servers[0],
  });
  return call({ authProvider: provider }, () => provider.tokens());
}

async function byBareHelper() {
  const { resourceMetadata, authorizationServerMetadata: server } = await sdk.discoverOAuthServerInfo(values.url);
  const jwtAuthGrant = await assertionFor(server.issuer, resourceMetadata.resource, values.scope);
  const tokenEndpoint = server.token_endpoint;
  const clientSecret = values.secret;
  return bearing(await sdk.exchangeJwtAuthGrant({ tokenEndpoint, jwtAuthGrant, clientId, clientSecret }));
}

async function clientAuthentication() {
  if (values.auth === 'post') return oauth.ClientSecretPost(values.secret);
  if (values.auth !== 'key') return oauth.ClientSecretBasic(values.secret);
  const der = createPrivateKey(readFileSync(values.key)).export({ type: 'pkcs8', format: 'der' });
  const usage = { name: 'ECDSA', namedCurve: 'P-256' };
  return oauth.PrivateKeyJwt(await crypto.subtle.importKey('pkcs8', der, usage, false, ['sign']));
}

async function byStrictParty() {
  const url = new URL(values.url);
  const found = await oauth.resourceDiscoveryRequest(url, plain);
  const resource = await oauth.processResourceDiscoveryResponse(url, found);
  const issuer = new URL(resource.authorization_servers[0]);
  const discovered = await oauth.discoveryRequest(issuer, { algorithm: 'oauth2', ...plain });
  const server = await oauth.processDiscoveryResponse(issuer, discovered);
  const assertion = await assertionFor(server.issuer, resource.resource, values.scope);
  const client = { client_id: clientId };
  const parameters = { assertion, resource: resource.resource, ...(values.scope ? { scope: values.scope } : {}) };
  const authentication = await clientAuthentication();
  const asked = await oauth.genericTokenEndpointRequest(server, client, authentication, JWT_BEARER, parameters, plain);
  const cache = asked.headers.get('cache-control');
  const tokens = await oauth.processGenericTokenEndpointResponse(server, client, asked);
  const request = new Request(url, { headers: { Authorization: `Bearer ${tokens.access_token}` } });
  await oauth.validateJwtAccessToken(server, request, resource.resource, plain);
  return { ...(await bearing(tokens)), server, cache };
}

const ways = { sdk: bySdk, bare: byBareHelper, strict: byStrictParty };
const line = await ways[values.as]().catch((error) => ({
  ok: false,
  error: { name: error.name, message: error.message, oauth: error.error ?? error.cause?.error ?? null },
}));
process.stdout.write(`${JSON.stringify(line)}\n`, () => process.exit(line.ok ? 0 : 1));
