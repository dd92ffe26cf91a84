// What the conformance suite takes for a client: a running Bailiwick, with somebody who uses it.
//
//   conformance_client.mjs SERVER-URL          the suite appends the URL of its server
//
// Registers the server with the gateway, behind a proxy that ends with this program, and does through it, with the
// official TypeScript client, whatever the scenario needs done; so what the suite sees and judges is the gateway's own
// side towards servers. In the environment: GATEWAY_BAILIWICK (the binary), BAILIWICK_ADMIN, GATEWAY_MCP (the URL up to
// `/mcp`), and what the suite sets.

import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';

import { listenInFrontOf } from '../conformance/proxy.mjs';

const REQUEST_MILLISECONDS_MAX = 5_000;
/** Time for an apply to reach the data plane, and between two looks. */
const VISIBLE_MILLISECONDS_MAX = 5_000;
const LOOK_AGAIN_MILLISECONDS = 50;
/** A server's name has at most 32 characters, and says the era too. */
const SLUG_CHARACTERS_MAX = 25;

const { GATEWAY_BAILIWICK, GATEWAY_MCP, MCP_CONFORMANCE_CONTEXT, MCP_CONFORMANCE_PROTOCOL_VERSION } = process.env;
const scenario = process.env.MCP_CONFORMANCE_SCENARIO;
const isModern = MCP_CONFORMANCE_PROTOCOL_VERSION === '2026-07-28';
const slug = scenario.toLowerCase().replaceAll(/[^a-z0-9]+/g, '-').slice(0, SLUG_CHARACTERS_MAX).replace(/-+$/, '');
const name = `${slug}-${isModern ? 'modern' : 'legacy'}`;

/** Runs the command line; not synchronously, for the gateway asks the server through this program meanwhile. */
async function bailiwick(given, input = '') {
  const running = promisify(execFile)(GATEWAY_BAILIWICK, given);
  running.child.stdin.end(input);
  return (await running).stdout;
}

async function register(url) {
  const resource = (kind, resourceName, spec) =>
    JSON.stringify({ apiVersion: 'bailiwick/v1', kind, metadata: { name: resourceName }, spec });
  const manifests = [
    resource('Server', name, { endpoint: { url } }),
    resource('VirtualServer', name, { naming: 'plain', servers: [{ server: name }] }),
    resource('Policy', name, { cedar: `permit (principal, action, resource in Server::"${name}");` }),
  ];
  await bailiwick(['apply', '-f', '-'], manifests.join('\n---\n'));
}

async function issueToken() {
  const whose = ['--user', 'jane@example.com', '--agent', 'coding-assistant', '--virtual-server', name];
  return JSON.parse(await bailiwick(['token', 'issue', ...whose, '--level', 'destructive', '-o', 'json'])).access_token;
}

async function connect(token) {
  const client = new Client(
    { name: 'bailiwick-tests', version: '1.0.0' },
    {
      capabilities: { elicitation: { form: { applyDefaults: true } } },
      versionNegotiation: { mode: isModern ? { pin: '2026-07-28' } : 'legacy' },
    },
  );
  client.setRequestHandler('elicitation/create', ({ params }) => {
    const isConfirmation = 'confirmed' in (params.requestedSchema?.properties ?? {});
    return { action: 'accept', content: isConfirmation ? { confirmed: true } : {} };
  });
  const headers = { Authorization: `Bearer ${token}` };
  await client.connect(new StreamableHTTPClientTransport(new URL(`${GATEWAY_MCP}/${name}`), { requestInit: { headers } }));
  return client;
}

/** The tools, as soon as the data plane shows any. */
async function tools(client) {
  const until = Date.now() + VISIBLE_MILLISECONDS_MAX;
  for (;;) {
    const listed = (await client.listTools(undefined, { cacheMode: 'refresh' })).tools;
    if (listed.length > 0 || Date.now() > until) return listed;
    await new Promise((resolve) => setTimeout(resolve, LOOK_AGAIN_MILLISECONDS));
  }
}

/** What a tool is called with: what the scenario says, or a value for every argument of its schema. */
function calls(listed) {
  const told = MCP_CONFORMANCE_CONTEXT && JSON.parse(MCP_CONFORMANCE_CONTEXT).toolCalls;
  if (told) return told;
  const values = { number: 5, integer: 3, string: 'us-west1', boolean: true, object: {}, array: [] };
  const sample = ({ type = 'object' }) => values[type];
  return listed.map((tool) => ({
    name: tool.name,
    arguments: Object.fromEntries(
      Object.entries(tool.inputSchema.properties ?? {}).map(([key, schema]) => [key, sample(schema)]),
    ),
  }));
}

/** Tries everything; the suite judges by what it saw, and some of its servers refuse on purpose. */
async function attempt(what, act) {
  try {
    await act();
  } catch (error) {
    console.error(`${what}: ${error.message}`);
  }
}

async function useContext(client) {
  const can = client.getServerCapabilities() ?? {};
  if (can.resources) {
    const { resources } = await client.listResources();
    for (const { uri } of resources) await attempt(uri, () => client.readResource({ uri }));
  }
  if (can.prompts) {
    const { prompts } = await client.listPrompts();
    for (const { name: prompt } of prompts) await attempt(prompt, () => client.getPrompt({ name: prompt, arguments: {} }));
  }
}

// The suite waits until nobody is connected to its server any more, which a gateway's idle connections would outlast.
await register(await listenInFrontOf([process.argv.at(-1)]));
const client = await connect(await issueToken());
const listed = await tools(client);
const echoed = scenario === 'json-schema-2020-12-preservation' && listed.find((tool) => tool.name !== 'json_schema_echo');
const wanted = echoed ? [{ name: 'json_schema_echo', arguments: { schema: echoed.inputSchema } }] : calls(listed);
for (const call of wanted) {
  await attempt(call.name, () => client.callTool(call, { timeout: REQUEST_MILLISECONDS_MAX }));
}
await attempt('prompts and resources', () => useContext(client));
await client.close();
process.exit(0);
