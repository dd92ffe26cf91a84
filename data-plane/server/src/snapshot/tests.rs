//! Snapshots on a real disk: what comes back after a restart, and everything that must not.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, sync::Arc, time::Duration};

use bailiwick_data_plane_core::{Catalogue, admission::Freshness};
use bailiwick_enrolment::ControlPlane;
use bailiwick_proto::{config_digest, v1};
use bailiwick_runtime::{
    Identity, MasterKeyConfig, MasterKeys,
    authority::Authority,
    connect::Targets,
    identity::{NodeKey, NotBelieved, Role, SpiffeId},
};
use prost::Message as _;

use super::*;
use crate::{
    config_client::ConfigStream,
    config_state::ConfigState,
    fakes::{
        control_plane::FakeControlPlane,
        eventually,
        world::{consent, entry},
    },
};

const HOUR: Duration = Duration::from_secs(3600);
const NODE: &str = "dp-1";

fn now() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_microsecond()).unwrap()
}

fn authority(cluster: &str) -> Authority {
    let key = NodeKey::generate().unwrap();
    Authority::open(&Authority::create(cluster, &key, now() / MICROS).unwrap(), &key).unwrap()
}

fn member(authority: &Authority, cluster: &str, role: Role, name: &str) -> Identity {
    let (identity, key) = (Identity::default(), NodeKey::generate().unwrap());
    let node_id = (role == Role::ControlPlane).then_some(1);
    let id = SpiffeId { cluster: cluster.to_owned(), role, node_id, name: name.to_owned() };
    let certificate = authority.issue(&id, key.public_key(), now() / MICROS).unwrap();
    identity.install(&certificate, authority.certificate(), &key).unwrap();
    identity
}

/// One data plane's disk, and the control plane that it follows.
struct World {
    folder: tempfile::TempDir,
    authority: Authority,
    signer: Identity,
    place: Place,
    journal: Journal,
    entries: Vec<v1::Entry>,
    revision: u64,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = authority("aa");
        let place = place(&folder, "aa", NODE, &authority);
        let signer = member(&authority, "aa", Role::ControlPlane, "cp-1");
        let journal = Journal::new(place.clone());
        Self { folder, authority, signer, place, journal, entries: vec![consent(false), user("jane")], revision: 7 }
    }

    /// A world in which the whole of its entries is kept.
    fn kept() -> Self {
        let mut world = Self::new();
        world.snapshot();
        world.state();
        world
    }

    fn digest(&self) -> Vec<u8> {
        config_digest::of_entries(&self.entries).to_vec()
    }

    fn snapshot(&mut self) {
        let half = self.entries.len() / 2;
        let (one, other) = self.entries.split_at(half);
        let chunk = v1::Snapshot { revision: self.revision, entries: one.to_vec(), ..v1::Snapshot::default() };
        self.journal.chunk(chunk.revision, false, &chunk.encode_to_vec());
        let last = v1::Snapshot { entries: other.to_vec(), last: true, digest: self.digest(), ..chunk };
        self.journal.chunk(last.revision, true, &last.encode_to_vec());
    }

    fn change(&mut self, changed: v1::Entry) {
        self.entries.retain(|entry| entry.key != changed.key);
        self.entries.push(changed.clone());
        let changes = vec![v1::EntryChange { key: changed.key, value: Some(changed.value) }];
        self.revision += 1;
        self.journal.delta(v1::Delta { from: self.revision - 1, to: self.revision, changes, digest: self.digest() });
    }

    fn remove(&mut self, key: &str) {
        self.entries.retain(|entry| entry.key != key);
        let changes = vec![v1::EntryChange { key: key.to_owned(), value: None }];
        self.revision += 1;
        self.journal.delta(v1::Delta { from: self.revision - 1, to: self.revision, changes, digest: self.digest() });
    }

    fn said(&self, time: u64) -> v1::Statement {
        let said = v1::Statement { revision: self.revision, digest: self.digest(), time, ..v1::Statement::default() };
        let word = self.signer.sign(&statement::message("aa", &said)).unwrap();
        v1::Statement { certificate: word.certificate, signature: word.signature, ..said }
    }

    fn state(&mut self) {
        self.journal.statement(self.said(now()));
    }

    fn deny(&mut self, revision: u64, denied: v1::Entry) {
        let changes = vec![v1::EntryChange { key: denied.key, value: Some(denied.value) }];
        self.journal.deny(v1::Denials { revision, changes, more: true, ..v1::Denials::default() });
    }

    fn load(&self) -> Result<Restored, Unusable> {
        load(&self.place, Catalogue::of_node(NODE), now(), HOUR)
    }

    fn file(&self) -> PathBuf {
        self.place.file()
    }
}

