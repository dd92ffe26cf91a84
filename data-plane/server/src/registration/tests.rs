//! Beginning a run: with a control plane, without one, and with one that knows better.

use bailiwick_runtime::{MasterKeyConfig, MasterKeys, connect::Targets, metrics::Registry};

use super::*;
use crate::fakes::{self, control_plane::FakeControlPlane};

struct Bench {
    folder: tempfile::TempDir,
    control: FakeControlPlane,
}

impl Bench {
    async fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), control: FakeControlPlane::start(Vec::new()).await }
    }

    fn reserves(&self) -> Reserves {
        let config = MasterKeyConfig::ensure_file(&self.folder.path().join("master.key")).unwrap();
        Reserves::new(&self.folder.path().join("keys"), MasterKeys::load(&config).unwrap())
    }

    fn registration(&self, url: &str) -> Registration {
        let control_plane = ControlPlane::plain(Targets::parse(&[url.to_owned()]).unwrap());
        Registration { control_plane, node: "dp-1".into(), reserves: Some(self.reserves()) }
    }

    /// Has a run get its reserves.
    async fn reserved(&self) -> Vec<Reserve> {
        let metrics = Arc::new(Metrics::new(&Registry::new()));
        let keeping = self.registration(&self.control.url).keep_reserves(1, Vec::new(), Arc::clone(&metrics));
        let kept = async {
            while metrics.reserves_kept.get() < RESERVES as i64 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            () = keeping => unreachable!("it goes on for ever"),
            () = kept => {}
        }
        self.reserves().load().unwrap()
    }
}

fn fresh() -> NodeSigner {
    NodeSigner::from_seed(&[9; 32]).unwrap()
}

#[tokio::test]
async fn a_run_that_reaches_a_control_plane_begins_as_the_first_reserve_and_is_registered() {
    let bench = Bench::new().await;
    let reserved = bench.reserved().await;
    assert_eq!(reserved.len(), RESERVES);
    let epochs: Vec<_> = reserved.iter().map(|reserve| reserve.epoch).collect();
    // The fake knows its last reserve only.
    let last = reserved.into_iter().skip(RESERVES - 1).collect();
    let begun = bench.registration(&bench.control.url).begin(fresh(), last, true).await;
    assert_eq!((begun.epoch, begun.is_registered, begun.reserves.len()), (epochs[RESERVES - 1], true, 0));
    assert_eq!(*bench.control.shared.begun.lock().unwrap(), [begun.epoch]);
    assert!(bench.reserves().load().unwrap().is_empty(), "it is spent");
    assert!(bench.control.shared.registered.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_run_without_control_plane_begins_as_its_reserve_if_it_has_something_to_serve() {
    let bench = Bench::new().await;
    let reserved = bench.reserved().await;
    let (first, rest) = (reserved[0].epoch, reserved[1].epoch);
    let (nowhere, _held) = fakes::closed();
    let alone = bench.registration(&format!("http://{nowhere}"));
    let begun = alone.begin(fresh(), reserved, true).await;
    assert_eq!((begun.epoch, begun.is_registered), (first, false));
    let left: Vec<_> = bench.reserves().load().unwrap().iter().map(|reserve| reserve.epoch).collect();
    assert_eq!((left.len(), left[0], begun.reserves[0].epoch), (RESERVES - 1, rest, rest), "spent before it is used");
    // Without a configuration, or without a reserve, there is nothing to do but wait.
    let soon = Duration::from_millis(300);
    let left = bench.reserves().load().unwrap();
    assert!(tokio::time::timeout(soon, alone.begin(fresh(), left, false)).await.is_err());
    assert!(tokio::time::timeout(soon, alone.begin(fresh(), Vec::new(), true)).await.is_err());
    assert_eq!(bench.reserves().load().unwrap().len(), RESERVES - 1, "nothing was spent on waiting");
}

#[tokio::test]
async fn a_reserve_that_the_control_plane_does_not_know_is_never_used() {
    let bench = Bench::new().await;
    let stranger = vec![Reserve::fresh().unwrap().of(3)];
    let registration = bench.registration(&bench.control.url);
    let begun = registration.begin(fresh(), stranger, true).await;
    assert!(begun.is_registered && begun.epoch != 3);
    assert_eq!(bench.control.shared.registered.lock().unwrap()[0].public_key, fresh().public_key());
    let refused = registration.begin_reserved(3, fresh().public_key()).await;
    assert_eq!(refused, Err(ReserveRefused("no such reserve".into())), "nor does a run that began alone go on");
}

#[tokio::test]
async fn a_reserve_that_cannot_be_spent_is_never_used() {
    let bench = Bench::new().await;
    let reserved = bench.reserved().await;
    let keys = bench.folder.path().join("keys");
    std::fs::remove_dir_all(&keys).unwrap();
    std::fs::write(&keys, b"no folder").unwrap();
    let last = reserved.into_iter().skip(RESERVES - 1).collect();
    let begun = bench.registration(&bench.control.url).begin(fresh(), last, true).await;
    assert_eq!(bench.control.shared.registered.lock().unwrap().len(), 1, "{begun:?}");
}
