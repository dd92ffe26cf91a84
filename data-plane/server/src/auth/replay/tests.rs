//! Proofs count once, whatever the clock does, and nobody's flood makes others' proofs stale.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

const START: u64 = 1_800_000_000_500;
const REPLAYED: Unusable = Unusable::Replayed { here: true };
const KEEP: Duration = Duration::from_secs(100);

fn id(n: u64) -> ProofId {
    let mut id = [0; PROOF_ID_BYTES];
    id[..8].copy_from_slice(&n.to_be_bytes());
    id
}

#[test]
fn a_proof_counts_once_and_nothing_from_before_the_start_does() {
    let memory = Memory::of_size(START, KEEP, PROOFS_MAX);
    assert_eq!(memory.use_up(id(1), START, START), Ok(()));
    for later in [0, 1, 99_000] {
        assert_eq!(memory.use_up(id(1), START, START + later), Err(REPLAYED));
    }
    assert_eq!(memory.use_up(id(1), START + 5_000, START), Err(REPLAYED), "whatever time it says");
    assert_eq!(memory.use_up(id(2), START, START), Ok(()), "another one of the same time");
    assert_eq!(memory.use_up(id(3), START - 1, START), Err(Unusable::Stale));
    assert!(memory.is_stale(START - 1) && !memory.is_stale(START));
}

#[test]
fn what_another_node_used_counts_no_more_here() {
    let memory = Memory::of_size(START, KEEP, PROOFS_MAX);
    assert_eq!(memory.learn(id(1), START, START), Ok(()));
    assert_eq!(memory.use_up(id(1), START, START), Err(Unusable::Replayed { here: false }));
    assert_eq!(memory.use_up(id(2), START, START), Ok(()));
    assert_eq!(memory.learn(id(2), START, START), Err(REPLAYED), "it was used at both");
    assert_eq!(memory.learn(id(3), START - 1, START), Err(Unusable::Stale));
}

#[test]
fn what_is_forgotten_is_stale_from_then_on_also_when_the_clock_goes_back() {
    let memory = Memory::of_size(START, KEEP, PROOFS_MAX);
    memory.use_up(id(1), START, START).unwrap();
    let jumped = START + 3_600_000;
    memory.use_up(id(2), jumped, jumped).unwrap();
    assert_eq!(memory.use_up(id(1), START, jumped), Err(Unusable::Stale));
    assert_eq!(memory.use_up(id(1), START, START), Err(Unusable::Stale), "the clock is set back");
    assert_eq!(memory.use_up(id(3), START + 2_000, START + 2_000), Ok(()), "what is new goes on");
    assert_eq!(memory.use_up(id(2), jumped, START), Err(REPLAYED));
}

#[test]
fn a_full_memory_refuses_older_proofs_and_never_takes_one_twice() {
    let memory = Memory::of_size(START, KEEP, 10);
    for n in 0..10 {
        memory.use_up(id(n), START + n * SECOND_MS, START).unwrap();
    }
    memory.use_up(id(10), START + 9 * SECOND_MS, START + 9 * SECOND_MS).unwrap();
    assert_eq!(memory.use_up(id(0), START, START), Err(Unusable::Stale));
    assert_eq!(memory.use_up(id(1), START + SECOND_MS, START), Err(REPLAYED));
    // All of one second, which is not over: there is no room for more of it, and it stays known.
    let memory = Memory::of_size(START, KEEP, 2);
    assert_eq!(memory.use_up(id(1), START, START), Ok(()));
    assert_eq!(memory.use_up(id(2), START + 5_000, START), Ok(()));
    assert_eq!(memory.use_up(id(3), START, START), Err(Unusable::Stale));
    assert_eq!(memory.use_up(id(4), START + 5_000, START), Err(Unusable::Stale), "nobody is shut out by the future");
    assert_eq!(memory.use_up(id(1), START, START), Err(REPLAYED));
    assert_eq!(memory.use_up(id(5), START + 2_000, START + 2_000), Ok(()), "once it is over");
    assert_eq!(memory.use_up(id(1), START, START + 2_000), Err(Unusable::Stale));
}

/// The n-th proof of a person.
fn of(person: u64, n: u64) -> ProofId {
    let mut id = id(person);
    id[8..16].copy_from_slice(&n.to_be_bytes());
    id
}

const ROOM: usize = 1_600;
const SHARE: u64 = 100;
const JANE: u64 = u64::MAX;

#[test]
fn a_flood_by_one_person_moves_that_one_s_floor_and_nobody_else_s() {
    let memory = Memory::of_size(START, KEEP, ROOM);
    // Jane has a proof that was used, and one that is on its way.
    memory.use_up(of(JANE, 1), START, START).unwrap();
    let mut served = 0;
    for n in 0..50_000 {
        let now = START + n;
        served += u64::from(memory.use_up(of(7, n), now, now).is_ok());
    }
    assert!(served > SHARE, "young proofs go on to be served, as many as there is room for: {served}");
    let now = START + 50_000;
    assert!(memory.kept().people[&person_of(&of(7, 0))].held <= ROOM / SHARES);
    for n in 0..50_000 {
        assert!(memory.use_up(of(7, n), START + n, now).is_err(), "{n}");
    }
    assert_eq!(memory.use_up(of(7, 60_000), START, now), Err(Unusable::Stale), "an old one of theirs, never used");
    assert_eq!(memory.use_up(of(JANE, 1), START, now), Err(REPLAYED));
    assert_eq!(memory.use_up(of(JANE, 2), START, now), Ok(()), "hers of the same time counts");
    assert!(!memory.is_stale(START));
}