fn place(folder: &tempfile::TempDir, cluster: &str, node: &str, authority: &Authority) -> Place {
    let identity = member(authority, cluster, Role::DataPlane, node);
    let config = MasterKeyConfig::ensure_file(&folder.path().join("master.key")).unwrap();
    let master_keys = MasterKeys::load(&config).unwrap();
    Place::open(folder.path().join("snapshot"), &folder.path().join("keys"), &master_keys, node, identity).unwrap()
}

fn user(name: &str) -> v1::Entry {
    let user = v1::User { name: name.into(), groups: vec![], active: true };
    entry(&format!("user/{name}"), v1::resource::Resource::User(user))
}

/// An entry as large as they come.
fn large(number: usize) -> v1::Entry {
    v1::Entry { key: format!("policy/p-{number}"), value: vec![7; 1 << 20] }
}

fn holds(restored: &Restored, world: &World) {
    assert_eq!((restored.revision, restored.catalogue.revision()), (world.revision, world.revision));
    assert_eq!(restored.catalogue.digest(), world.digest());
}

#[test]
fn what_a_control_plane_stated_comes_back() {
    let mut world = World::kept();
    let keys =
        v1::Keys { session_sealing: vec![v1::SealingKey { id: "k".into(), key: vec![9; 32] }], ..v1::Keys::default() };
    world.journal.keys(keys.clone());
    holds(&world.load().unwrap(), &world);
    world.change(user("joe"));
    world.remove("user/jane");
    world.change(user("jim"));
    world.state();
    let restored = world.load().unwrap();
    holds(&restored, &world);
    assert!(restored.age < Duration::from_secs(30) && restored.keys == Some(keys));
}

#[test]
fn the_file_is_private_and_shows_nothing() {
    let mut world = World::kept();
    world.change(user("somebody-in-particular"));
    world.journal.keys(v1::Keys {
        session_sealing: vec![v1::SealingKey { id: "k".into(), key: vec![0x5a; 32] }],
        ..v1::Keys::default()
    });
    world.state();
    assert_eq!(fs::metadata(world.file()).unwrap().permissions().mode() & 0o777, 0o600);
    let bytes = fs::read(world.file()).unwrap();
    for secret in [b"somebody-in-particular".as_slice(), &[0x5a; 8], b"jane"] {
        assert!(!bytes.windows(secret.len()).any(|part| part == secret));
    }
    fs::set_permissions(world.file(), fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(world.load(), Err(Unusable::Log(_))));
}

#[test]
fn what_no_control_plane_stated_yet_does_not() {
    let mut world = World::kept();
    let (revision, digest) = (world.revision, world.digest());
    world.change(user("joe"));
    let restored = world.load().unwrap();
    assert_eq!((restored.revision, restored.catalogue.digest()), (revision, digest));
    let mut fresh = World::new();
    fresh.snapshot();
    assert!(matches!(fresh.load(), Err(Unusable::Absent)), "a snapshot without a statement");
}

#[test]
fn a_restart_goes_on_where_the_file_ends() {
    let mut world = World::kept();
    for name in ["joe", "jim", "jill"] {
        let restored = world.load().unwrap();
        world.journal = Journal::resume(world.place.clone(), &restored).unwrap();
        world.change(user(name));
        world.state();
    }
    holds(&world.load().unwrap(), &world);
}

