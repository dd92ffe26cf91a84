// A strict relying party that exchanges another agent's token for its own (RFC 8693), npm oauth4webapi: it checks what
// it gets by RFC 6749, 8414, 8693, 9068 and 9728. Prints one JSON line, {"ok", "given", "claims", "refused"} or
// {"ok": false, "error"}; the exit status is 1 when `ok` is false. `refused` is the word for an altered token.
//
//   CLIENT_SECRET=… exchange_client.mjs --url URL --client-id ID --subject TOKEN

import { parseArgs } from 'node:util';
import * as oauth from 'oauth4webapi';

const TOKEN_EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange';
const ACCESS_TOKEN = 'urn:ietf:params:oauth:token-type:access_token';
const plain = { [oauth.allowInsecureRequests]: true };

const options = { url: { type: 'string' }, 'client-id': { type: 'string' }, subject: { type: 'string' } };
const { values } = parseArgs({ options });
if (!values.url || !values['client-id'] || !values.subject || !process.env.CLIENT_SECRET) {
  console.error('usage: CLIENT_SECRET=… exchange_client.mjs --url URL --client-id ID --subject TOKEN');
  process.exit(2);
}

async function run() {
  const url = new URL(values.url);
  const found = await oauth.resourceDiscoveryRequest(url, plain);
  const { resource, authorization_servers: servers } = await oauth.processResourceDiscoveryResponse(url, found);
  const issuer = new URL(servers[0]);
  const answer = await oauth.discoveryRequest(issuer, { algorithm: 'oauth2', ...plain });
  const server = await oauth.processDiscoveryResponse(issuer, answer);
  if (!server.grant_types_supported.includes(TOKEN_EXCHANGE)) throw new Error('the metadata lacks the grant');
  const client = { client_id: values['client-id'] };
  const by = oauth.ClientSecretBasic(process.env.CLIENT_SECRET);
  const exchange = async (token) => {
    const parameters = { subject_token: token, subject_token_type: ACCESS_TOKEN, resource };
    const answer = await oauth.genericTokenEndpointRequest(server, client, by, TOKEN_EXCHANGE, parameters, plain);
    return oauth.processGenericTokenEndpointResponse(server, client, answer);
  };
  const given = await exchange(values.subject);
  const bearing = new Request(values.url, { headers: { Authorization: `Bearer ${given.access_token}` } });
  const claims = await oauth.validateJwtAccessToken(server, bearing, resource, plain);
  const refused = await exchange(`${values.subject}x`).then(
    () => 'given',
    (error) => (error instanceof oauth.ResponseBodyError ? error.error : Promise.reject(error)),
  );
  return { ok: true, given, claims, refused };
}

const line = await run().catch((error) => ({
  ok: false,
  error: { name: error.name, message: error.message, code: error.code ?? null, oauth: error.error ?? null },
}));
await new Promise((resolve) => process.stdout.write(`${JSON.stringify(line)}\n`, resolve));
process.exit(line.ok ? 0 : 1);
