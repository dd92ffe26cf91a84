//! Notes on their way between nodes: which proofs of possession were used, so that none counts at another node.
//!
//! Called by the server, for many proofs at a time. Sealed for the nodes, because whoever could write such a note could
//! use up proofs of others before they come. Packed: there may be ten thousand proofs a second.

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use serde::{Deserialize, Serialize};

use super::{Kind, NotOurs, NotSealed, SealNonce, SealingKeys, level::nobody};

/// How long a note is taken: as long as any proof in it could count. It may wait for a connection, and does no harm twice.
const NOTE_SECONDS_MAX: i64 = 400;
/// Most proofs in one note: what fits into a message on the event stream.
pub const USED_MAX: usize = 1_000;
const NOTE_BYTES_MAX: usize = 60 * 1024;
const PROOF_BYTES: usize = 1 + PROOF_ID_BYTES + 8;

const KIND: Kind = Kind { word: "u1", seconds_max: NOTE_SECONDS_MAX, text_bytes_max: NOTE_BYTES_MAX };

/// Bytes of [`UsedProof::id`]: eight of whose it is, twelve of which one.
pub const PROOF_ID_BYTES: usize = 20;

/// A proof that was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsedProof {
    /// Whether it was a DPoP proof.
    pub dpop: bool,
    /// What tells it from all others.
    pub id: [u8; PROOF_ID_BYTES],
    /// The time that says how long it has to be remembered, in milliseconds since 1970.
    pub unix_ms: u64,
}

/// Proofs that were used at one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsedProofs {
    /// Which run of which node this is, drawn at random: a node hears itself, too.
    pub from: u64,
    /// At most [`USED_MAX`].
    pub proofs: Vec<UsedProof>,
}

#[derive(Serialize, Deserialize)]
struct Content {
    f: u64,
    p: String,
}

impl UsedProofs {
    /// Seals a note.
    ///
    /// # Errors
    /// There is no key, or there are too many proofs.
    pub fn seal(&self, keys: &SealingKeys, now_unix: i64, nonce: SealNonce) -> Result<String, NotSealed> {
        if self.proofs.len() > USED_MAX {
            return Err(NotSealed::TooLong);
        }
        let packed: Vec<u8> = self.proofs.iter().flat_map(UsedProof::packed).collect();
        let content = Content { f: self.from, p: STANDARD_NO_PAD.encode(packed) };
        keys.seal(&KIND, &nobody(), &[], &content, (now_unix, nonce))
    }

    /// Opens what was brought.
    ///
    /// # Errors
    /// No node sealed this, or too long ago.
    pub fn open(keys: &SealingKeys, text: &str, now_unix: i64) -> Result<Self, NotOurs> {
        let (content, _) = keys.open::<Content>(&KIND, &nobody(), &[], text, now_unix)?;
        let packed = STANDARD_NO_PAD.decode(content.p).map_err(|_undecodable| NotOurs)?;
        let (proofs, rest) = packed.as_chunks::<PROOF_BYTES>();
        let proofs = proofs.iter().map(UsedProof::unpacked).collect::<Option<_>>().filter(|_| rest.is_empty());
        Ok(Self { from: content.f, proofs: proofs.ok_or(NotOurs)? })
    }
}

impl UsedProof {
    fn packed(&self) -> impl Iterator<Item = u8> + use<> {
        [u8::from(self.dpop)].into_iter().chain(self.id).chain(self.unix_ms.to_be_bytes())
    }

    fn unpacked(packed: &[u8; PROOF_BYTES]) -> Option<Self> {
        let (dpop, rest) = packed.split_first()?;
        let (id, unix_ms) = rest.split_first_chunk()?;
        Some(Self { dpop: *dpop != 0, id: *id, unix_ms: u64::from_be_bytes(unix_ms.try_into().ok()?) })
    }
}

#[cfg(test)]
mod tests {
    use bailiwick_proto::v1::SealingKey;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn keys(seed: u8) -> SealingKeys {
        SealingKeys::new(&[SealingKey { id: "k".into(), key: vec![seed; 32] }]).unwrap()
    }

    #[test]
    fn as_many_proofs_as_a_message_holds_are_told_and_only_nodes_tell_them() {
        let proof =
            |n: u64| UsedProof { dpop: n % 2 == 1, id: [n.to_be_bytes()[7]; PROOF_ID_BYTES], unix_ms: u64::MAX - n };
        let told = UsedProofs { from: u64::MAX, proofs: (0..USED_MAX as u64).map(proof).collect() };
        let text = told.seal(&keys(1), NOW, [3; 24]).unwrap();
        assert!(text.len() <= NOTE_BYTES_MAX, "{}", text.len());
        assert_eq!(UsedProofs::open(&keys(1), &text, NOW + NOTE_SECONDS_MAX - 1), Ok(told.clone()));
        assert_eq!(UsedProofs::open(&keys(1), &text, NOW + NOTE_SECONDS_MAX), Err(NotOurs));
        assert_eq!(UsedProofs::open(&keys(2), &text, NOW), Err(NotOurs));
        let more = UsedProofs { proofs: (0..=USED_MAX as u64).map(proof).collect(), ..told };
        assert_eq!(more.seal(&keys(1), NOW, [3; 24]), Err(NotSealed::TooLong));
    }
}
