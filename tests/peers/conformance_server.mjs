// The MCP server that the official conformance suite is run against, directly and through Bailiwick: on the published
// TypeScript packages, both eras in one process.
//
//   conformance_server.mjs [--eras both|modern|legacy] [--port PORT]
//
// Port 0 or none takes a free one; the line on stdout names the URL. `--eras` leaves one era out, as a server would that
// has never heard of it: `legacy` takes every request for one of a session, `modern` answers sessions with the versions
// it has. What it offers is in `conformance/`: what the suite's scenarios ask for by name, and nothing else. Ends at
// SIGTERM.

import { randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import { parseArgs } from 'node:util';

import { localhostHostValidation, NodeStreamableHTTPServerTransport, toNodeHandler } from '@modelcontextprotocol/node';
import { classifyInboundRequest, createMcpHandler, isInitializeRequest, McpServer } from '@modelcontextprotocol/server';

import { registerAskingTools, requestStates } from './conformance/asking.mjs';
import { registerPrompts, registerResources } from './conformance/context.mjs';
import { registerTools } from './conformance/tools.mjs';

/** The suite's largest message is some kilobytes; whatever is larger is a mistake. */
const BODY_BYTES_MAX = 4 * 1024 * 1024;

const { values: options } = parseArgs({
  options: { eras: { type: 'string', default: 'both' }, port: { type: 'string', default: '0' } },
});
if (!['both', 'modern', 'legacy'].includes(options.eras)) throw new Error(`--eras ${options.eras}`);

/** Legacy sessions: id to what serves it. */
const sessions = new Map();

/** Tells everybody who listens, in either era, that something changed. */
const changed = {
  tools() {
    modern.notify.toolsChanged();
    for (const { server } of sessions.values()) server.sendToolListChanged();
  },
  prompts() {
    modern.notify.promptsChanged();
    for (const { server } of sessions.values()) server.sendPromptListChanged();
  },
  resource(uri) {
    modern.notify.resourceUpdated(uri);
    for (const { server, watched } of sessions.values()) {
      if (watched.has(uri)) server.server.sendResourceUpdated({ uri });
    }
  },
};

function newServer(watched = new Set()) {
  const server = new McpServer(
    { name: 'bailiwick-conformance-upstream', version: '1.0.0' },
    {
      capabilities: {
        tools: { listChanged: true },
        prompts: { listChanged: true },
        resources: { listChanged: true, subscribe: true },
        completions: {},
        logging: {},
      },
      requestState: { verify: requestStates.verify },
    },
  );
  registerTools(server, changed);
  registerAskingTools(server);
  registerPrompts(server);
  registerResources(server, watched);
  return server;
}

const modern = createMcpHandler(() => newServer(), { legacy: 'reject' });
const answerModern = toNodeHandler(modern);
const hostIsLocal = localhostHostValidation();

function refuse(response, status, code, message) {
  response.writeHead(status, { 'Content-Type': 'application/json' });
  response.end(JSON.stringify({ jsonrpc: '2.0', id: null, error: { code, message } }));
}

async function openSession() {
  const watched = new Set();
  const server = newServer(watched);
  const transport = new NodeStreamableHTTPServerTransport({
    sessionIdGenerator: () => randomUUID(),
    onsessioninitialized: (id) => sessions.set(id, { server, transport, watched }),
  });
  transport.onclose = () => sessions.delete(transport.sessionId);
  await server.connect(transport);
  return transport;
}

async function answerLegacy(request, response, body) {
  const id = request.headers['mcp-session-id'];
  if (id !== undefined) {
    const session = sessions.get(id);
    if (session === undefined) return refuse(response, 404, -32001, 'Session not found');
    return session.transport.handleRequest(request, response, body);
  }
  if (!isInitializeRequest(body)) return refuse(response, 400, -32000, 'Bad Request: no session id');
  return (await openSession()).handleRequest(request, response, body);
}

/** Which era a request is meant in; only what claims the modern one is asked of it. */
function isModern(request, body) {
  if (options.eras !== 'both') return options.eras === 'modern';
  const route = classifyInboundRequest({
    httpMethod: request.method,
    protocolVersionHeader: request.headers['mcp-protocol-version'],
    mcpMethodHeader: request.headers['mcp-method'],
    body,
  });
  return route.kind !== 'legacy';
}

async function readBody(request) {
  if (request.method !== 'POST') return undefined;
  const chunks = [];
  let size = 0;
  for await (const chunk of request) {
    size += chunk.length;
    if (size > BODY_BYTES_MAX) throw new Error('the body is too large');
    chunks.push(chunk);
  }
  return JSON.parse(Buffer.concat(chunks).toString('utf8'));
}

async function answer(request, response) {
  if (request.url !== '/mcp') return void response.writeHead(404).end();
  let body;
  try {
    body = await readBody(request);
  } catch (error) {
    return refuse(response, 400, -32700, `Parse error: ${error.message}`);
  }
  return isModern(request, body) ? answerModern(request, response, body) : answerLegacy(request, response, body);
}

const http = createServer((request, response) => {
  if (!hostIsLocal(request, response)) return;
  answer(request, response).catch((error) => {
    console.error(error);
    if (!response.headersSent) refuse(response, 500, -32603, 'Internal error');
  });
});
http.listen(Number(options.port), '127.0.0.1', () => {
  console.log(`conformance MCP server at http://localhost:${http.address().port}/mcp`);
});
for (const signal of ['SIGTERM', 'SIGINT']) {
  process.on(signal, () => {
    http.close(() => process.exit(0));
    http.closeAllConnections();
  });
}
