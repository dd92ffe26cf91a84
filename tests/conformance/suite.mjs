// Runs the official MCP conformance suite and prints what every check said, as one JSON line.
//
//   suite.mjs --suite SCRIPT --revision REVISION --url URL… [--token TOKEN] [--scenario NAME]…    against a server
//   suite.mjs --suite SCRIPT --revision REVISION --client COMMAND [--scenario NAME]…              against a client
//
// Without `--scenario`, all that the suite knows for the revision are run, those that are never scored too. The suite
// knows nothing of tokens: with `--token` it is pointed at a proxy on loopback that adds one to every request and
// changes nothing else, so that Host, Origin and the order of headers arrive as the suite wrote them. Of several URLs
// the proxy takes another for each request, as a load balancer does that knows nothing of sessions.
//
// Output: {"scenario": {"check": {"status": "SUCCESS", "said": "…"}}}. A check id that stands several times in a scenario
// is told apart by `#2`, `#3`, the best verdict first. The exit code says only whether the suite could be run.

import { spawn } from 'node:child_process';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join, relative } from 'node:path';
import { parseArgs } from 'node:util';

import { listenInFrontOf } from './proxy.mjs';

/** Longest run of one scenario; the suite's own default is three times as long. */
const SCENARIO_MS_MAX = 10_000;

/** Scenarios for clients that no revision may be named for. */
const EXTENSIONS = ['auth/dpop', 'auth/dpop-nonce'];

const { values: options } = parseArgs({
  options: {
    suite: { type: 'string' },
    revision: { type: 'string' },
    url: { type: 'string', multiple: true, default: [] },
    token: { type: 'string' },
    client: { type: 'string' },
    scenario: { type: 'string', multiple: true, default: [] },
  },
});

function run(script, given) {
  const child = spawn(process.execPath, [script, ...given], { stdio: ['ignore', 'pipe', 'pipe'] });
  const said = [];
  child.stdout.on('data', (chunk) => said.push(chunk));
  child.stderr.on('data', (chunk) => said.push(chunk));
  return new Promise((ended, failed) => {
    child.on('error', failed);
    child.on('close', () => ended(Buffer.concat(said).toString('utf8')));
  });
}

/** Every `checks.json` below a folder, as [scenario, checks]. */
async function results(folder) {
  const found = [];
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    if (entry.name !== 'checks.json') continue;
    const run = relative(folder, entry.parentPath);
    const scenario = join(dirname(run), basename(run).replace(/-\d{4}-\d\d-\d\dT[\d-]+Z$/, ''));
    found.push([scenario.replace(/^server-/, ''), JSON.parse(await readFile(join(folder, run, 'checks.json'), 'utf8'))]);
  }
  return found.sort();
}

const BEST_FIRST = ['SUCCESS', 'SKIPPED', 'WARNING', 'FAILURE'];

function table(found) {
  const scenarios = {};
  for (const [scenario, checks] of found) {
    const rows = (scenarios[scenario] = {});
    const times = new Map();
    // INFO is the suite's log of what it saw, not a verdict; and the order of its rows is that of what came in.
    const verdicts = checks.filter(({ status }) => status !== 'INFO');
    verdicts.sort((one, other) => BEST_FIRST.indexOf(one.status) - BEST_FIRST.indexOf(other.status));
    for (const { id, status, errorMessage } of verdicts) {
      const time = (times.get(id) ?? 0) + 1;
      times.set(id, time);
      rows[time === 1 ? id : `${id}#${time}`] = { status, ...(errorMessage && { said: errorMessage }) };
    }
  }
  return scenarios;
}

const bearer = ['Authorization', `Bearer ${options.token}`];
const url = options.token ? await listenInFrontOf(options.url, bearer) : options.url[0];
const folder = await mkdtemp(join(tmpdir(), 'bailiwick-conformance-'));
const target = options.client ? ['client', '--command', options.client] : ['server', '--url', url];
const common = [...target, '-o', folder, '--timeout', String(SCENARIO_MS_MAX)];
// A scenario of an extension belongs to no revision; asked for by name, it is run all the same.
const forced = options.client ? [] : ['--force'];
const versioned = (name) => (EXTENSIONS.includes(name) ? [] : ['--spec-version', options.revision]);
const runs = options.scenario.length
  ? options.scenario.map((name) => [...common, '--scenario', name, ...versioned(name), ...forced])
  : [[...common, '--requirements', options.revision]];
let said = '';
for (const given of runs) said += await run(options.suite, given);
const scenarios = table(await results(folder));
await rm(folder, { recursive: true });
if (Object.keys(scenarios).length === 0) {
  console.error(said);
  process.exit(1);
}
console.log(JSON.stringify(scenarios));
process.exit(0);