#[test]
fn many_tokens_are_one_person_s_and_many_people_leave_room_for_one_more() {
    let memory = Memory::of_size(START, KEEP, ROOM);
    memory.use_up(of(JANE, 0), START, START).unwrap();
    // As many as the shares and more, each with all that it may have and on for a minute.
    for n in 0..20 * SHARE * 4 {
        let now = START + n * 7;
        let _full = memory.use_up(of(n % 20, n), now, now);
        let kept = memory.kept();
        assert!(kept.proofs.len() + kept.floors.len() < ROOM, "some is left for whoever comes next");
    }
    let now = START + 60_000;
    for n in 1..30 {
        assert_eq!(memory.use_up(of(JANE, n), START + n * 2_000, now), Ok(()), "{n}");
    }
    for n in 0..30 {
        assert_eq!(memory.use_up(of(JANE, n), START + n * 2_000, now), Err(REPLAYED), "{n}");
    }
}

#[test]
fn what_other_nodes_tell_of_one_person_takes_that_one_s_share_only() {
    let memory = Memory::of_size(START, KEEP, ROOM);
    memory.use_up(of(JANE, 0), START, START).unwrap();
    for n in 0..10_000 {
        let _full = memory.learn(of(7, n), START + n, START + n);
    }
    let now = START + 10_000;
    assert_eq!(memory.use_up(of(JANE, 1), START, now), Ok(()));
    // Whether it was remembered or not: nothing that was used there counts here.
    for n in 0..10_000 {
        assert!(memory.use_up(of(7, n), START + n, now).is_err(), "{n}");
    }
    // All within one second, which is not over: what cannot be remembered is stale from then on.
    let now = after(now / SECOND_MS);
    for n in 20_000..20_000 + 3 * SHARE {
        let _full = memory.learn(of(8, n), now, now);
    }
    for n in 20_000..20_000 + 3 * SHARE {
        assert!(memory.use_up(of(8, n), now, now).is_err() && memory.use_up(of(8, n), now, now + 30_000).is_err());
    }
    assert_eq!(memory.use_up(of(8, 1), now + SECOND_MS, now + SECOND_MS), Ok(()), "their next second");
    assert_eq!(memory.use_up(of(JANE, 2), now, now), Ok(()));
}

#[test]
fn floors_of_people_are_forgotten_with_their_time_and_stay_in_force_when_the_clock_goes_back() {
    let memory = Memory::of_size(START, KEEP, ROOM);
    for n in 0..10 * SHARE {
        let _full = memory.use_up(of(7, n), START + n * 10, START + n * 10);
    }
    assert_eq!(memory.kept().floors.len(), 1);
    let later = START + 300_000;
    memory.use_up(of(JANE, 1), later, later).unwrap();
    let kept = memory.kept();
    assert_eq!((kept.floors.len(), kept.people.len(), kept.proofs.len()), (0, 1, 1));
    drop(kept);
    for n in 0..10 * SHARE {
        assert!(memory.use_up(of(7, n), START + n * 10, START).is_err(), "the clock was set back");
    }
}

proptest! {
    /// Whatever the clock does and however much comes from whomever, no proof is taken twice, what was told of counts no
    /// more, and memory stays bounded.
    #[test]
    fn nothing_counts_twice(
        uses in proptest::collection::vec((0_u64..40, 0_u64..200_000, 0_u64..400_000, 1_u64..20, any::<bool>()), 1..300),
    ) {
        let memory = Memory::of_size(START, Duration::from_secs(60), 32);
        let mut taken = HashSet::new();
        for (n, says, now, people, is_told) in uses {
            // A proof's time belongs to it, and so does its person.
            let time = START + (says + n * 7_919) % 200_000;
            let id = of(n % people, n * 1_000_000 + time % 1_000_000);
            if is_told {
                let _told = memory.learn(id, time, START + now);
                taken.insert((id, time));
            } else if memory.use_up(id, time, START + now).is_ok() {
                prop_assert!(taken.insert((id, time)));
            }
            let kept = memory.kept();
            prop_assert!(kept.proofs.len() <= 32);
            let held: usize = kept.people.values().map(|share| share.held).sum();
            let ids = kept.people.values().flat_map(|share| &share.seconds).map(|(_, ids)| ids.len()).sum::<usize>();
            prop_assert_eq!((kept.proofs.len(), kept.proofs.len()), (held, ids));
            for people in kept.seconds.values() {
                prop_assert_eq!(people.iter().collect::<HashSet<_>>().len(), people.len(), "each once");
            }
            for (person, share) in &kept.people {
                for (second, _) in &share.seconds {
                    prop_assert!(kept.seconds[second].contains(person), "what is held goes with its second");
                }
                prop_assert!(share.seconds.iter().is_sorted_by(|one, next| one.0 < next.0));
                prop_assert!(share.held > 0 || share.floor_ms > 0);
            }
        }
    }
}
