// An MCP server of both eras on the official TypeScript packages, as an upstream for the end-to-end tests.
//
//   ts_server.mjs [PORT]          0 or nothing takes a free port; the line on stdout names the URL
//
// Tools: `echo` (read-only), `add` (writes, destroys nothing), `danger` (destructive), `fail` (read-only, always a tool
// error) and `slow` (read-only, waits `milliseconds`). `GET /calls` tells how often each tool ran, so that tests can
// prove a refused call never arrived. Ends at SIGTERM.

import { createServer } from 'node:http';
import { localhostHostValidation, toNodeHandler } from '@modelcontextprotocol/node';
import { createMcpHandler, McpServer } from '@modelcontextprotocol/server';
import * as z from 'zod';

const SLOW_MILLISECONDS_MAX = 120_000;
const calls = { echo: 0, add: 0, danger: 0, fail: 0, slow: 0 };
const text = (words) => ({ content: [{ type: 'text', text: words }] });

function register(server, name, description, annotations, inputSchema, answer) {
  server.registerTool(name, { description, annotations, inputSchema: z.object(inputSchema) }, async (input) => {
    calls[name] += 1;
    return answer(input);
  });
}

/** The handler asks for a fresh server per request; nothing is kept between two. */
function serverForOneRequest() {
  const server = new McpServer({ name: 'bailiwick-peer', version: '1.0.0' });
  const reads = { readOnlyHint: true };
  register(server, 'echo', 'Says what it was told.', reads, { message: z.string() }, ({ message }) => text(message));
  register(
    server,
    'add',
    'Adds two numbers and keeps the sum.',
    { readOnlyHint: false, destructiveHint: false },
    { a: z.number(), b: z.number() },
    ({ a, b }) => ({ ...text(String(a + b)), structuredContent: { sum: a + b } }),
  );
  register(
    server,
    'danger',
    'Destroys what it is pointed at.',
    { readOnlyHint: false, destructiveHint: true },
    { target: z.string().optional() },
    ({ target = 'everything' }) => text(`destroyed ${target}`),
  );
  register(server, 'fail', 'Fails, as tools do.', reads, {}, () => ({ ...text('it went wrong'), isError: true }));
  register(
    server,
    'slow',
    'Answers after a while.',
    reads,
    { milliseconds: z.number().int().min(0).max(SLOW_MILLISECONDS_MAX) },
    async ({ milliseconds }) => {
      await new Promise((resolve) => setTimeout(resolve, milliseconds));
      return text(`waited ${milliseconds} ms`);
    },
  );
  return server;
}

const hostIsLocal = localhostHostValidation();
const mcp = toNodeHandler(createMcpHandler(serverForOneRequest));
const http = createServer((request, response) => {
  if (!hostIsLocal(request, response)) return;
  if (request.url === '/calls') {
    response.setHeader('Content-Type', 'application/json');
    response.end(JSON.stringify(calls));
  } else if (request.url === '/mcp') {
    mcp(request, response);
  } else {
    response.statusCode = 404;
    response.end();
  }
});

http.listen(Number(process.argv[2] ?? 0), '127.0.0.1', () => {
  console.log(`peer MCP server at http://127.0.0.1:${http.address().port}/mcp`);
});
for (const signal of ['SIGTERM', 'SIGINT']) {
  process.on(signal, () => {
    http.close(() => process.exit(0));
    http.closeAllConnections();
  });
}
