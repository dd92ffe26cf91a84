// Signs a person in at the company's provider (idp.mjs) without a browser: it follows redirects, keeps cookies and
// fills in the provider's own forms, as a person would. Prints one JSON line: {"ok", "id_token", "error"}.
//
//   sign_in.mjs ISSUER LOGIN

import { createHash, randomBytes } from 'node:crypto';
import { pathToFileURL } from 'node:url';

/** What the client is registered as at the provider. */
export const AT_PROVIDER = {
  clientId: 'assistant-at-acme',
  clientSecret: 'assistant-secret-at-acme',
  redirectUri: 'http://127.0.0.1:3999/callback',
};
const STEPS_MAX = 12;

/** A browser's memory and nothing else of it. */
function browser() {
  const jar = new Map();
  return async (url, init = {}) => {
    const cookie = [...jar].map(([name, value]) => `${name}=${value}`).join('; ');
    const response = await fetch(url, { ...init, redirect: 'manual', headers: { ...init.headers, cookie } });
    for (const line of response.headers.getSetCookie()) {
      const [pair] = line.split(';');
      jar.set(pair.slice(0, pair.indexOf('=')), pair.slice(pair.indexOf('=') + 1));
    }
    return response;
  };
}

/** Follows and fills in until the provider sends the browser back to the client; gives that URL. */
async function comeBack(start, login) {
  const visit = browser();
  let url = start;
  for (let step = 0; step < STEPS_MAX && !url.startsWith(AT_PROVIDER.redirectUri); step += 1) {
    let response = await visit(url);
    if (!response.headers.has('location')) {
      const page = await response.text();
      const [, action] = page.match(/action="([^"]+)"/) ?? [];
      const [, prompt] = page.match(/name="prompt" value="([^"]+)"/) ?? [];
      if (!action) throw new Error(`the provider shows no form (${response.status})`);
      const body = new URLSearchParams({ prompt, login, password: 'any' });
      response = await visit(new URL(action, url), { method: 'POST', body });
    }
    url = new URL(response.headers.get('location'), url).href;
  }
  return new URL(url);
}

/** The person's ID token, by authorization code with PKCE. */
export async function signIn(issuer, login) {
  const verifier = randomBytes(32).toString('base64url');
  const state = randomBytes(16).toString('base64url');
  const query = new URLSearchParams({
    client_id: AT_PROVIDER.clientId,
    response_type: 'code',
    scope: 'openid email',
    redirect_uri: AT_PROVIDER.redirectUri,
    code_challenge: createHash('sha256').update(verifier).digest('base64url'),
    code_challenge_method: 'S256',
    state,
  });
  const back = await comeBack(`${issuer}/auth?${query}`, login);
  const said = Object.fromEntries(back.searchParams);
  if (said.state !== state || said.iss !== issuer || !said.code) throw new Error(`came back with ${said.error}`);
  const body = new URLSearchParams({
    grant_type: 'authorization_code',
    code: said.code,
    redirect_uri: AT_PROVIDER.redirectUri,
    code_verifier: verifier,
    client_id: AT_PROVIDER.clientId,
    client_secret: AT_PROVIDER.clientSecret,
  });
  const answer = await (await fetch(`${issuer}/token`, { method: 'POST', body })).json();
  if (!answer.id_token) throw new Error(`no ID token: ${answer.error}`);
  return answer.id_token;
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const [issuer, login] = process.argv.slice(2);
  const line = await signIn(issuer, login)
    .then((id_token) => ({ ok: true, id_token }))
    .catch((error) => ({ ok: false, error: `${error.message} ${error.cause ?? ''}` }));
  process.stdout.write(`${JSON.stringify(line)}\n`, () => process.exit(line.ok ? 0 : 1));
}
