// The relying party that many applications have, npm openid-client: it finds the authorization server by RFC 8414 and
// checks what it gets. Prints JSON lines; the exit status is 1 when the last one's `ok` is false.
//
//   openid_client.mjs --url URL --redirect URI --auth none|basic|post|key [--client-id ID] [--proof SECRET-OR-FILE]
//                     call|credentials TOOL [ARGUMENTS-JSON]
//
// Without --client-id it registers itself. `call`: the first line is {"authorize": URL}; it reads from stdin where the
// person's browser was sent back to, tries that answer with another issuer and with none, redeems the code, calls the
// tool, refreshes, calls again, asks about its tokens, revokes them, and tries what is over by then. `credentials`:
// nobody is asked; it gets a token for itself, calls, asks, revokes. The last line is {"ok", "client", "tokens",
// "claims" of the first token as npm jose verified it, "results", "told": {"live", "revoked"}, "refused": {what:
// word}}, or {"ok": false, "error"}. A client that proves nothing is told nothing: `told` is the word of its refusal.

import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createPrivateKey } from 'node:crypto';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import * as sdk from '@modelcontextprotocol/client';
import { createRemoteJWKSet, jwtVerify } from 'jose';
import * as relying from 'openid-client';

const REQUEST_MILLISECONDS_MAX = 30_000;
const OPTIONS = ['url', 'redirect', 'auth', 'client-id', 'proof'];
const METHODS = { none: 'none', basic: 'client_secret_basic', post: 'client_secret_post', key: 'private_key_jwt' };
const plain = { algorithm: 'oauth2', execute: [relying.allowInsecureRequests] };

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: Object.fromEntries(OPTIONS.map((name) => [name, { type: 'string' }])),
});
const [operation, tool, toolArguments = '{}'] = positionals;
const isKnown = values.auth in METHODS && ['call', 'credentials'].includes(operation);
if (!values.url || !values.redirect || !isKnown || !tool) {
  console.error('usage: openid_client.mjs --url URL --redirect URI --auth WAY OPTIONS… call|credentials TOOL [JSON]');
  process.exit(2);
}

function say(line) {
  return new Promise((resolve) => process.stdout.write(`${JSON.stringify(line)}\n`, resolve));
}

async function authentication() {
  if (values.auth === 'none') return relying.None();
  // What a client registered with is used where no other secret is named.
  if (values.auth === 'basic') return relying.ClientSecretBasic(values.proof);
  if (values.auth === 'post') return relying.ClientSecretPost(values.proof);
  const der = createPrivateKey(readFileSync(values.proof)).export({ type: 'pkcs8', format: 'der' });
  const usage = { name: 'ECDSA', namedCurve: 'P-256' };
  return relying.PrivateKeyJwt(await crypto.subtle.importKey('pkcs8', der, usage, false, ['sign']));
}

/** What the library knows of the server and of this client, and the resource. */
async function configured() {
  const { resource, authorization_servers: servers } = await sdk.discoverOAuthProtectedResourceMetadata(values.url);
  const issuer = new URL(servers[0]);
  const by = await authentication();
  if (values['client-id']) {
    return { config: await relying.discovery(issuer, values['client-id'], undefined, by, plain), resource };
  }
  const metadata = {
    client_name: 'bailiwick-tests',
    redirect_uris: [values.redirect],
    token_endpoint_auth_method: METHODS[values.auth],
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
    application_type: 'native',
  };
  return { config: await relying.dynamicClientRegistration(issuer, metadata, by, plain), resource };
}

/** Where this server sent the person's browser, and what to check it by. */
async function answered({ config, resource }) {
  const checks = { pkceCodeVerifier: relying.randomPKCECodeVerifier(), expectedState: relying.randomState() };
  if (!config.serverMetadata().supportsPKCE()) throw new Error('PKCE is not said to be supported');
  const request = relying.buildAuthorizationUrl(config, {
    redirect_uri: values.redirect,
    code_challenge: await relying.calculatePKCECodeChallenge(checks.pkceCodeVerifier),
    code_challenge_method: 'S256',
    scope: 'mcp:read mcp:write',
    resource,
    state: checks.expectedState,
  });
  await say({ authorize: request.href });
  const lines = createInterface({ input: process.stdin });
  const [callback] = await once(lines, 'line');
  lines.close();
  return { checks, callback: new URL(callback) };
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

/** Why the server refused (RFC 6749 §5.2, RFC 6750 §3), or the library: the word. */
async function refusal(promise) {
  const error = await promise.then(
    (given) => new Error(`not refused: ${JSON.stringify(given)}`),
    (error) => error,
  );
  if (error instanceof relying.ResponseBodyError) return error.error;
  if (error instanceof relying.WWWAuthenticateChallengeError) return error.cause.map(({ scheme }) => scheme).join(' ');
  if (error instanceof relying.ClientError) return error.code;
  throw error;
}

async function claimsOf({ config, resource }, { access_token: token }) {
  const { issuer, jwks_uri: keys } = config.serverMetadata();
  const expected = { issuer, audience: resource, typ: 'at+jwt' };
  return (await jwtVerify(token, createRemoteJWKSet(new URL(keys)), expected)).payload;
}

/** What the server tells of tokens while they live, and after the last of them was revoked. */
async function told(config, tokens) {
  const tell = () => Promise.all(tokens.map((token) => relying.tokenIntrospection(config, token)));
  const live = values.auth === 'none' ? await refusal(relying.tokenIntrospection(config, tokens[0])) : await tell();
  await relying.tokenRevocation(config, tokens.at(-1));
  return values.auth === 'none' ? live : { live, revoked: await tell() };
}

async function asSomebody() {
  const found = await configured();
  const { config, resource } = found;
  const { checks, callback } = await answered(found);
  const redeem = (url) => relying.authorizationCodeGrant(config, url, checks, { resource });
  const refresh = (token) => relying.refreshTokenGrant(config, token, { resource });
  const [mixed, bare] = [new URL(callback), new URL(callback)];
  mixed.searchParams.set('iss', 'https://as.evil.example');
  bare.searchParams.delete('iss');
  const refused = { mixed: await refusal(redeem(mixed)), bare: await refusal(redeem(bare)) };

  const first = await redeem(callback);
  const claims = await claimsOf(found, first);
  const results = [await call(first)];
  const second = await refresh(first.refresh_token);
  results.push(await call(second));
  const heard = await told(config, [second.access_token, second.refresh_token]);
  refused.refresh = await refusal(refresh(second.refresh_token));
  refused.code = await refusal(redeem(callback));
  return { ok: true, client: config.clientMetadata(), tokens: [first, second], claims, results, told: heard, refused };
}

async function asItself() {
  const found = await configured();
  const { config, resource } = found;
  const get = (more) => relying.clientCredentialsGrant(config, { resource, ...more });
  const tokens = await get({});
  const claims = await claimsOf(found, tokens);
  const results = [await call(tokens)];
  const refused = {
    resource: await refusal(get({ resource: 'https://elsewhere.example/mcp' })),
    scope: await refusal(get({ scope: 'admin' })),
  };
  const heard = await told(config, [tokens.access_token]);
  const client = config.clientMetadata();
  return { ok: true, client, tokens: [tokens], claims, results, told: heard, refused };
}

const line = await (operation === 'call' ? asSomebody() : asItself()).catch((error) => ({
  ok: false,
  error: { name: error.name, message: error.message, code: error.code ?? null, oauth: error.error ?? null },
}));
await say(line);
process.exit(line.ok ? 0 : 1);
