//! Rollouts: which nodes a change that is rolled out in stages counts for, and under which keys it travels.
//!
//! Every node gets the same entries; each asks here whether it is in the share, and so does the control plane, which
//! therefore knows without asking. A node's place depends on its name and on the rollout alone: a share that grows keeps
//! the nodes it had, and another rollout begins with other nodes. Called by the control plane and by `data-plane/core`.
//! Absent: what a rollout changes (its entries), when a share grows (`control-plane/core`).

use aws_lc_rs::digest::{Context, SHA256};

/// Places are below this; a share that ends here has every node in it.
pub const PLACES: u64 = 1 << 32;
/// Under `rollout/<id>`: the rollout and its share.
pub const ROLLOUT: &str = "rollout";
/// Under `rollout_change/<id>/<key>`: what stands under that key for nodes in the share.
pub const CHANGE: &str = "rollout_change";

/// A node's place in a rollout, below [`PLACES`]: the first four bytes of SHA-256 of the rollout's id, a zero byte and
/// the node's name.
#[must_use]
pub fn place(rollout: &str, node: &str) -> u64 {
    let mut context = Context::new(&SHA256);
    context.update(rollout.as_bytes());
    context.update(&[0]);
    context.update(node.as_bytes());
    let digest = context.finish();
    digest.as_ref().iter().take(4).fold(0, |place, byte| (place << 8) | u64::from(*byte))
}

/// Whether a node is in the share of a rollout that ends below this place.
#[must_use]
pub fn is_in_share(rollout: &str, node: &str, below: u64) -> bool {
    place(rollout, node) < below
}

/// What the share must end below so that it holds `percent` of these nodes, rounded up: at least one, if there is any.
#[must_use]
pub fn below<'a>(rollout: &str, nodes: impl IntoIterator<Item = &'a str>, percent: u64) -> u64 {
    if percent >= 100 {
        return PLACES;
    }
    let mut places: Vec<u64> = nodes.into_iter().map(|node| place(rollout, node)).collect();
    places.sort_unstable();
    let count = (places.len() as u64).saturating_mul(percent).div_ceil(100);
    let last = usize::try_from(count).ok().and_then(|count| places.get(count.checked_sub(1)?));
    last.map_or(PLACES * percent / 100, |place| place + 1)
}

/// What a node says that keeps what it had, because a rollout's policies cannot be used there.
#[must_use]
pub fn refusal(rollout: &str, problem: &str) -> String {
    format!("{ROLLOUT} {rollout}: {problem}")
}

/// Whether a node's words are a [`refusal`] of this rollout.
#[must_use]
pub fn is_refusal(rollout: &str, said: &str) -> bool {
    let rest = said.strip_prefix(ROLLOUT).and_then(|rest| rest.strip_prefix(' '));
    rest.and_then(|rest| rest.strip_prefix(rollout)).is_some_and(|rest| rest.starts_with(": "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("data-plane-{n}")).collect()
    }

    fn held(rollout: &str, nodes: &[String], below: u64) -> Vec<usize> {
        (0..nodes.len()).filter(|n| is_in_share(rollout, &nodes[*n], below)).collect()
    }

    #[test]
    fn a_share_holds_just_its_percentage_rounded_up() {
        for (count, percent, expected) in
            [(1, 1, 1), (2, 10, 1), (2, 50, 1), (2, 51, 2), (3, 50, 2), (10, 10, 1), (1_000, 1, 10), (7, 100, 7)]
        {
            let nodes = names(count);
            let below = below("7", nodes.iter().map(String::as_str), percent);
            assert_eq!(held("7", &nodes, below).len(), expected, "{percent} % of {count}");
        }
        assert_eq!(below("7", [], 25), PLACES / 4);
    }

    #[test]
    fn a_share_that_grows_keeps_its_nodes_and_other_rollouts_begin_elsewhere() {
        let nodes = names(100);
        let of =
            |rollout: &str, percent| held(rollout, &nodes, below(rollout, nodes.iter().map(String::as_str), percent));
        let (tenth, half) = (of("7", 10), of("7", 50));
        assert!(tenth.iter().all(|node| half.contains(node)));
        assert_ne!(tenth, of("8", 10));
        assert_eq!(of("7", 100).len(), 100);
    }

    #[test]
    fn places_are_as_written_down() {
        // printf '1\0data-plane-1' | sha256sum
        assert_eq!(place("1", "data-plane-1"), 0x74db_3ef7);
        assert_eq!(place("1", "data-plane-2"), 0xf952_201d);
    }

    #[test]
    fn a_refusal_is_told_from_those_of_other_rollouts() {
        let said = refusal("7", "policy `p`, line 1: no");
        assert!(is_refusal("7", &said));
        for other in ["70", "", "8"] {
            assert!(!is_refusal(other, &said), "{other}");
        }
        assert!(!is_refusal("7", "policy `p`, line 1: no"));
    }
}
