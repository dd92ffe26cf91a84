// What the conformance suite takes for a client: `bailiwick connect`, with a client and a person who uses it.
//
//   connect_client.mjs SERVER-URL          the suite appends the URL of its server
//
// Starts the bridge, once, with a home folder of its own, says to it on standard input what a client says first, and
// goes wherever the bridge sends its browser; so what the suite sees and judges is the bridge. In the environment:
// GATEWAY_BAILIWICK (the binary), and what the suite sets. The exit code says whether every request had a result.

import { spawn } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

const { BAILIWICK_LOG, GATEWAY_BAILIWICK, MCP_CONFORMANCE_CONTEXT, MCP_CONFORMANCE_PROTOCOL_VERSION } = process.env;
const isModern = MCP_CONFORMANCE_PROTOCOL_VERSION === '2026-07-28';
const { client_id } = MCP_CONFORMANCE_CONTEXT ? JSON.parse(MCP_CONFORMANCE_CONTEXT) : {};

const home = await mkdtemp(join(tmpdir(), 'bailiwick-connect-'));
const browser = join(home, 'browser');
const page = 'fetch(process.argv[1]).then((answer) => answer.text())';
await writeFile(browser, `#!/bin/sh\nexec '${process.execPath}' -e '${page}' "$1"\n`, { mode: 0o700 });

const args = ['connect', process.argv[2], '--keys', 'file', ...(client_id ? ['--client-id', client_id] : [])];
const env = { HOME: home, BROWSER: browser, PATH: process.env.PATH, ...(BAILIWICK_LOG && { BAILIWICK_LOG }) };
const bridge = spawn(GATEWAY_BAILIWICK, args, { env, stdio: ['pipe', 'pipe', 'inherit'] });
const ended = new Promise((settle) => bridge.on('close', settle));
const lines = createInterface({ input: bridge.stdout })[Symbol.asyncIterator]();

function say(message) {
  bridge.stdin.write(`${JSON.stringify({ jsonrpc: '2.0', ...message })}\n`);
}

const meta = {
  'io.modelcontextprotocol/protocolVersion': '2026-07-28',
  'io.modelcontextprotocol/clientCapabilities': {},
};
let requests = 0;

/** The result of a request. What else the server says meanwhile is read over. */
async function ask(method, params) {
  const id = ++requests;
  say({ id, method, params: isModern ? { ...params, _meta: meta } : params });
  for await (const line of { [Symbol.asyncIterator]: () => ({ next: () => lines.next() }) }) {
    const message = JSON.parse(line);
    if (message.id !== id || message.method) continue;
    if (message.result) return message.result;
    throw new Error(`${method}: ${JSON.stringify(message.error)}`);
  }
  throw new Error(`${method}: the bridge has ended`);
}

try {
  if (!isModern) {
    const clientInfo = { name: 'bailiwick-tests', version: '1.0.0' };
    await ask('initialize', { protocolVersion: '2025-11-25', capabilities: {}, clientInfo });
    say({ method: 'notifications/initialized' });
  }
  const { tools } = await ask('tools/list', {});
  for (const { name } of tools) await ask('tools/call', { name, arguments: {} });
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
} finally {
  bridge.stdin.end();
  await ended;
  await rm(home, { recursive: true });
}
