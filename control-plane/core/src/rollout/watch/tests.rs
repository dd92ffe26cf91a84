//! What the leader makes of what it sees, in virtual time.

use super::*;
use crate::{rollout::Plan, state::Changed, table::Table};

const STEPPED: u64 = 10;

/// A rollout with every second of the nodes `a` to `d` in its share, or all of them.
fn rollout(all: bool) -> Rollout {
    let plan = Plan { shares: vec![50], watch_seconds: 60, denials_max: 5, refusals_max: 0 };
    let changed = Changed { revision: STEPPED, time: 0 };
    let below = if all { bailiwick_proto::rollout::PLACES } else { half() };
    Rollout {
        id: 1,
        by: "admin".into(),
        plan,
        staged: Table::default(),
        began: changed,
        step: 0,
        below,
        stepped: changed,
    }
}

fn half() -> u64 {
    bailiwick_proto::rollout::below("1", NAMES, 50)
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn of_calls(all: u64, denied: u64) -> Counts {
    Counts { calls: Judged { all, denied }, ..Counts::default() }
}

struct World {
    rollout: Rollout,
    watch: Watch,
    seen: BTreeMap<String, Seen>,
    now: u64,
}

impl World {
    /// All connected, each with a hundred calls behind it of which ten were denied.
    fn new(all: bool) -> Self {
        let rollout = rollout(all);
        let watch = Watch::new(&rollout, Duration::from_secs(1_000));
        let counts = of_calls(100, 10);
        let node = Seen { epoch: 3, connected: true, acknowledged: STEPPED, refuses: false, counts, before: None };
        let seen = NAMES.iter().map(|name| ((*name).to_owned(), node.clone())).collect();
        let mut world = Self { rollout, watch, seen, now: 1_000 };
        assert_eq!(world.after(0), Verdict::Wait(None));
        world
    }

    fn after(&mut self, seconds: u64) -> Verdict {
        self.now += seconds;
        self.watch.look(&self.rollout, &self.seen, Duration::from_secs(self.now))
    }

    fn names(&self, in_share: bool) -> Vec<String> {
        self.seen.keys().filter(|name| self.rollout.has_in_share(name) == in_share).cloned().collect()
    }

    fn each(&mut self, in_share: bool, change: impl Fn(&mut Seen)) {
        for name in self.names(in_share) {
            change(self.seen.get_mut(&name).unwrap());
        }
    }

    /// Each shows so many lists, of each of which so many percent are left out.
    fn list(&mut self, in_share: bool, lists: u64, percent: u64) {
        let lists = Judged { all: lists * 1_000, denied: lists * percent * 10 };
        self.each(in_share, |node| node.counts.lists = node.counts.lists.and(lists));
    }

    fn call(&mut self, in_share: bool, decided: u64, denied: u64) {
        self.each(in_share, |node| node.counts = node.counts.and(of_calls(decided, denied)));
    }
}

fn is_back(verdict: &Verdict, because: &str) -> bool {
    matches!(verdict, Verdict::Back(reason) if reason.contains(because))
}

#[test]
fn a_share_that_is_no_worse_goes_on_after_its_time_and_not_before() {
    let mut world = World::new(false);
    world.call(true, 100, 14);
    world.call(false, 100, 10);
    assert_eq!(world.after(59), Verdict::Wait(None));
    assert!(matches!(world.after(1), Verdict::Advance(_)));
}

#[test]
fn a_share_that_denies_more_goes_back_at_once() {
    let mut world = World::new(false);
    world.call(true, 100, 16);
    world.call(false, 100, 10);
    let verdict = world.after(1);
    assert!(is_back(&verdict, "denied 32 of 200 calls (16 %), the others 20 of 200 (10 %)"), "{verdict:?}");
}

#[test]
fn a_handful_of_calls_is_no_sign_of_anything() {
    let mut world = World::new(false);
    world.call(true, 24, 24);
    world.call(false, 100, 0);
    assert_eq!(world.after(1), Verdict::Wait(None), "48 calls");
    world.call(true, 1, 1);
    assert!(matches!(world.after(1), Verdict::Back(_)), "50 calls");
}

#[test]
fn without_others_a_share_is_compared_with_itself_before() {
    for all in [true, false] {
        let mut world = World::new(all);
        world.call(true, 100, 15);
        assert_eq!(world.after(1), Verdict::Wait(None));
        world.call(true, 100, 20);
        let verdict = world.after(1);
        assert!(is_back(&verdict, "the same nodes before"), "{verdict:?}");
    }
}

#[test]
fn a_share_that_is_better_goes_on() {
    let mut world = World::new(false);
    world.call(true, 100, 0);
    world.call(false, 100, 90);
    assert!(matches!(world.after(60), Verdict::Advance(_)));
}

#[test]
fn one_refusal_too_many_goes_back_and_names_the_node() {
    let mut world = World::new(false);
    let name = world.names(true).remove(0);
    world.seen.get_mut(&name).unwrap().refuses = true;
    world.rollout.plan.refusals_max = 1;
    assert_eq!(world.after(1), Verdict::Wait(None), "one is allowed");
    world.rollout.plan.refusals_max = 0;
    let verdict = world.after(1);
    assert!(is_back(&verdict, &name), "{verdict:?}");
    // Outside the share a node has nothing to refuse; one that moved out of it does not count.
    let mut world = World::new(false);
    world.each(false, |node| node.refuses = true);
    assert_eq!(world.after(1), Verdict::Wait(None));
}

#[test]
fn a_node_of_the_share_that_is_behind_or_gone_holds_it_up() {
    let mut world = World::new(false);
    let name = world.names(true).remove(0);
    world.seen.get_mut(&name).unwrap().acknowledged = STEPPED - 1;
    let Verdict::Wait(Some(why)) = world.after(60) else { panic!("it is behind") };
    assert!(why.contains("not taken it yet") && why.contains(&name), "{why}");
    world.seen.get_mut(&name).unwrap().connected = false;
    let Verdict::Wait(Some(why)) = world.after(1) else { panic!("it is gone") };
    assert!(why.contains("are gone") && why.contains(&name), "{why}");
    // It is deleted, or comes back as another run that has it.
    let node = world.seen.remove(&name).unwrap();
    assert!(matches!(world.after(1), Verdict::Advance(_)));
    world.seen.insert(name, Seen { epoch: 12, connected: true, acknowledged: 12, ..node });
    assert!(matches!(world.after(1), Verdict::Advance(_)));
}

#[test]
fn without_anybody_in_the_share_nothing_is_proven() {
    let mut world = World::new(false);
    let mut fresh = World::new(false);
    fresh.watch = Watch::new(&fresh.rollout, Duration::from_secs(1_000));
    for world in [&mut world, &mut fresh] {
        world.watch.before.clear();
        world.each(true, |node| node.connected = false);
        let Verdict::Wait(Some(why)) = world.after(60) else { panic!("nobody has it") };
        assert!(why.contains("no node of the share"), "{why}");
    }
}

#[test]
fn another_run_of_a_node_counts_from_its_own_beginning() {
    let mut world = World::new(false);
    world.call(false, 100, 0);
    world.each(true, |node| (node.epoch, node.counts) = (STEPPED + 5, of_calls(40, 40)));
    assert!(matches!(world.after(1), Verdict::Back(_)), "eighty calls since the step");
    // A run that was registered before the step: what it had done by then is not known.
    let mut world = World::new(false);
    world.call(false, 100, 0);
    world.each(true, |node| (node.epoch, node.counts) = (STEPPED - 1, of_calls(40, 40)));
    assert_eq!(world.after(1), Verdict::Wait(None));
}

#[test]
fn a_leader_that_comes_late_goes_by_what_the_nodes_say_they_had_before() {
    for (before, expected) in [(None, false), (Some(of_calls(100, 10)), true)] {
        let mut world = World::new(true);
        world.call(true, 100, 90);
        world.each(true, |node| node.before = before);
        // Another one takes the lead, and what it sees first is what the candidate has denied already.
        world.watch = Watch::new(&world.rollout, Duration::from_secs(1_000));
        assert_eq!(matches!(world.after(1), Verdict::Back(_)), expected, "{before:?}");
    }
}

#[test]
fn another_step_is_watched_anew() {
    let mut world = World::new(false);
    assert!(world.watch.is_of(&world.rollout));
    world.rollout.step = 1;
    assert!(!world.watch.is_of(&world.rollout));
}

#[test]
fn no_number_of_calls_overflows() {
    let all = Judged { all: u64::MAX, denied: u64::MAX };
    assert!(all.is_worse(Judged { denied: 0, ..all }, 99) && !all.is_worse(all, 0));
    assert!(!all.is_worse(Judged::default(), 0) && all.and(all).since(Judged::default()) == all);
}

#[test]
fn a_share_that_hides_more_goes_back_unless_it_always_did() {
    // (share before, others before, share since, others since) in percent of each list; whether it goes back.
    for (before, others_before, since, others_since, expected) in [
        (10, 10, 100, 10, true),
        (10, 10, 15, 10, false),
        (10, 10, 16, 10, true),
        (80, 10, 80, 10, false),
        (10, 10, 90, 90, false),
        (50, 10, 0, 10, false),
    ] {
        let mut world = World::new(false);
        world.watch = Watch::new(&world.rollout, Duration::from_secs(1_000));
        world.list(true, 100, before);
        world.list(false, 100, others_before);
        assert_eq!(world.after(0), Verdict::Wait(None));
        world.list(true, 24, since);
        world.list(false, 100, others_since);
        assert_eq!(world.after(1), Verdict::Wait(None), "48 lists are a handful");
        world.list(true, 1, since);
        let verdict = world.after(1);
        assert_eq!(is_back(&verdict, "lists of tools"), expected, "{before} {since} {others_since}: {verdict:?}");
    }
}
