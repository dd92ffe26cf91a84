// Clients of other people that prove who they are by a TLS certificate (RFC 8705 §2): npm openid-client and npm
// oauth4webapi. Prints one JSON line; the exit status is 1 when its `ok` is false.
//
//   mtls_client.mjs --issuer URL --resource URL --client-id ID --library openid-client|oauth4webapi
//                   --ca FILE [--cert FILE --key FILE]
//
// It reads the metadata, gets a token by client credentials where that says that clients with certificates go, looks at
// it (RFC 7662) and gives it up (RFC 7009). {"ok", "metadata", "tokens", "known", "after"}, or {"ok": false, "error"}.

import { readFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import { parseArgs } from 'node:util';
import * as strict from 'oauth4webapi';
import * as relying from 'openid-client';

const OPTIONS = ['issuer', 'resource', 'client-id', 'library', 'ca', 'cert', 'key'];
const { values } = parseArgs({ options: Object.fromEntries(OPTIONS.map((name) => [name, { type: 'string' }])) });
if (OPTIONS.slice(0, 5).some((name) => !values[name])) {
  console.error('usage: mtls_client.mjs --issuer URL --resource URL --client-id ID --library NAME --ca FILE ...');
  process.exit(2);
}
const read = (file) => (file ? readFileSync(file) : undefined);
const TLS = { ca: read(values.ca), cert: read(values.cert), key: read(values.key) };

/** fetch() on connections on which the certificate is shown. */
function shown(url, { method = 'GET', headers = {}, body } = {}) {
  const { request } = url.startsWith('https:') ? https : http;
  const options = { method, headers: Object.fromEntries(new Headers(headers)), agent: false, ...TLS };
  return new Promise((resolve, reject) => {
    const asked = request(url, options, (answer) => {
      const chunks = [];
      answer.on('data', (chunk) => chunks.push(chunk));
      answer.on('error', reject);
      answer.on('end', () => {
        const text = chunks.length > 0 ? Buffer.concat(chunks) : null;
        resolve(new Response(text, { status: answer.statusCode, headers: answer.headers }));
      });
    });
    asked.on('error', reject);
    asked.end(body ? String(body) : undefined);
  });
}

async function byOpenidClient() {
  const metadata = { use_mtls_endpoint_aliases: true };
  const options = { algorithm: 'oauth2', execute: [relying.allowInsecureRequests], [relying.customFetch]: shown };
  const by = [new URL(values.issuer), values['client-id'], metadata, relying.TlsClientAuth(), options];
  const config = await relying.discovery(...by);
  config[relying.customFetch] = shown;
  const tokens = await relying.clientCredentialsGrant(config, { resource: values.resource });
  const known = await relying.tokenIntrospection(config, tokens.access_token);
  await relying.tokenRevocation(config, tokens.access_token);
  const after = await relying.tokenIntrospection(config, tokens.access_token);
  return { metadata: config.serverMetadata(), tokens, known, after };
}

async function byOauth4webapi() {
  const issuer = new URL(values.issuer);
  const options = { [strict.allowInsecureRequests]: true, [strict.customFetch]: shown };
  const answer = await strict.discoveryRequest(issuer, { algorithm: 'oauth2', ...options });
  const metadata = await strict.processDiscoveryResponse(issuer, answer);
  const client = { client_id: values['client-id'], use_mtls_endpoint_aliases: true };
  const by = [metadata, client, strict.TlsClientAuth()];
  const parameters = new URLSearchParams({ resource: values.resource });
  const given = await strict.clientCredentialsGrantRequest(...by, parameters, options);
  const tokens = await strict.processClientCredentialsResponse(metadata, client, given);
  const look = async () => {
    const told = await strict.introspectionRequest(...by, tokens.access_token, options);
    return strict.processIntrospectionResponse(metadata, client, told);
  };
  const known = await look();
  await strict.processRevocationResponse(await strict.revocationRequest(...by, tokens.access_token, options));
  return { metadata, tokens, known, after: await look() };
}

const ways = { 'openid-client': byOpenidClient, oauth4webapi: byOauth4webapi };
const line = await ways[values.library]().then(
  (done) => ({ ok: true, ...done }),
  (error) => ({
    ok: false,
    error: { name: error.name, message: error.message, word: error.error ?? null, cause: String(error.cause ?? '') },
  }),
);
await new Promise((resolve) => process.stdout.write(`${JSON.stringify(line)}\n`, resolve));
process.exit(line.ok ? 0 : 1);
