// A proxy on loopback that passes on what it gets as it came: method, path, headers in their order, Host and Origin too,
// and the end of either side.

import { createServer, request as ask } from 'node:http';

/** Listens in front of `targets`, which get the requests in turn; adds `headers`, a flat list, to each. */
export async function listenInFrontOf(targets, headers = []) {
  const places = targets.map((target) => new URL(target));
  let turn = 0;
  const server = createServer((incoming, answer) => {
    const { hostname, port } = places[turn++ % places.length];
    const { method, url: path, rawHeaders } = incoming;
    const options = { hostname, port, method, path, headers: [...rawHeaders, ...headers], setHost: false };
    const outgoing = ask(options, (response) => {
      answer.writeHead(response.statusCode, response.rawHeaders);
      answer.flushHeaders();
      response.pipe(answer);
      response.on('error', () => answer.destroy());
    });
    outgoing.on('error', () => answer.destroy());
    answer.on('close', () => outgoing.destroy());
    incoming.pipe(outgoing);
  });
  await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
  return `http://localhost:${server.address().port}${places[0].pathname}`;
}
