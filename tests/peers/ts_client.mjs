// Drives an MCP endpoint with the official TypeScript client and prints one JSON line.
//
//   ts_client.mjs --url URL [--url URL2]... [--token T] [--era legacy|modern|auto] [--times N] list
//   ts_client.mjs ... call TOOL [ARGUMENTS-JSON]
//
// With several URLs, the requests of the one session go to them in turn, as behind a load balancer without sticky
// sessions. The line has the same shape as that of python_client.py; the exit status is 1 when `ok` is false.

import { parseArgs } from 'node:util';
import { Client, ProtocolError, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';

const MODES = { legacy: 'legacy', modern: { pin: '2026-07-28' }, auto: 'auto' };
const REQUEST_MILLISECONDS_MAX = 30_000;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    url: { type: 'string', multiple: true },
    token: { type: 'string' },
    era: { type: 'string', default: 'auto' },
    times: { type: 'string', default: '1' },
  },
});
const [operation, tool, toolArguments = '{}'] = positionals;
const usable = values.url?.length && values.era in MODES && (operation === 'list' || (operation === 'call' && tool));
if (!usable) {
  console.error('usage: ts_client.mjs --url URL... [--token T] [--era legacy|modern|auto] [--times N] list | call TOOL [JSON]');
  process.exit(2);
}

const requests = Object.fromEntries(values.url.map((url) => [url, 0]));
let sent = 0;
let status = null;

/** Sends each request to the next of the URLs; only host and port change. */
async function fetchInTurn(target, init) {
  const base = values.url[sent++ % values.url.length];
  requests[base] += 1;
  const url = new URL(target);
  url.host = new URL(base).host;
  const response = await fetch(url, init);
  if (init?.method === 'POST') status = response.status; // not the goodbye of a session
  return response;
}

async function run() {
  const client = new Client(
    { name: 'bailiwick-tests', version: '1.0.0' },
    { versionNegotiation: { mode: MODES[values.era] } },
  );
  const headers = values.token ? { Authorization: `Bearer ${values.token}` } : {};
  const transport = new StreamableHTTPClientTransport(new URL(values.url[0]), {
    fetch: fetchInTurn,
    requestInit: { headers },
  });
  const options = { timeout: REQUEST_MILLISECONDS_MAX };
  await client.connect(transport, options);
  try {
    const results = [];
    for (let time = 0; time < Number(values.times); time += 1) {
      results.push(
        operation === 'list'
          ? await client.listTools(undefined, { ...options, cacheMode: 'refresh' })
          : await client.callTool({ name: tool, arguments: JSON.parse(toolArguments) }, options),
      );
    }
    return {
      ok: true,
      protocol_version: client.getNegotiatedProtocolVersion(),
      server: client.getServerVersion() ?? null,
      results,
      requests,
    };
  } finally {
    await client.close();
  }
}

function describe(error) {
  const ours = ProtocolError.isInstance(error);
  return {
    ok: false,
    error: {
      code: ours ? error.code : null,
      message: ours ? error.message : `${error.name}: ${error.message}`,
      data: (ours && error.data) || null,
      status: error.data?.status ?? status,
    },
  };
}

const line = await run().catch(describe);
process.stdout.write(`${JSON.stringify(line)}\n`, () => process.exit(line.ok ? 0 : 1));
