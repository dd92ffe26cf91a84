// Drives an MCP server that is a program, with the official TypeScript client, and prints one JSON line.
//
//   ts_stdio_client.mjs legacy|modern|auto TOOL PROGRAM [ARGUMENT...]
//
// Lists the tools, then calls TOOL without arguments. The line has the same shape as that of python_stdio_client.py; the
// program gets the SDK's usual environment.

import { Client } from '@modelcontextprotocol/client';
import { StdioClientTransport } from '@modelcontextprotocol/client/stdio';

const MODES = { legacy: 'legacy', modern: { pin: '2026-07-28' }, auto: 'auto' };
const timeout = 30_000;

const [era, tool, command, ...args] = process.argv.slice(2);
if (!(era in MODES) || !command) {
  console.error('usage: ts_stdio_client.mjs legacy|modern|auto TOOL PROGRAM [ARGUMENT...]');
  process.exit(2);
}

async function run() {
  const client = new Client({ name: 'bailiwick-tests', version: '1.0.0' }, { versionNegotiation: { mode: MODES[era] } });
  await client.connect(new StdioClientTransport({ command, args, stderr: 'ignore' }), { timeout });
  try {
    const { tools } = await client.listTools(undefined, { timeout });
    const result = await client.callTool({ name: tool, arguments: {} }, { timeout });
    const protocol_version = client.getNegotiatedProtocolVersion();
    return { ok: !result.isError, protocol_version, tools: tools.map(({ name }) => name), result };
  } finally {
    await client.close();
  }
}

const line = await run().catch((error) => ({ ok: false, error: `${error.name}: ${error.message}` }));
process.stdout.write(`${JSON.stringify(line)}\n`, () => process.exit(line.ok ? 0 : 1));
