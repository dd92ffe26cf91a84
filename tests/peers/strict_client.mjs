// A strict relying party, npm oauth4webapi: it checks what it gets by RFC 6749, 7009, 7591, 7636, 7662, 8414, 9068,
// 9207 and 9728. Prints JSON lines; the exit status is 1 when the last one's `ok` is false.
//
//   strict_client.mjs --url URL --redirect URI --auth none|basic|post|key [--client-id ID] [--proof SECRET-OR-FILE]
//                     call TOOL [ARGUMENTS-JSON]
//
// Without --client-id it registers itself. The first line is {"authorize": URL}; it reads from stdin where the person's
// browser was sent back to. It redeems the code, calls the tool, refreshes, calls again, asks about its tokens, revokes
// them, and tries what is over by then. The last line is {"ok", "client", "tokens": [first, second], "claims",
// "results", "told": {"live", "revoked": [of the access token, of the refresh token]}, "refused": {what: word}}, or
// {"ok": false, "error"}. A client that proves nothing is told nothing: `told` is then the word of its refusal.

import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createPrivateKey } from 'node:crypto';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import * as sdk from '@modelcontextprotocol/client';
import * as oauth from 'oauth4webapi';

const REQUEST_MILLISECONDS_MAX = 30_000;
const OPTIONS = ['url', 'redirect', 'auth', 'client-id', 'proof'];
const METHODS = { none: 'none', basic: 'client_secret_basic', post: 'client_secret_post', key: 'private_key_jwt' };
const plain = { [oauth.allowInsecureRequests]: true };

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: Object.fromEntries(OPTIONS.map((name) => [name, { type: 'string' }])),
});
const [operation, tool, toolArguments = '{}'] = positionals;
if (!values.url || !values.redirect || !(values.auth in METHODS) || operation !== 'call' || !tool) {
  console.error('usage: strict_client.mjs --url URL --redirect URI --auth WAY OPTIONS… call TOOL [JSON]');
  process.exit(2);
}

function say(line) {
  return new Promise((resolve) => process.stdout.write(`${JSON.stringify(line)}\n`, resolve));
}

async function discovered() {
  const url = new URL(values.url);
  const found = await oauth.resourceDiscoveryRequest(url, plain);
  const { resource, authorization_servers: servers } = await oauth.processResourceDiscoveryResponse(url, found);
  const issuer = new URL(servers[0]);
  const answer = await oauth.discoveryRequest(issuer, { algorithm: 'oauth2', ...plain });
  const server = await oauth.processDiscoveryResponse(issuer, answer);
  const has = (name, word) => server[name]?.includes(word) || Promise.reject(new Error(`${name} lacks ${word}`));
  await has('code_challenge_methods_supported', 'S256');
  for (const endpoint of ['token', 'revocation']) {
    await has(`${endpoint}_endpoint_auth_methods_supported`, METHODS[values.auth]);
  }
  return { server, resource };
}

async function registered(server) {
  if (values['client-id']) return { client_id: values['client-id'] };
  const metadata = {
    client_name: 'bailiwick-tests',
    redirect_uris: [values.redirect],
    token_endpoint_auth_method: METHODS[values.auth],
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
    application_type: 'native',
  };
  const answer = await oauth.dynamicClientRegistrationRequest(server, metadata, plain);
  return oauth.processDynamicClientRegistrationResponse(answer);
}

async function authentication(client) {
  if (values.auth === 'none') return oauth.None();
  const secret = client.client_secret ?? values.proof;
  if (values.auth === 'basic') return oauth.ClientSecretBasic(secret);
  if (values.auth === 'post') return oauth.ClientSecretPost(secret);
  const der = createPrivateKey(readFileSync(values.proof)).export({ type: 'pkcs8', format: 'der' });
  const usage = { name: 'ECDSA', namedCurve: 'P-256' };
  return oauth.PrivateKeyJwt(await crypto.subtle.importKey('pkcs8', der, usage, false, ['sign']));
}

