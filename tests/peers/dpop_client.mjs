// Clients of other people that bind tokens to a key of theirs (DPoP, RFC 9449): npm openid-client, npm oauth4webapi, and
// the official TypeScript SDK's own authorization code. Each makes its proofs and learns nonces by itself. Prints JSON
// lines; the exit status is 1 when the last one's `ok` is false.
//
//   dpop_client.mjs --url URL --redirect URI --client-id ID --library openid-client|oauth4webapi|sdk --alg ES256|EdDSA
//                   call TOOL
//
// The first line is {"authorize": URL}; it reads from stdin where the person's browser was sent back to. It redeems the
// code and refreshes with its key, calls the tool with the second token and its key, and tries to refresh with another.
// The last line is {"ok", "jkt", "tokens": [first, second], "result", "statuses": of what the MCP endpoint answered,
// "refused": word}, or {"ok": false, "error"}.

import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import * as sdk from '@modelcontextprotocol/client';
import { calculateJwkThumbprint, exportJWK } from 'jose';
import * as strict from 'oauth4webapi';
import * as relying from 'openid-client';

const OPTIONS = ['url', 'redirect', 'client-id', 'library', 'alg'];
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: Object.fromEntries(OPTIONS.map((name) => [name, { type: 'string' }])),
});
const [operation, tool] = positionals;
if (OPTIONS.some((name) => !values[name]) || operation !== 'call' || !tool) {
  console.error('usage: dpop_client.mjs --url URL --redirect URI --client-id ID --library NAME --alg ALG call TOOL');
  process.exit(2);
}
const SCOPE = 'mcp:read mcp:write';
const ALG = values.alg === 'EdDSA' ? 'Ed25519' : values.alg;
const MODERN = '2026-07-28';
const REQUEST_MILLISECONDS_MAX = 30_000;

function say(line) {
  return new Promise((resolve) => process.stdout.write(`${JSON.stringify(line)}\n`, resolve));
}

/** Sends the person to a URL; where their browser was sent back to. */
async function sentBack(url) {
  await say({ authorize: String(url) });
  const lines = createInterface({ input: process.stdin });
  const [callback] = await once(lines, 'line');
  lines.close();
  return new URL(callback);
}

async function thumbprint({ publicKey }) {
  return calculateJwkThumbprint(await exportJWK(publicKey));
}

/** The word of a refusal. */
async function refusal(promise, wordOf) {
  return promise.then(
    (given) => `given: ${JSON.stringify(given)}`,
    (error) => wordOf(error) ?? Promise.reject(error),
  );
}

const statuses = [];

/** Asks the MCP endpoint, and keeps what it answered. */
async function asked(url, options) {
  const response = await fetch(url, options);
  statuses.push(response.status);
  return response;
}

/** A call in one request, for libraries that know nothing of MCP: method, headers and body. */
function request() {
  const meta = {
    'io.modelcontextprotocol/protocolVersion': MODERN,
    'io.modelcontextprotocol/clientCapabilities': {},
    'io.modelcontextprotocol/clientInfo': { name: 'bailiwick-tests', version: '1.0.0' },
  };
  const params = { name: tool, arguments: {}, _meta: meta };
  const headers = new Headers({
    'content-type': 'application/json',
    accept: 'application/json, text/event-stream',
    'mcp-protocol-version': MODERN,
    'mcp-method': 'tools/call',
    'mcp-name': tool,
  });
  return { headers, body: JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'tools/call', params }) };
}

/** What the tool gave. */
async function resultOf(response) {
  const answer = await response.json();
  if (!answer.result) throw new Error(`${response.status}: ${JSON.stringify(answer)}`);
  return answer.result;
}

async function found() {
  const { resource, authorization_servers: servers } = await sdk.discoverOAuthProtectedResourceMetadata(values.url);
  return { resource, issuer: new URL(servers[0]) };
}

async function byOpenidClient() {
  const { resource, issuer } = await found();
  const plain = { algorithm: 'oauth2', execute: [relying.allowInsecureRequests] };
  const config = await relying.discovery(issuer, values['client-id'], undefined, relying.None(), plain);
  const keys = await relying.randomDPoPKeyPair(ALG);
  const DPoP = relying.getDPoPHandle(config, keys);
  const checks = { pkceCodeVerifier: relying.randomPKCECodeVerifier(), expectedState: relying.randomState() };
  const parameters = {
    redirect_uri: values.redirect,
    code_challenge: await relying.calculatePKCECodeChallenge(checks.pkceCodeVerifier),
    code_challenge_method: 'S256',
    scope: SCOPE,
    resource,
    state: checks.expectedState,
    dpop_jkt: await DPoP.calculateThumbprint(),
  };
  const callback = await sentBack(relying.buildAuthorizationUrl(config, parameters));
  const first = await relying.authorizationCodeGrant(config, callback, checks, { resource }, { DPoP });
  const second = await relying.refreshTokenGrant(config, first.refresh_token, { resource }, { DPoP });
  const { headers, body } = request();
  const how = [new URL(values.url), 'POST', body, headers, { DPoP }];
  config[relying.customFetch] = asked;
  const result = await resultOf(await relying.fetchProtectedResource(config, second.access_token, ...how));
  config[relying.customFetch] = undefined;
  const other = relying.getDPoPHandle(config, await relying.randomDPoPKeyPair(ALG));
  const refused = relying.refreshTokenGrant(config, second.refresh_token, { resource }, { DPoP: other });
  const word = await refusal(refused, ({ error }) => error);
  return { jkt: await thumbprint(keys), tokens: [first, second], result, refused: word };
}

