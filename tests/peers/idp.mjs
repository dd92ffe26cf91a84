// The company's identity provider: npm oidc-provider, at which people sign in (its own pages for login and consent),
// with a token exchange (RFC 8693) that issues identity assertions (ID-JAG) by a policy of the company's. Clients may
// register themselves (RFC 7591), by secret or with keys. First line on stdout: {"issuer", "control"}.
//
//   idp.mjs --port PORT [--policy JSON]
//
// A policy is a list of {"audience", "resource", "client_id", "scopes"}: who asks for that audience and resource gets
// an assertion for the client of that id there, with those of the scopes. Tests steer the provider at `control`:
//   POST /policy  [..]                                    other rules from now on; [] is for nobody
//   POST /mint    {}                                      an assertion about jane by the first rule; see forge.mjs
//   POST /people  {login: claims}                         more claims about somebody, in place of what was told before
//   POST /keys    {"add": "ES256"|"RS256", "remove": [kid]}      what it signs with, and what it publishes
//   POST /listen  {"on": false}                           nobody reaches the provider any more; control stays
//   GET  /counts                                          {"jwks": fetches of its keys, "exchanges"}
// People are whoever signs in: the login is the `sub`, and `email` is LOGIN@example.com. What they may be told to have
// besides: `groups`, `hd`, and what Entra ID says when there are too many groups.

import { createServer } from 'node:http';
import { parseArgs } from 'node:util';
import { SignJWT, createLocalJWKSet, exportJWK, generateKeyPair, jwtVerify } from 'jose';
import Provider, { errors } from 'oidc-provider';
import { forge } from './forge.mjs';
import { AT_PROVIDER } from './sign_in.mjs';

const TOKEN_EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange';
const ID_JAG = 'urn:ietf:params:oauth:token-type:id-jag';
const ID_TOKEN = 'urn:ietf:params:oauth:token-type:id_token';
const ASSERTION_SECONDS = 300;

// The library remarks on stdout and stderr that this is nobody's production.
console.info = () => {};
console.warn = () => {};

const { values } = parseArgs({ options: { port: { type: 'string' }, policy: { type: 'string', default: '[]' } } });
const issuer = `http://127.0.0.1:${values.port}`;
const counts = { jwks: 0, exchanges: 0 };
let policy = JSON.parse(values.policy);
let people = {};

/** One of the provider's keys. */
async function makeKey(kid, alg) {
  const { privateKey, publicKey } = await generateKeyPair(alg, { extractable: true });
  const published = { ...(await exportJWK(publicKey)), use: 'sig', alg, kid };
  return { kid, alg, privateKey, publicKey, published };
}

// ID tokens and assertions have keys of their own, so that a test may take those of the assertions away.
const signInKey = await makeKey('sign-in', 'ES256');
let keys = [await makeKey('assertions-1', 'ES256')];
let made = keys.length;
const current = () => keys.at(-1);
const email = (sub) => `${sub}@example.com`;

async function assertion(claims) {
  const { kid, alg, privateKey } = current();
  return new SignJWT(claims).setProtectedHeader({ alg, typ: 'oauth-id-jag+jwt', kid }).sign(privateKey);
}

function claimsFor(sub, rule, scopes) {
  const now = Math.floor(Date.now() / 1000);
  return {
    iss: issuer,
    sub,
    aud: rule.audience,
    client_id: rule.client_id,
    resource: rule.resource,
    scope: scopes.join(' '),
    jti: crypto.randomUUID(),
    iat: now,
    exp: now + ASSERTION_SECONDS,
    email: email(sub),
    email_verified: true,
  };
}

const provider = new Provider(issuer, {
  jwks: { keys: [{ ...(await exportJWK(signInKey.privateKey)), use: 'sig', alg: 'ES256', kid: 'sign-in' }] },
  clients: [
    {
      client_id: AT_PROVIDER.clientId,
      client_secret: AT_PROVIDER.clientSecret,
      redirect_uris: [AT_PROVIDER.redirectUri],
      grant_types: ['authorization_code', TOKEN_EXCHANGE],
      response_types: ['code'],
      id_token_signed_response_alg: 'ES256',
      token_endpoint_auth_method: 'client_secret_post',
    },
  ],
  pkce: { required: () => true },
  scopes: ['openid', 'email'],
  claims: {
    openid: ['sub', 'groups', 'hd', 'hasgroups', '_claim_names'],
    email: ['email', 'email_verified'],
  },
  enabledJWA: { clientAuthSigningAlgValues: ['EdDSA', 'ES256'] },
  conformIdTokenClaims: false,
  cookies: { keys: [crypto.randomUUID()] },
  findAccount: (_context, id) => ({
    accountId: id,
    claims: () => ({ sub: id, email: email(id), email_verified: true, ...people[id] }),
  }),
  features: { devInteractions: { enabled: true }, registration: { enabled: true } },
  // Clients' keys are on this machine, where the library's own dispatcher does not go.
  fetch: (url, { dispatcher, ...options }) => fetch(url, options),
  discovery: { identity_chaining_requested_token_types_supported: [ID_JAG] },
});

