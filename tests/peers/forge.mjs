// Signed statements as no honest provider makes them, written by hand so that no library mends them.
//
// An order says how one differs from what the provider would sign:
//   claims   members that replace the usual ones; null leaves one out
//   seconds  members that are so many seconds from now
//   header   as `claims`, of the header
//   by       "provider" (the default), "stranger": another key under the provider's key id, "embedded": another key,
//            which the header brings along, "public": HMAC with the provider's public key, "nobody": alg none
//   bytes    a claim of so many bytes
//   nested   a statement inside a statement
//   repeat   this claim is there twice, with another value the second time

import { KeyObject, createHmac, generateKeyPairSync, sign } from 'node:crypto';

const text = (value) => Buffer.from(value).toString('base64url');
const without = (members) => Object.fromEntries(Object.entries(members).filter(([, value]) => value !== null));

/** A signature as JWS has it (RFC 7518 §3). */
function signature(alg, key, signed) {
  const ec = alg.startsWith('ES') ? { dsaEncoding: 'ieee-p1363' } : {};
  return sign('sha256', Buffer.from(signed), { key, ...ec }).toString('base64url');
}

function signer(by, own) {
  const header = { alg: own.alg, kid: own.kid };
  if (by === 'provider') return { header, sign: (signed) => signature(own.alg, own.keyObject, signed) };
  if (by === 'nobody') return { header: { alg: 'none' }, sign: () => '' };
  if (by === 'public') {
    const mac = (signed) => createHmac('sha256', own.pem).update(signed).digest('base64url');
    return { header: { ...header, alg: 'HS256' }, sign: mac };
  }
  const other = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const brought = by === 'embedded' ? { jwk: other.publicKey.export({ format: 'jwk' }) } : {};
  const byOther = (signed) => signature('ES256', other.privateKey, signed);
  return { header: { ...header, alg: 'ES256', ...brought }, sign: byOther };
}

/** What the order says, as compact JWS. `key` is {kid, alg, privateKey, publicKey}. */
export function forge(usual, key, order) {
  const { claims = {}, header = {}, seconds = {}, by = 'provider', bytes = 0, nested = false, repeat } = order;
  const own = {
    ...key,
    keyObject: KeyObject.from(key.privateKey),
    pem: KeyObject.from(key.publicKey).export({ type: 'spki', format: 'pem' }),
  };
  const made = signer(by, own);
  const now = Math.floor(Date.now() / 1000);
  const times = Object.fromEntries(Object.entries(seconds).map(([name, away]) => [name, now + away]));
  const said = without({ ...usual, ...claims, ...times, ...(bytes ? { note: 'x'.repeat(bytes) } : {}) });
  let payload = JSON.stringify(said);
  if (repeat) payload = `${payload.slice(0, -1)},${JSON.stringify(repeat)}:"another"}`;
  const head = without({ typ: 'oauth-id-jag+jwt', ...made.header, ...header });
  const compact = (head, payload) => {
    const signed = `${text(JSON.stringify(head))}.${text(payload)}`;
    return `${signed}.${made.sign(signed)}`;
  };
  return nested ? compact({ ...head, cty: 'JWT' }, compact(head, payload)) : compact(head, payload);
}