async function byOauth4webapi() {
  const { resource, issuer } = await found();
  const plain = { [strict.allowInsecureRequests]: true };
  const answer = await strict.discoveryRequest(issuer, { algorithm: 'oauth2', ...plain });
  const server = await strict.processDiscoveryResponse(issuer, answer);
  const offered = server.dpop_signing_alg_values_supported;
  if (!offered.includes(values.alg)) throw new Error(`${values.alg} is not among ${offered}`);
  const client = { client_id: values['client-id'] };
  const keys = await strict.generateKeyPair(ALG);
  const verifier = strict.generateRandomCodeVerifier();
  const state = strict.generateRandomState();
  const url = new URL(server.authorization_endpoint);
  url.search = new URLSearchParams({
    client_id: client.client_id,
    redirect_uri: values.redirect,
    response_type: 'code',
    code_challenge: await strict.calculatePKCECodeChallenge(verifier),
    code_challenge_method: 'S256',
    scope: SCOPE,
    resource,
    state,
  });
  const given = strict.validateAuthResponse(server, client, await sentBack(url), state);
  // With each handle: once without a nonce, which is refused with one, and again.
  const twice = async (DPoP, ask) => {
    try {
      return await ask(DPoP);
    } catch (error) {
      if (!strict.isDPoPNonceError(error)) throw error;
      return ask(DPoP);
    }
  };
  const options = { ...plain, additionalParameters: { resource } };
  const redeem = async (DPoP) => {
    const by = [server, client, strict.None(), given, values.redirect, verifier];
    const answer = await strict.authorizationCodeGrantRequest(...by, { ...options, DPoP });
    return strict.processAuthorizationCodeResponse(server, client, answer);
  };
  const refresh = (token) => async (DPoP) => {
    const answer = await strict.refreshTokenGrantRequest(server, client, strict.None(), token, { ...options, DPoP });
    return strict.processRefreshTokenResponse(server, client, answer);
  };
  const own = strict.DPoP(client, keys);
  const first = await twice(own, redeem);
  const second = await twice(own, refresh(first.refresh_token));
  const call = (DPoP) => {
    const { headers, body } = request();
    const how = { DPoP, ...plain, [strict.customFetch]: asked };
    return strict.protectedResourceRequest(second.access_token, 'POST', new URL(values.url), headers, body, how);
  };
  const result = await resultOf(await twice(own, call));
  const other = strict.DPoP(client, await strict.generateKeyPair(ALG));
  const refused = twice(other, refresh(second.refresh_token));
  const word = await refusal(refused, ({ error }) => error);
  return { jkt: await thumbprint(keys), tokens: [first, second], result, refused: word };
}

/** What the SDK keeps between its requests, with a key. */
class Kept {
  redirectUrl = values.redirect;
  clientMetadata = { client_name: 'bailiwick-tests', redirect_uris: [values.redirect], scope: SCOPE };
  #kept = {};

  constructor(session) {
    this.session = session;
  }

  dpop = () => this.session;
  state = () => 'st-1';
  clientInformation = () => ({ client_id: values['client-id'], token_endpoint_auth_method: 'none' });
  tokens = () => this.#kept.tokens;
  saveTokens = (tokens) => void (this.#kept.tokens = tokens);
  codeVerifier = () => this.#kept.verifier;
  saveCodeVerifier = (verifier) => void (this.#kept.verifier = verifier);
  discoveryState = () => this.#kept.discovery;
  saveDiscoveryState = (discovery) => void (this.#kept.discovery = discovery);
  redirectToAuthorization = (url) => void (this.asked = url);
}

/** A call over the SDK's own transport, which makes the proofs. */
async function callBySdk(kept) {
  const client = new sdk.Client({ name: 'bailiwick-tests', version: '1.0.0' });
  const transport = new sdk.StreamableHTTPClientTransport(new URL(values.url), { authProvider: kept, fetch: asked });
  const options = { timeout: REQUEST_MILLISECONDS_MAX };
  await client.connect(transport, options);
  try {
    return await client.callTool({ name: tool, arguments: {} }, options);
  } finally {
    await client.close();
  }
}

async function bySdk() {
  const session = await sdk.DpopSession.create({ alg: values.alg });
  const kept = new Kept(session);
  const serverUrl = values.url;
  if ((await sdk.auth(kept, { serverUrl, scope: SCOPE })) !== 'REDIRECT') throw new Error('nobody is asked');
  const callback = await sentBack(kept.asked);
  const { code, iss } = Object.fromEntries(callback.searchParams);
  await sdk.auth(kept, { serverUrl, authorizationCode: code, iss, scope: SCOPE });
  const first = kept.tokens();
  await sdk.auth(kept, { serverUrl, scope: SCOPE });
  const second = kept.tokens();
  const result = await callBySdk(kept);
  kept.session = await sdk.DpopSession.create({ alg: values.alg });
  kept.asked = null;
  // Refused, the SDK throws the grant away and would have the person asked again.
  const refused = await sdk.auth(kept, { serverUrl, scope: SCOPE }).then(
    (word) => (word === 'REDIRECT' ? 'invalid_grant' : word),
    (error) => error.code ?? error.errorCode ?? error.message,
  );
  return { jkt: session.thumbprint, tokens: [first, second], result, refused };
}

const ways = { 'openid-client': byOpenidClient, oauth4webapi: byOauth4webapi, sdk: bySdk };
const line = await ways[values.library]().then(
  (done) => ({ ok: true, statuses, ...done }),
  (error) => ({
    ok: false,
    error: { name: error.name, message: error.message, code: error.code ?? null, cause: String(error.cause ?? '') },
  }),
);
await say(line);
process.exit(line.ok ? 0 : 1);