async function exchange(context) {
  const { params, client } = context.oidc;
  if (params.requested_token_type !== ID_JAG || params.subject_token_type !== ID_TOKEN) {
    throw new errors.InvalidRequest('an ID token is exchanged for an identity assertion and nothing else');
  }
  const own = createLocalJWKSet({ keys: [signInKey.published] });
  const verified = jwtVerify(params.subject_token, own, { issuer, audience: client.clientId });
  const { payload } = await verified.catch((error) => {
    throw new errors.InvalidGrant(`subject_token: ${error.code}`);
  });
  const fits = (rule) => rule.audience === params.audience && (!params.resource || rule.resource === params.resource);
  const rule = policy.find(fits);
  if (!rule) throw new errors.InvalidGrant('not by the policy of this company');
  const scopes = params.scope ? params.scope.split(' ').filter((word) => rule.scopes.includes(word)) : rule.scopes;
  if (scopes.length === 0) throw new errors.InvalidScope('none of these by the policy of this company', params.scope);
  counts.exchanges += 1;
  context.body = {
    issued_token_type: ID_JAG,
    access_token: await assertion(claimsFor(payload.sub, rule, scopes)),
    token_type: 'N_A',
    scope: scopes.join(' '),
    expires_in: ASSERTION_SECONDS,
  };
}

const parameters = ['audience', 'resource', 'scope', 'requested_token_type', 'subject_token', 'subject_token_type'];
provider.registerGrantType(TOKEN_EXCHANGE, exchange, parameters);

function json(response, status, value, headers = {}) {
  response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(value));
}

const serveProvider = provider.callback();
const server = createServer((request, response) => {
  if (request.url !== '/jwks') return serveProvider(request, response);
  counts.jwks += 1;
  const published = [signInKey, ...keys].map((key) => key.published);
  return json(response, 200, { keys: published }, { 'cache-control': 'max-age=30' });
});

const steer = {
  'POST /policy': (rules) => {
    policy = rules;
    return {};
  },
  'POST /people': (told) => {
    people = { ...people, ...told };
    return {};
  },
  'POST /mint': async (order) => {
    const [rule] = policy;
    const claims = claimsFor('jane', rule, rule.scopes);
    return { assertion: forge(claims, current(), order) };
  },
  'POST /keys': async ({ add, remove = [] }) => {
    if (add) keys.push(await makeKey(`assertions-${(made += 1)}`, add));
    keys = keys.filter((key) => !remove.includes(key.kid));
    return { published: keys.map((key) => key.kid) };
  },
  'POST /listen': async ({ on }) => {
    if (on) {
      await new Promise((done) => server.listen(Number(values.port), '127.0.0.1', done));
    } else {
      server.closeAllConnections();
      await new Promise((done) => server.close(done));
    }
    return {};
  },
  'GET /counts': () => counts,
};

const control = createServer(async (request, response) => {
  try {
    const act = steer[`${request.method} ${request.url}`];
    if (!act) return json(response, 404, { error: 'no such thing to steer' });
    const chunks = await request.toArray();
    return json(response, 200, await act(chunks.length ? JSON.parse(Buffer.concat(chunks)) : undefined));
  } catch (error) {
    return json(response, 500, { error: error.stack });
  }
});

// Node closes a quiet connection after five seconds; on a busy machine that meets the next request of a slow client.
server.keepAliveTimeout = 120_000;
server.listen(Number(values.port), '127.0.0.1', () => {
  control.listen(0, '127.0.0.1', () => {
    console.log(JSON.stringify({ issuer, control: `http://127.0.0.1:${control.address().port}` }));
  });
});
