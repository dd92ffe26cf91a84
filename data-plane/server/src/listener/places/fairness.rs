//! Who gives way when all places are taken: a decision about what is held, and nothing else.
//!
//! Called by `places`. A share is what everybody would have if the places were divided among those that are there: by
//! address (of IPv6, by the network that one customer gets), and by caller where it is known who asks. Whoever has more
//! than a share gives way first, with idle connections before busy ones; then whoever is idle, the longest idle first.
//! A newcomer whose address has its share already replaces no busy connection, and nobody else's idle one. Pure.

use std::{cmp::Reverse, collections::HashMap, hash::Hash, net::IpAddr};

use super::super::room::CallerKey;

/// Of so many places, one gives way at a look, if it is idle: a look is worth more than one.
const IDLE_PART: usize = 100;
/// Whoever was idle for less may be about to ask again, milliseconds.
const IDLE_MIN_MS: u64 = 1_000;
/// Bits of an IPv6 address that lie within one customer's network.
const CUSTOMER_BITS: u32 = 64;

/// Where a connection comes from: an IPv4 address, or the network of an IPv6 one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Origin(u128);

impl Origin {
    pub(crate) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(address.to_bits().into()),
            // No network has only zeros there that an address comes from.
            IpAddr::V6(address) => Self(address.to_bits() >> CUSTOMER_BITS << CUSTOMER_BITS),
        }
    }
}

/// A place that is taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) number: u64,
    pub(super) origin: Origin,
    /// 0: nobody has asked anything.
    pub(super) caller: CallerKey,
    /// For how long it has been idle, milliseconds; none: it is busy.
    pub(super) idle: Option<u64>,
}

/// The numbers of those that give way to a newcomer from there.
pub(super) fn who_gives_way(held: &[Held], newcomer: Origin, places_max: usize) -> Vec<u64> {
    let by_origin = counted(held.iter().map(|held| held.origin).chain([newcomer]));
    let by_caller = counted(held.iter().map(|held| held.caller).filter(|caller| *caller != 0));
    let share = |groups: usize| (places_max / groups.max(1)).max(1);
    let (of_origin, of_caller) = (share(by_origin.len()), share(by_caller.len()));
    let more = |count: Option<&usize>, share: usize| count.is_some_and(|count| *count > share);
    let has_more = |held: &&Held| {
        let alone = by_origin.len() == 1;
        (!alone && more(by_origin.get(&held.origin), of_origin))
            || (by_caller.len() > 1 && more(by_caller.get(&held.caller), of_caller))
    };
    let most = (places_max / IDLE_PART).max(1);
    let idle = longest_idle(held.iter().filter(has_more), most);
    if !idle.is_empty() {
        return idle;
    }
    let newcomer_has_more = by_origin.len() > 1 && more(by_origin.get(&newcomer), of_origin);
    if newcomer_has_more {
        return Vec::new();
    }
    let newest = held.iter().filter(|held| held.idle.is_none()).filter(has_more).map(|held| held.number).max();
    match newest {
        Some(newest) => vec![newest],
        None => longest_idle(held.iter(), most),
    }
}

fn counted<K: Eq + Hash>(keys: impl Iterator<Item = K>) -> HashMap<K, usize> {
    let mut counts = HashMap::new();
    keys.for_each(|key| *counts.entry(key).or_default() += 1);
    counts
}