/** The parameters of an answer that this server gave to this client; with the verifier of its request. */
async function answered({ server, resource }, client) {
  const verifier = oauth.generateRandomCodeVerifier();
  const state = oauth.generateRandomState();
  const request = new URL(server.authorization_endpoint);
  const parameters = {
    response_type: 'code',
    client_id: client.client_id,
    redirect_uri: values.redirect,
    code_challenge: await oauth.calculatePKCECodeChallenge(verifier),
    code_challenge_method: 'S256',
    scope: 'mcp:read mcp:write',
    resource,
    state,
  };
  for (const [name, value] of Object.entries(parameters)) request.searchParams.set(name, value);
  await say({ authorize: request.href });
  const lines = createInterface({ input: process.stdin });
  const [callback] = await once(lines, 'line');
  lines.close();
  return { verifier, parameters: oauth.validateAuthResponse(server, client, new URL(callback), state) };
}

async function call(tokens) {
  const client = new sdk.Client({ name: 'bailiwick-tests', version: '1.0.0' });
  const requestInit = { headers: { Authorization: `Bearer ${tokens.access_token}` } };
  const options = { timeout: REQUEST_MILLISECONDS_MAX };
  await client.connect(new sdk.StreamableHTTPClientTransport(new URL(values.url), { requestInit }), options);
  try {
    return await client.callTool({ name: tool, arguments: JSON.parse(toolArguments) }, options);
  } finally {
    await client.close();
  }
}

/** The word of a refusal that is one by RFC 6749 §5.2, as this library reads it. */
async function refusal(promise) {
  const error = await promise.then(
    (given) => new Error(`not refused: ${JSON.stringify(given)}`),
    (error) => error,
  );
  if (error instanceof oauth.ResponseBodyError) return error.error;
  if (error instanceof oauth.WWWAuthenticateChallengeError) return error.cause.map(({ scheme }) => scheme).join(' ');
  throw error;
}

async function run() {
  const found = await discovered();
  const { server, resource } = found;
  const client = await registered(server);
  const by = await authentication(client);
  const { verifier, parameters } = await answered(found, client);
  const more = { additionalParameters: { resource }, ...plain };
  const redeem = async () => {
    const redirect = values.redirect;
    const answer = await oauth.authorizationCodeGrantRequest(server, client, by, parameters, redirect, verifier, more);
    return oauth.processAuthorizationCodeResponse(server, client, answer);
  };
  const refresh = async (token, proof = by) => {
    const answer = await oauth.refreshTokenGrantRequest(server, client, proof, token, more);
    return oauth.processRefreshTokenResponse(server, client, answer);
  };
  const introspect = async (token) => {
    const answer = await oauth.introspectionRequest(server, client, by, token, plain);
    return oauth.processIntrospectionResponse(server, client, answer);
  };
  const revoke = async (token) => {
    await oauth.processRevocationResponse(await oauth.revocationRequest(server, client, by, token, plain));
  };

  const first = await redeem();
  const bearing = new Request(values.url, { headers: { Authorization: `Bearer ${first.access_token}` } });
  const claims = await oauth.validateJwtAccessToken(server, bearing, resource, plain);
  const results = [await call(first)];
  const second = await refresh(first.refresh_token);
  results.push(await call(second));
  const refused = {};
  if (values.auth === 'basic') refused.proof = await refusal(refresh('any', oauth.ClientSecretBasic('another secret')));
  const both = [second.access_token, second.refresh_token];
  const tell = () => Promise.all(both.map((token) => introspect(token)));
  const told = values.auth === 'none' ? await refusal(introspect(both[0])) : { live: await tell() };
  await revoke(second.refresh_token);
  if (values.auth !== 'none') told.revoked = await tell();
  refused.refresh = await refusal(refresh(second.refresh_token));
  refused.code = await refusal(redeem());
  return { ok: true, client, tokens: [first, second], claims, results, told, refused };
}

const line = await run().catch((error) => ({
  ok: false,
  error: { name: error.name, message: error.message, code: error.code ?? null, oauth: error.error ?? null },
}));
await say(line);
process.exit(line.ok ? 0 : 1);
