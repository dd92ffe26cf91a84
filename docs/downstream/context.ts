// Verifies the signed header Bailiwick-Context: see docs/security/downstream.md. Needs WebCrypto with Ed25519 alone.
//
//   const verifier = new ContextVerifier("https://bailiwick.example.com", "https://finance.internal/mcp");
//   const claims = await verifier.verify(request.headersDistinct["bailiwick-context"] ?? [], body, "POST", "/mcp");
//
// The audience is this service's URL as its manifest at the gateway has it.

const LEEWAY = 5, LIFETIME = 60, KEYS_LAST = 300, FETCH_EVERY = 5, BYTES_MAX = 6 * 1024; // Seconds; bytes.
/** The request is not what the gateway decided; refuse it (401). */
export class NotBelieved extends Error {}
export type Claims = Record<string, unknown> & { sub: string; agent: string; jti: string; iat: number; exp: number };
type Bytes = Uint8Array<ArrayBuffer>;
type Jwk = { kty: string; crv?: string; kid?: string; x?: string };

const encode = (data: Uint8Array) =>
  btoa(String.fromCharCode(...data)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
const bytes = (text: string) => new TextEncoder().encode(text) as Bytes;

function decode(part: string): Bytes {
  const data = Uint8Array.from(atob(part.replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));
  if (encode(data) !== part) throw new NotBelieved("not base64url");
  return data;
}
const parsed = (part: string) => JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(decode(part)));
const digest = async (data: Bytes) => encode(new Uint8Array(await crypto.subtle.digest("SHA-256", data)));

export class ContextVerifier {
  private keys = new Map<string, Bytes>(); private seen = new Map<string, number>();
  private fetched = -Infinity; private asked = -Infinity;
  private issuer: string; private audience: string; private replaysMax: number;
  private url: string | null; private fetching?: Promise<void>;

  /** `jwks`: the key set, where it is not to be fetched from the issuer. `replaysMax`: how many contexts are
   *  remembered, each for its minute, so that none counts twice in this process; 0 remembers none. */
  constructor(issuer: string, audience: string, jwks?: { keys: Jwk[] }, replaysMax = 100_000) {
    [this.issuer, this.audience, this.replaysMax] = [issuer, audience, replaysMax];
    this.url = jwks ? null : issuer.replace(/\/$/, "") + "/.well-known/context-jwks.json";
    if (jwks) this.read(jwks);
  }

  /** The claims, if these header values are exactly one context, and it is of this request. */
  async verify(contexts: string[], body: Bytes, method: string, target: string, now = Date.now() / 1000) {
    const [context] = contexts;
    if (contexts.length !== 1 || context.length > BYTES_MAX) throw new NotBelieved("not exactly one context");
    let claims: Claims;
    try {
      const [header, payload, signature, ...more] = context.split(".");
      const { alg, typ, kid, ...others } = parsed(header);
      const isOurs = alg === "EdDSA" && typ === "bailiwick-context+jwt" && !Object.keys(others).length && !more.length;
      if (!isOurs) throw new NotBelieved("not a context");
      const key = await crypto.subtle.importKey("raw", await this.key(String(kid)), "Ed25519", false, ["verify"]);
      const isSigned = await crypto.subtle.verify("Ed25519", key, decode(signature), bytes(`${header}.${payload}`));
      if (!isSigned) throw new NotBelieved("not signed by that key");
      claims = parsed(payload);
    } catch (why) {
      throw why instanceof NotBelieved ? why : new NotBelieved("not a context", { cause: why });
    }
    const { iss, aud, iat, exp, jti } = claims;
    if (iss !== this.issuer || aud !== this.audience) throw new NotBelieved("from another issuer, or for another");
    const isNow = iat <= now + LEEWAY && exp > now - LEEWAY && exp - iat <= LIFETIME; // False where one is missing.
    if (!isNow) throw new NotBelieved("expired, or from the future");
    const [whole, path] = [await digest(body), await digest(bytes(target))];
    const isOfRequest = claims.body === whole && claims.htm === method && claims.target === path;
    if (!isOfRequest) throw new NotBelieved("of another request");
    this.once(jti, exp + LEEWAY, now);
    return claims;
  }

  private once(jti: string, until: number, now: number) {
    if (!this.replaysMax) return;
    if (this.seen.size >= this.replaysMax) this.seen.forEach((end, known) => end <= now && this.seen.delete(known));
    const isNew = typeof jti === "string" && !this.seen.has(jti) && this.seen.size < this.replaysMax;
    if (!isNew) throw new NotBelieved("seen before, or too many to remember");
    this.seen.set(jti, until);
  }

  private async key(kid: string): Promise<Bytes> {
    const now = performance.now() / 1000, known = () => now - this.fetched <= KEYS_LAST && this.keys.get(kid);
    if (this.url && !known()) {
      if (now - this.asked > FETCH_EVERY) [this.asked, this.fetching] = [now, this.fetch(this.url, now)];
      await this.fetching; // Whoever comes meanwhile waits for the same keys.
    }
    const key = this.url ? known() : this.keys.get(kid);
    if (!key) throw new NotBelieved("no such key");
    return key;
  }

  private async fetch(url: string, now: number) {
    const answer = await fetch(url, { redirect: "error", signal: AbortSignal.timeout(3000) });
    if (!answer.ok) throw new NotBelieved("the keys cannot be fetched");
    this.read((await answer.json()) as { keys: Jwk[] });
    this.fetched = now;
  }

  private read(jwks: { keys: Jwk[] }) {
    const ours = jwks.keys.filter((key) => key.kty === "OKP" && key.crv === "Ed25519");
    this.keys = new Map(ours.map((key) => [key.kid ?? "", decode(key.x ?? "")]));
  }
}