#[test]
fn a_denial_outlasts_a_restart_before_anything_is_stated_of_it() {
    let mut world = World::kept();
    world.deny(9, consent(true));
    let changes = vec![v1::EntryChange { key: "consent/c-1".into(), value: None }];
    let again = v1::Denials { revision: 9, changes, ..v1::Denials::default() };
    let mut restored = world.load().unwrap();
    assert_eq!(restored.catalogue.deny(&again).unwrap(), 0, "it is denied already");
    let mut journal = Journal::resume(world.place.clone(), &restored).unwrap();
    journal.keys(v1::Keys::default());
    assert_eq!(world.load().unwrap().catalogue.deny(&again).unwrap(), 0);
    // Also by way of a new file.
    world.snapshot();
    world.state();
    assert_eq!(world.load().unwrap().catalogue.deny(&again).unwrap(), 0);
    world.change(user("joe"));
    world.change(consent(true));
    world.state();
    let restored = world.load().unwrap();
    assert!(restored.denials.is_empty(), "the entries say it themselves");
}

#[test]
fn a_snapshot_that_arrives_ends_the_file_before_it() {
    let mut world = World::kept();
    world.revision = 20;
    world.snapshot();
    assert!(matches!(world.load(), Err(Unusable::Absent)), "what it takes away may be acknowledged already");
    world.state();
    holds(&world.load().unwrap(), &world);
    let half = v1::Snapshot { revision: 21, entries: vec![user("eve")], ..v1::Snapshot::default() };
    world.journal.chunk(21, false, &half.encode_to_vec());
    world.journal.interrupted();
    holds(&world.load().unwrap(), &world);
}

#[test]
fn a_file_that_has_grown_is_rewritten_and_says_the_same() {
    let mut world = World::kept();
    let sizes: Vec<u64> = (0..20)
        .map(|number| {
            world.change(large(number % 3));
            world.state();
            fs::metadata(world.file()).unwrap().len()
        })
        .collect();
    assert!(sizes.windows(2).any(|pair| pair[1] < pair[0]), "{sizes:?}");
    assert!(sizes.iter().all(|size| *size < 18 << 20), "{sizes:?}");
    world.remove("user/jane");
    world.deny(world.revision + 5, consent(true));
    world.state();
    let restored = world.load().unwrap();
    holds(&restored, &world);
    assert_eq!(restored.denials.len(), 1);
}

#[test]
fn what_was_not_written_whole_is_passed_over() {
    let mut world = World::kept();
    let before = (world.revision, world.digest());
    let length = fs::read(world.file()).unwrap().len();
    world.change(user("joe"));
    world.state();
    let whole = fs::read(world.file()).unwrap();
    for cut in [length + 2, length + 9, whole.len() - 1] {
        fs::write(world.file(), &whole[..cut]).unwrap();
        let restored = world.load().unwrap();
        assert_eq!((restored.revision, restored.catalogue.digest()), before, "cut at {cut}");
    }
    let zeros = [&whole[..length], &[0; 4096]].concat();
    fs::write(world.file(), zeros).unwrap();
    assert_eq!(world.load().unwrap().revision, before.0);
}

#[test]
fn a_file_that_was_tampered_with_is_refused() {
    let world = World::kept();
    let whole = fs::read(world.file()).unwrap();
    for at in [0, 40, 100, whole.len() - 20] {
        let mut other = whole.clone();
        other[at] ^= 1;
        fs::write(world.file(), &other).unwrap();
        assert!(matches!(world.load(), Err(Unusable::Log(_) | Unusable::Unproven)), "byte {at}");
    }
    fs::write(world.file(), b"bailiwick-config-snapshot/2\nsomething else entirely, of a later version").unwrap();
    assert!(matches!(world.load(), Err(Unusable::Log(log::LogFault::Format))));
}