fn longest_idle<'a>(held: impl Iterator<Item = &'a Held>, most: usize) -> Vec<u64> {
    let idle = |held: &Held| held.idle.filter(|idle| *idle >= IDLE_MIN_MS).map(|idle| (Reverse(idle), held.number));
    let mut idle: Vec<_> = held.filter_map(idle).collect();
    idle.sort_unstable();
    idle.truncate(most);
    idle.into_iter().map(|(_, number)| number).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LONG: Option<u64> = Some(60_000);

    fn held(of: &[(u128, CallerKey, Option<u64>, usize)]) -> Vec<Held> {
        let all = of.iter().flat_map(|(origin, caller, idle, times)| vec![(*origin, *caller, *idle); *times]);
        let numbered = all.enumerate().map(|(number, (origin, caller, idle))| Held {
            number: u64::try_from(number).unwrap(),
            origin: Origin(origin),
            caller,
            idle,
        });
        numbered.collect()
    }

    #[test]
    fn who_gives_way_to_a_newcomer_is_as_the_documentation_says() {
        for (what, of, newcomer, gives_way) in [
            ("one address has all: its newest", vec![(1, 7, None, 10)], 2, vec![9]),
            ("its idle ones before", vec![(1, 7, None, 5), (1, 7, LONG, 5)], 2, vec![5]),
            ("not to itself, unless idle", vec![(1, 7, None, 9), (2, 8, None, 1)], 1, vec![]),
            ("to itself, if idle", vec![(1, 7, None, 8), (1, 7, LONG, 1), (2, 8, LONG, 1)], 1, vec![8]),
            ("all through one balancer: the longest idle", vec![(1, 7, LONG, 9), (1, 7, Some(70_000), 1)], 1, vec![9]),
            ("one caller through one balancer", vec![(1, 7, None, 8), (1, 8, None, 1), (1, 9, None, 1)], 1, vec![7]),
            ("everybody has a share: the longest idle", vec![(1, 7, None, 5), (2, 8, LONG, 5)], 3, vec![5]),
            ("nobody is idle or has more", vec![(1, 1, None, 5), (2, 2, None, 5)], 2, vec![]),
            ("idle for a moment only", vec![(1, 7, Some(5), 10)], 1, vec![]),
        ] {
            let give_way = who_gives_way(&held(&of), Origin(newcomer), 10);
            assert_eq!(give_way, gives_way, "{what}");
        }
    }

    #[test]
    fn a_customer_of_an_ipv6_network_is_one_and_so_is_an_address_written_either_way() {
        let origin = |text: &str| Origin::of(text.parse().unwrap());
        assert_eq!(origin("2001:db8:1:2::1"), origin("2001:db8:1:2:ffff::9"));
        assert_ne!(origin("2001:db8:1:2::1"), origin("2001:db8:1:3::1"));
        assert_eq!(origin("::ffff:192.0.2.1"), origin("192.0.2.1"));
        assert_ne!(origin("192.0.2.1"), origin("192.0.2.2"));
    }

    proptest! {
        #[test]
        fn whoever_has_no_more_than_a_share_keeps_what_is_busy_and_a_stranger_gets_in_when_somebody_has_more(
            of in prop::collection::vec((1_u128..6, 1_u64..6, prop::option::of(0_u64..5000)), 20),
            newcomer in 1_u128..8,
        ) {
            let of: Vec<_> = of.into_iter().map(|(origin, caller, idle)| (origin, caller, idle, 1)).collect();
            let held = held(&of);
            let give_way = who_gives_way(&held, Origin(newcomer), held.len());
            let count = |origin: Origin| held.iter().filter(|held| held.origin == origin).count();
            let origins = counted(held.iter().map(|held| held.origin).chain([Origin(newcomer)])).len();
            let callers = counted(held.iter().map(|held| held.caller)).len();
            for gone in held.iter().filter(|held| give_way.contains(&held.number)) {
                let of_caller = held.iter().filter(|held| held.caller == gone.caller).count();
                let has_more = count(gone.origin) > held.len() / origins || of_caller > held.len() / callers;
                prop_assert!(gone.idle.is_some() || has_more);
            }
            let largest = held.iter().map(|held| count(held.origin)).max().unwrap_or(0);
            if count(Origin(newcomer)) == 0 && largest > (held.len() / origins).max(1) {
                let may_go = |held: &Held| held.idle.is_none_or(|idle| idle >= IDLE_MIN_MS);
                let somebody_may = held.iter().any(|held| count(held.origin) == largest && may_go(held));
                prop_assert!(!give_way.is_empty() || !somebody_may);
            }
        }
    }
}
