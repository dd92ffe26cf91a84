//! JWTs of which it is known who signed them: a header, claims and a last part, with an empty line between them.
//!
//! The last part is a signature, or names who signs: `@own`, or `@other`, whom nobody believes; what stands behind the
//! name stands behind the signature. In a header these names stand for the public keys.

use std::sync::OnceLock;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{
    mutate::{Random, changed},
    targets::Broken,
};

const BETWEEN: &str = "\n\n";
/// Of the key that is believed, and of another.
pub(crate) const SEED: [u8; 32] = [7; 32];
const OTHER_SEED: [u8; 32] = [8; 32];

/// A JWT.
pub(crate) struct Signed {
    pub(crate) jwt: String,
    pub(crate) header: Vec<u8>,
    pub(crate) claims: Vec<u8>,
    /// Whose signature it has, if it has one and nothing behind it.
    pub(crate) by: Option<Signer>,
}

/// Who signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signer {
    Own,
    Other,
}

impl Signer {
    fn key(self) -> Result<&'static Ed25519KeyPair, Broken> {
        static KEYS: OnceLock<Option<[Ed25519KeyPair; 2]>> = OnceLock::new();
        let made = || {
            let pair = |seed| Ed25519KeyPair::from_seed_unchecked(seed).ok();
            Some([pair(&SEED)?, pair(&OTHER_SEED)?])
        };
        let [own, other] = KEYS.get_or_init(made).as_ref().ok_or_else(|| Broken("no keys to try with".to_owned()))?;
        Ok(if self == Self::Own { own } else { other })
    }

    /// The public key, as a JWK has it.
    pub(crate) fn x(self) -> Result<String, Broken> {
        Ok(URL_SAFE_NO_PAD.encode(self.key()?.public_key().as_ref()))
    }
}

/// Parts that belong together, of which at most one was changed.
pub(crate) fn one(random: &mut Random, headers: &[&str], claims: &[&str]) -> Vec<u8> {
    const LAST: [&str; 3] = ["@own", "@other", "AAAA"];
    // What is right is written first.
    let mut picked = |of: &[&str]| {
        let at = if random.below(4) > 0 { 0 } else { random.below(of.len()) };
        of.get(at).copied().unwrap_or_default().as_bytes().to_vec()
    };
    let (header, said, last) = (picked(headers), picked(claims), picked(&LAST));
    let parts = match random.below(8) {
        0 => [header, said, changed(random, &last, &LAST)],
        1..4 => [changed(random, &header, headers), said, last],
        _ => [header, changed(random, &said, claims), last],
    };
    parts.join(BETWEEN.as_bytes())
}

/// The JWT of an input.
pub(crate) fn signed(input: &[u8]) -> Result<Signed, Broken> {
    let mut rest = input;
    let mut part = || {
        let at = rest.windows(BETWEEN.len()).position(|pair| pair == BETWEEN.as_bytes()).unwrap_or(rest.len());
        let (part, after) = rest.split_at(at);
        rest = after.get(BETWEEN.len()..).unwrap_or_default();
        part.to_vec()
    };
    let (header, claims, last) = (part(), part(), part());
    let header = match String::from_utf8(header) {
        Ok(text) => text.replace("@own", &Signer::Own.x()?).replace("@other", &Signer::Other.x()?).into_bytes(),
        Err(error) => error.into_bytes(),
    };
    let last = String::from_utf8_lossy(&last).into_owned();
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(&header), URL_SAFE_NO_PAD.encode(&claims));
    let signature = |signer: Signer| Ok(URL_SAFE_NO_PAD.encode(signer.key()?.sign(message.as_bytes())));
    let named = [(Signer::Own, "@own"), (Signer::Other, "@other")];
    let named = named.into_iter().find_map(|(signer, name)| Some((signer, last.strip_prefix(name)?)));
    let (signature, by) = match named {
        Some((signer, behind)) => (signature(signer)? + behind, behind.is_empty().then_some(signer)),
        None => (last.clone(), None),
    };
    Ok(Signed { jwt: format!("{message}.{signature}"), header, claims, by })
}

/// The same JWT, cut and changed in places that no reading may pass over.
pub(crate) fn spoilt(jwt: &str) -> Vec<String> {
    let mut all = vec![format!("{jwt}A"), format!("{jwt}."), format!("{jwt}="), format!(" {jwt}"), format!("{jwt}\n")];
    all.extend(jwt.char_indices().last().and_then(|(at, _)| jwt.get(..at)).map(str::to_owned));
    for part in 0..3 {
        let mut parts: Vec<String> = jwt.split('.').map(str::to_owned).collect();
        if let Some(text) = parts.get_mut(part) {
            let first = if text.starts_with('B') { "C" } else { "B" };
            *text = format!("{first}{}", text.get(1..).unwrap_or_default());
        }
        all.push(parts.join("."));
    }
    all
}
