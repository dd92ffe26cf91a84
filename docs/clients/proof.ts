// A client of Bailiwick whose token is of no use to a thief: a bound token, and a proof for each call.
//
//   node proof.ts vectors ../reference/proof-vectors.json    checks this file against the published vectors
//   node proof.ts call URL TOOL [ARGUMENTS]                  calls a tool, with ACCESS_TOKEN and BINDING_KEY, or with a
//                                                            token that TOKEN_URL gives for CLIENT_ASSERTION
//
// Needs Node 24 and nothing else. The protocol: docs/security/binding.md.
import { readFileSync } from "node:fs";

const VERSION = "2026-07-28";
const text = new TextEncoder();
type Bytes = Uint8Array<ArrayBuffer>;

const encode = (bytes: Bytes): string =>
  btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
const decode = (word: string): Bytes =>
  Uint8Array.from(atob(word.replaceAll("-", "+").replaceAll("_", "/")), (char) => char.charCodeAt(0));
const sha256 = async (bytes: Bytes): Promise<string> => {
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
};

/** The value of `Bailiwick-Proof`. `nonce`: 12 fresh random bytes; `path`: of the resource's public URL. */
export async function prove(
  key: Bytes, token: string, unixMs: number, nonce: Bytes, method: string, path: string, body: string,
): Promise<string> {
  const hashes = [await sha256(text.encode(token)), await sha256(text.encode(body))];
  const about = ["bailiwick-proof-v1", hashes[0], unixMs, method, path, hashes[1]].join("\n");
  const cipher = await crypto.subtle.importKey("raw", key, "AES-GCM", false, ["encrypt"]);
  const options = { name: "AES-GCM", iv: nonce, additionalData: text.encode(about) };
  const tag = await crypto.subtle.encrypt(options, cipher, new Uint8Array());
  return `v1.${unixMs}.${encode(nonce)}.${encode(new Uint8Array(tag))}`;
}

/** A token by client credentials, with what the client or its platform signed, and the key that comes this once. */
export async function boundToken(tokenUrl: string, assertion: string, resource: string): Promise<[string, Bytes]> {
  const form = {
    grant_type: "client_credentials", client_assertion: assertion, resource, binding_alg: "aes-256-gcm",
    client_assertion_type: "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
  };
  const given = await (await fetch(tokenUrl, { method: "POST", body: new URLSearchParams(form) })).json();
  if (given.binding_alg !== "aes-256-gcm") throw new Error(`no bound token: ${given.error}`);
  return [given.access_token, decode(given.binding_key)];
}

const read = async (response: Response) => JSON.parse(`\n${await response.text()}`.split("\ndata:").pop()!);
/** Of one resource. What it corrects its clock by lasts as long as it does. */
export class Client {
  #aheadMs = 0;
  readonly #own: { url: string; token: string; key: Bytes };
  constructor(url: string, token: string, key: Bytes) {
    this.#own = { url, token, key };
  }

  async post(body: string, headers: Record<string, string>): Promise<Response> {
    const { url, token, key } = this.#own;
    // The path of the public URL, which is the token's audience: a data plane may be asked under another one.
    const path = new URL(JSON.parse(new TextDecoder().decode(decode(token.split(".")[1]))).aud).pathname;
    const nonce = crypto.getRandomValues(new Uint8Array(12));
    const proof = await prove(key, token, Date.now() + this.#aheadMs, nonce, "POST", path, body);
    const own = { Authorization: `Bearer ${token}`, "Bailiwick-Proof": proof };
    const media = { "Content-Type": "application/json", Accept: "application/json, text/event-stream" };
    return fetch(url, { method: "POST", body, headers: { ...headers, ...media, ...own } });
  }

  async call(tool: string, args: unknown): Promise<{ status: number; answer: any }> {
    const meta = {
      "io.modelcontextprotocol/protocolVersion": VERSION, "io.modelcontextprotocol/clientCapabilities": {},
      "io.modelcontextprotocol/clientInfo": { name: "proof.ts", version: "1" },
    };
    const params = { name: tool, arguments: args, _meta: meta };
    const body = JSON.stringify({ jsonrpc: "2.0", id: 1, method: "tools/call", params });
    const headers = { "Mcp-Protocol-Version": VERSION, "Mcp-Method": "tools/call", "Mcp-Name": tool };
    let response = await this.post(body, headers);
    let answer = await read(response);
    const told = answer.error?.data;
    if (response.status === 401 && told?.reason === "proof_stale" && told.serverTime) {
      this.#aheadMs = told.serverTime - Date.now();
      response = await this.post(body, headers);
      answer = await read(response);
    }
    return { status: response.status, answer };
  }
}

const [what, place, tool, args] = process.argv.slice(2);
if (what === "vectors") {
  const { vectors } = JSON.parse(readFileSync(place, "utf8"));
  for (const { name, key, token, unix_ms, nonce, method, path, body, proof } of vectors) {
    const made = await prove(decode(key), token, unix_ms, decode(nonce), method, path, body);
    if (made !== proof) throw new Error(`${name}: ${made} instead of ${proof}`);
  }
  console.log(JSON.stringify({ checked: vectors.length }));
} else if (what === "call") {
  const { ACCESS_TOKEN, BINDING_KEY = "", TOKEN_URL = "", CLIENT_ASSERTION = "", RESOURCE = place } = process.env;
  const given = ACCESS_TOKEN && ([ACCESS_TOKEN, decode(BINDING_KEY)] as const);
  const own = given || (await boundToken(TOKEN_URL, CLIENT_ASSERTION, RESOURCE));
  console.log(JSON.stringify(await new Client(place, ...own).call(tool, JSON.parse(args ?? "{}"))));
}