#[test]
fn another_nodes_or_clusters_file_is_refused() {
    let world = World::kept();
    let other = Place { node: "dp-2".into(), ..world.place.clone() };
    assert!(matches!(load(&other, Catalogue::new(), now(), HOUR), Err(Unusable::Foreign)));
    let elsewhere = authority("bb");
    let other = place(&world.folder, "bb", NODE, &elsewhere);
    assert!(matches!(load(&other, Catalogue::new(), now(), HOUR), Err(Unusable::Foreign)));
    // Of the same name, by whoever can write the disk: the authority did not sign.
    let imitated = place(&world.folder, "aa", NODE, &authority("aa"));
    let refused = load(&imitated, Catalogue::new(), now(), HOUR);
    assert!(matches!(refused, Err(Unusable::NotBelieved(NotBelieved::Chain))), "{refused:?}");
}

/// What a thief of the disk and the master key might write.
fn forged(world: &World, statement: v1::Statement) -> Result<Restored, Unusable> {
    let mut log = log::LogWriter::create(&world.file(), &world.place.key).unwrap();
    log.append(&log::Record::Origin { cluster: "aa".into(), node: NODE.into() }).unwrap();
    let (revision, digest) = (world.revision, world.digest());
    let chunk = v1::Snapshot { revision, entries: world.entries.clone(), last: true, digest: digest.clone() };
    log.append(&log::Record::Chunk(chunk)).unwrap();
    let delta = v1::Delta { from: revision, to: revision, digest, ..v1::Delta::default() };
    log.append(&log::Record::Proven { delta, statement }).unwrap();
    world.load()
}

#[test]
fn nobody_but_a_control_plane_states_what_is_in_force() {
    let mut world = World::kept();
    let honest = world.said(now());
    assert!(forged(&world, honest.clone()).is_ok());
    let thief = World { signer: world.place.identity.clone(), ..World::new() };
    let refused = forged(&world, thief.said(now()));
    assert!(matches!(refused, Err(Unusable::NotBelieved(NotBelieved::Stranger))), "{refused:?}");
    for said in [
        v1::Statement { revision: 8, ..honest.clone() },
        v1::Statement { time: honest.time + MICROS, ..honest.clone() },
        v1::Statement { digest: vec![1; 32], ..honest.clone() },
        v1::Statement { signature: vec![], ..honest.clone() },
    ] {
        let refused = forged(&world, said);
        assert!(matches!(refused, Err(Unusable::NotBelieved(NotBelieved::Signature))), "{refused:?}");
    }
    // An honest statement with other entries.
    world.entries.push(user("eve"));
    let refused = forged(&world, honest);
    assert!(matches!(refused, Err(Unusable::Content(_))), "{refused:?}");
    // The journal keeps no such statement either.
    let mut world = World::new();
    world.snapshot();
    let stranger = member(&world.authority, "aa", Role::Admin, "eve");
    world.signer = stranger;
    world.state();
    assert!(matches!(world.load(), Err(Unusable::Absent)));
}

#[test]
fn its_age_is_that_of_the_statement_and_never_less_than_was_known() {
    let mut world = World::new();
    world.snapshot();
    let then = now() - 40 * 60 * MICROS;
    // Its certificate counted then, by the five minutes for clocks that are behind.
    world.journal.statement(world.said(now() - 4 * 60 * MICROS));
    let at = |now: u64, max: Duration| load(&world.place, Catalogue::new(), now, max);
    let age = at(now(), HOUR).unwrap().age;
    assert!(age >= Duration::from_secs(240) && age < Duration::from_secs(270), "{age:?}");
    assert!(matches!(at(now(), Duration::from_secs(239)), Err(Unusable::TooOld { .. })));
    assert!(matches!(at(then, HOUR), Err(Unusable::Future(_))), "a clock that was set back");
    assert!(at(now() - 8 * 60 * MICROS, HOUR).is_ok_and(|restored| restored.age.is_zero()), "clocks differ a little");
    world.journal.aged(Duration::from_secs(1_000));
    assert_eq!(load(&world.place, Catalogue::new(), now(), HOUR).unwrap().age, Duration::from_secs(1_000));
    world.state();
    assert!(world.load().unwrap().age < Duration::from_secs(30));
}

