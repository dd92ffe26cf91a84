//! Reserves: runs that were registered in advance, to be begun without a control plane.

use bailiwick_control_plane_core::{
    Command, Rejection,
    command::Decision,
    node::{RUNS_AT_ONCE_MAX, Role},
    rejection::Class,
    reserve::RESERVES_MAX,
};

use crate::world::World;

fn register(key: u8) -> Command {
    Command::RegisterNode { node: "dp-1".into(), role: Role::DataPlane, public_key: [key; 32] }
}

fn reserve(world: &mut World, key: u8) -> Result<Decision, Rejection> {
    let run = world.state.nodes.get("dp-1").map_or(0, |node| node.epoch);
    world.run(Command::ReserveEpoch { node: "dp-1".into(), run, public_key: [key; 32] })
}

fn begin(epoch: u64, key: u8) -> Command {
    Command::BeginReserved { node: "dp-1".into(), epoch, public_key: [key; 32] }
}

/// One event of each kind there is here.
pub(crate) fn one_of_each(world: &mut World) {
    world.run(register(7)).unwrap();
    reserve(world, 8).unwrap();
    let epoch = world.state.revision;
    world.run(begin(epoch, 8)).unwrap();
}

#[test]
fn a_reserved_run_may_begin_once_and_only_as_it_was_reserved() {
    let mut world = World::example();
    let gone = Rejection::ReserveGone { node: "dp-1".into() };
    assert_eq!(reserve(&mut world, 2).unwrap_err(), Rejection::NotThatRun { node: "dp-1".into() });
    assert_eq!(world.run(begin(1, 2)).unwrap_err(), gone);
    world.run(register(1)).unwrap();
    let first = world.state.nodes.get("dp-1").unwrap().epoch;
    assert_eq!(reserve(&mut world, 1).unwrap_err().class(), Class::Invalid, "the present run's own key");
    reserve(&mut world, 2).unwrap();
    let reserved = world.state.revision;
    assert_eq!(reserve(&mut world, 2).unwrap().repeated, Some(reserved), "the answer was lost");
    assert_eq!(world.state.nodes.get("dp-1").unwrap().epoch, first, "the present run goes on");
    for (epoch, key) in [(reserved + 1, 2), (first, 2), (reserved, 3)] {
        assert_eq!(world.run(begin(epoch, key)).unwrap_err(), gone, "{epoch} {key}");
    }
    world.run(begin(reserved, 2)).unwrap();
    let node = world.state.nodes.get("dp-1").unwrap();
    assert_eq!((node.epoch, node.public_key.as_str(), node.reserves.len()), (reserved, &*"02".repeat(32), 0));
    assert_eq!(world.run(begin(reserved, 2)).unwrap().repeated, Some(reserved));
    let old = Command::ReserveEpoch { node: "dp-1".into(), run: first, public_key: [6; 32] };
    assert_eq!(world.run(old).unwrap_err(), Rejection::NotThatRun { node: "dp-1".into() }, "a run that was replaced");
    reserve(&mut world, 3).unwrap();
    let unused = world.state.revision;
    world.run(register(4)).unwrap();
    assert_eq!(world.run(begin(unused, 3)).unwrap_err(), gone, "another run was registered since");
}

#[test]
fn reserves_are_begun_in_their_order_and_only_a_few_are_kept() {
    let mut world = World::example();
    world.run(register(1)).unwrap();
    let mut reserved = Vec::new();
    for key in 2..8 {
        reserve(&mut world, key).unwrap();
        reserved.push((world.state.revision, key));
    }
    let gone = Rejection::ReserveGone { node: "dp-1".into() };
    let forgotten = reserved.len() - RESERVES_MAX;
    for (epoch, key) in &reserved[..forgotten] {
        assert_eq!(world.run(begin(*epoch, *key)).unwrap_err(), gone);
    }
    let (second, key) = reserved[forgotten + 1];
    world.run(begin(second, key)).unwrap();
    let (first, key) = reserved[forgotten];
    assert_eq!(world.run(begin(first, key)).unwrap_err(), gone, "a later one has begun");
    let (third, key) = reserved[forgotten + 2];
    world.run(begin(third, key)).unwrap();
    let node = world.state.nodes.get("dp-1").unwrap();
    assert_eq!((node.epoch, node.reserves.len()), (third, 1));
}

#[test]
fn reserves_count_as_runs_when_a_node_crashes_at_every_start() {
    let mut world = World::default();
    world.run(register(0)).unwrap();
    let reserved = (1..100).filter(|key| reserve(&mut world, *key).is_ok()).count() as u64;
    assert_eq!(reserved, RUNS_AT_ONCE_MAX - 1);
}
