// The official TypeScript client, sent away with 401 by an MCP endpoint: it finds who may let it in, asks a person, and
// goes on by itself. Prints JSON lines; the exit status is 1 when the last one's `ok` is false.
//
//   oauth_client.mjs --url URL --redirect URI [--client-id ID [--secret S]] [--method WORD] call TOOL [ARGUMENTS-JSON]
//
// Without --client-id it registers itself (RFC 7591); --method is then its token_endpoint_auth_method. The first line
// is {"authorize": URL}, where its person is to go; it reads from stdin where their browser was sent back to. Then it
// lists the tools and calls one, loses its access token, and calls again, by its refresh token. The last line is
// {"ok", "client", "tokens": [first, second], "tools", "results", "asked": times}, or {"ok": false, "error"}.

import { once } from 'node:events';
import { randomBytes } from 'node:crypto';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import { Client, StreamableHTTPClientTransport, UnauthorizedError } from '@modelcontextprotocol/client';

const REQUEST_MILLISECONDS_MAX = 30_000;
const OPTIONS = ['url', 'redirect', 'client-id', 'secret', 'method'];

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: Object.fromEntries(OPTIONS.map((name) => [name, { type: 'string' }])),
});
const [operation, tool, toolArguments = '{}'] = positionals;
if (!values.url || !values.redirect || operation !== 'call' || !tool) {
  console.error('usage: oauth_client.mjs --url URL --redirect URI OPTIONS… call TOOL [JSON]');
  process.exit(2);
}

function say(line) {
  return new Promise((resolve) => process.stdout.write(`${JSON.stringify(line)}\n`, resolve));
}

/** What a program keeps between its requests: the SDK's OAuthClientProvider, in memory. */
class Kept {
  redirectUrl = values.redirect;
  clientMetadata = {
    client_name: 'bailiwick-tests',
    redirect_uris: [values.redirect],
    ...(values.method ? { token_endpoint_auth_method: values.method } : {}),
  };
  asked = 0;
  #kept = {};

  constructor() {
    if (values['client-id']) {
      this.#kept.client = {
        client_id: values['client-id'],
        ...(values.secret ? { client_secret: values.secret } : {}),
        ...(values.method ? { token_endpoint_auth_method: values.method } : {}),
      };
    }
  }

  state = () => (this.#kept.state = randomBytes(16).toString('base64url'));
  clientInformation = () => this.#kept.client;
  saveClientInformation = (client) => void (this.#kept.client = client);
  tokens = () => this.#kept.tokens;
  saveTokens = (tokens) => void (this.#kept.tokens = tokens);
  codeVerifier = () => this.#kept.verifier;
  saveCodeVerifier = (verifier) => void (this.#kept.verifier = verifier);
  discoveryState = () => this.#kept.discovery;
  saveDiscoveryState = (discovery) => void (this.#kept.discovery = discovery);
  invalidateCredentials = (what) => {
    throw new Error(`the SDK throws away ${what}: it was refused`);
  };

  async redirectToAuthorization(url) {
    this.asked += 1;
    await say({ authorize: url.href });
  }

  /** The parameters of the callback, for the request that is under way. */
  of(callback) {
    const { searchParams } = new URL(callback);
    if (searchParams.get('state') !== this.#kept.state) throw new Error('the callback has another state');
    return searchParams;
  }

  loseAccessToken() {
    this.#kept.tokens = { ...this.#kept.tokens, access_token: 'lost' };
  }
}

async function run() {
  const kept = new Kept();
  const lines = createInterface({ input: process.stdin });
  const fresh = () => new StreamableHTTPClientTransport(new URL(values.url), { authProvider: kept });
  const newClient = () => new Client({ name: 'bailiwick-tests', version: '1.0.0' });
  const options = { timeout: REQUEST_MILLISECONDS_MAX };
  const turnedAway = fresh();
  await newClient().connect(turnedAway, options).then(
    () => Promise.reject(new Error('it is let in without a token')),
    (error) => (error instanceof UnauthorizedError ? null : Promise.reject(error)),
  );
  const [callback] = await once(lines, 'line');
  lines.close();
  await turnedAway.finishAuth(kept.of(callback));

  const client = newClient();
  await client.connect(fresh(), options);
  try {
    const { tools } = await client.listTools(undefined, options);
    const call = () => client.callTool({ name: tool, arguments: JSON.parse(toolArguments) }, options);
    const results = [await call()];
    const tokens = [kept.tokens()];
    kept.loseAccessToken();
    results.push(await call());
    tokens.push(kept.tokens());
    const names = tools.map(({ name }) => name);
    return { ok: true, client: kept.clientInformation(), tokens, tools: names, results, asked: kept.asked };
  } finally {
    await client.close();
  }
}

const line = await run().catch((error) => ({
  ok: false,
  error: { name: error.name, message: error.message, oauth: error.code ?? error.cause?.code ?? null },
}));
await say(line);
process.exit(line.ok ? 0 : 1);