#[test]
fn a_journal_that_missed_something_puts_the_file_away_and_asks_for_all_again() {
    let mut world = World::kept();
    let gap = v1::Delta { from: 99, to: 100, changes: vec![], digest: vec![] };
    world.deny(12, consent(true));
    world.journal.delta(gap);
    assert!(world.journal.wants_snapshot() && world.journal.is_durable() && !world.journal.is_kept());
    assert!(matches!(world.load(), Err(Unusable::Absent)));
    world.snapshot();
    world.state();
    assert!(matches!(world.load(), Err(Unusable::Absent)), "it would miss the denial of revision 12");
    while world.revision < 12 {
        world.change(user("joe"));
    }
    world.state();
    assert!(!world.journal.wants_snapshot());
    holds(&world.load().unwrap(), &world);
    world.journal.missed(30);
    assert!(matches!(world.load(), Err(Unusable::Absent)));
}

#[tokio::test]
async fn what_is_noted_is_written_in_order_and_durable_when_it_is_said_to_be() {
    let world = World::new();
    let registry = bailiwick_runtime::metrics::Registry::new();
    let metrics = Arc::new(crate::metrics::Metrics::new(&registry));
    let (keeper, keeping) = Keeper::new(Journal::new(world.place.clone()), metrics);
    let shutdown = bailiwick_runtime::Shutdown::new();
    let running = keeping.run(shutdown.clone());
    let test = async {
        assert!(keeper.durable().await, "nothing is kept, so nothing is forgotten");
        let chunk = v1::Snapshot {
            revision: world.revision,
            entries: world.entries.clone(),
            last: true,
            digest: world.digest(),
        };
        keeper.room().await;
        keeper.chunk(chunk.revision, true, chunk.encode_to_vec());
        keeper.statement(world.said(now()));
        let changes = vec![v1::EntryChange { key: "consent/c-1".into(), value: None }];
        keeper.denials(v1::Denials { revision: 9, changes, ..v1::Denials::default() });
        assert!(keeper.durable().await);
        assert_eq!(world.load().unwrap().denials.len(), 1);
        let mut wishes = keeper.wishes();
        keeper.delta(&v1::Delta { from: 99, to: 100, ..v1::Delta::default() });
        wishes.changed().await.unwrap();
        shutdown.request();
    };
    tokio::join!(running, test);
}

#[tokio::test(start_paused = true)]
async fn what_was_restored_counts_when_it_is_said_to_and_ages_from_its_statement() {
    let mut world = World::new();
    world.snapshot();
    world.journal.statement(world.said(now() - 240 * MICROS));
    let day = Duration::from_secs(24 * 3600);
    let restored = || {
        let state = ConfigState::new(day);
        state.restore(world.load().unwrap(), HOUR);
        state
    };
    let state = restored();
    assert_eq!((state.freshness(), state.age()), (Freshness::Expired, None), "a control plane may still answer");
    assert_eq!(state.held(), (world.revision, world.digest()), "the config stream resumes from it");
    assert!(state.count_kept() && !state.count_kept());
    assert_eq!(state.freshness(), Freshness::Unleased);
    assert!((240_000..270_000).contains(&state.age_ms()), "{}", state.age_ms());
    tokio::time::advance(HOUR - Duration::from_secs(270)).await;
    assert_eq!(state.freshness(), Freshness::Unleased);
    tokio::time::advance(Duration::from_secs(31)).await;
    assert_eq!(state.freshness(), Freshness::Expired, "older than a snapshot may be, though not than max_staleness");
    let lane = state.lane_opened(world.revision);
    state.grant(lane, tokio::time::Instant::now(), Duration::from_secs(3)).unwrap();
    assert_eq!(state.freshness(), Freshness::Leased);
    tokio::time::advance(2 * HOUR).await;
    assert_eq!(state.freshness(), Freshness::Unleased, "from then on it is a configuration like any other");

    let state = restored();
    let lane = state.lane_opened(world.revision);
    state.grant(lane, tokio::time::Instant::now(), Duration::from_secs(3)).unwrap();
    assert!(!state.count_kept() && state.freshness() == Freshness::Leased, "a lease was quicker");

    let state = restored();
    state.count_kept();
    let earlier = v1::Snapshot { revision: 3, entries: world.entries.clone(), last: true, digest: world.digest() };
    state.snapshot(earlier).unwrap().unwrap();
    assert_eq!(state.freshness(), Freshness::Expired, "the control plane has gone back");
}

#[tokio::test]
async fn what_the_config_stream_takes_away_is_acknowledged_when_a_restart_cannot_forget_it() {
    let mut world = World::new();
    let metrics = Arc::new(crate::metrics::Metrics::new(&bailiwick_runtime::metrics::Registry::new()));
    let (keeper, keeping) = Keeper::new(Journal::new(world.place.clone()), metrics);
    let (state, shutdown) = (ConfigState::new(HOUR), bailiwick_runtime::Shutdown::new());
    state.keep(keeper);
    let running = keeping.run(shutdown.clone());
    let test = async {
        let (entries, digest) = (world.entries.clone(), world.digest());
        state.snapshot(v1::Snapshot { revision: 7, entries, last: true, digest }).unwrap().unwrap();
        state.statement(world.said(now()));
        assert!(state.acknowledgement_lasts().await);
        holds(&world.load().unwrap(), &world);
        let changes = vec![v1::EntryChange { key: "consent/c-1".into(), value: Some(consent(true).value) }];
        world.change(consent(true));
        let sound = v1::Delta { from: 7, to: 8, changes: changes.clone(), digest: world.digest() };
        state.delta(&sound).unwrap();
        assert!(state.acknowledgement_lasts().await);
        assert_eq!(world.load().unwrap().denials.len(), 1, "though nothing states revision 8 yet");
        // Nor is what a delta takes away forgotten that cannot be used otherwise.
        state.delta(&v1::Delta { from: 8, to: 9, changes, digest: vec![0; 32] }).unwrap_err();
        assert!(state.acknowledgement_lasts().await && state.denials_last().await);
        assert_eq!(world.load().unwrap().denials.len(), 2);
        let other = v1::Statement { revision: 9, ..world.said(now()) };
        state.statement(other);
        assert!(state.denials_last().await && world.load().unwrap().revision == 7, "not of what is held here");
        shutdown.request();
    };
    tokio::join!(running, test);
}

#[tokio::test]
async fn when_what_is_kept_is_lost_the_config_stream_asks_for_everything_again() {
    let world = World::new();
    let metrics = Arc::new(crate::metrics::Metrics::new(&bailiwick_runtime::metrics::Registry::new()));
    let (keeper, keeping) = Keeper::new(Journal::new(world.place.clone()), Arc::clone(&metrics));
    let (state, shutdown) = (Arc::new(ConfigState::new(HOUR)), bailiwick_runtime::Shutdown::new());
    state.keep(keeper.clone());
    let control = FakeControlPlane::start(world.entries.clone()).await;
    let stream = ConfigStream {
        uplink: ControlPlane::plain(Targets::parse(std::slice::from_ref(&control.url)).unwrap()),
        node: NODE.to_owned(),
        epoch: 1,
        state: Arc::clone(&state),
        metrics,
        discoveries: None,
    };
    let hellos = || control.shared.hellos.lock().unwrap().clone();
    let test = async {
        eventually("a configuration", || state.held().0 > 0).await;
        keeper.delta(&v1::Delta { from: 1, to: 2, ..v1::Delta::default() });
        eventually("it is asked for again", || hellos().len() > 1).await;
        assert_eq!(hellos()[1].last_revision, 0);
        shutdown.request();
    };
    let following = shutdown.or_stop(stream.run());
    tokio::join!(keeping.run(shutdown.clone()), following, test);
}
