//! Tests of what is remembered of nodes, and for how long.

use super::*;

#[test]
fn an_old_sessions_end_leaves_the_new_one() {
    let nodes = Nodes::default();
    let (old, _asked) = nodes.enter("dp-1", 3, true);
    let (new, _asked) = nodes.enter("dp-1", 4, true);
    old.acknowledge(9, 1);
    assert!(old.is_replaced() && !new.is_replaced());
    drop(old);
    new.acknowledge(7, 2);
    let expected = Progress { epoch: 4, connected: true, acknowledged: 7, denied: 7, ..Progress::default() };
    assert_eq!(nodes.progress()["dp-1"], expected);
    drop(new);
    assert_eq!((nodes.connected(), nodes.progress()["dp-1"].connected), (0, false));
    let (blank, _asked) = nodes.enter("dp-2", 5, true);
    drop(blank);
    assert!(!nodes.progress().contains_key("dp-2"), "nothing is worth remembering");
}

#[test]
fn when_denials_came_into_force_is_known_for_each_revision_and_survives_a_connection() {
    let nodes = Nodes::default();
    let mut changed = nodes.changed();
    let lane = nodes.enter_lane("dp-1", 3);
    lane.denied(10, 100);
    lane.denied(12, 120);
    assert!(changed.has_changed().unwrap());
    changed.mark_unchanged();
    lane.denied(11, 130);
    assert!(!changed.has_changed().unwrap(), "nothing new");
    let at = |revision| nodes.denied_through(revision).get("dp-1").copied();
    assert_eq!((at(9), at(10), at(11), at(12), at(13)), (Some(100), Some(100), Some(120), Some(120), None));
    let (seat, _asked) = nodes.enter("dp-1", 3, true);
    seat.acknowledge(13, 140);
    drop((lane, seat));
    assert_eq!((at(12), at(13), nodes.progress()["dp-1"].connected), (Some(120), Some(140), false));
    let lane = nodes.enter_lane("dp-1", 3);
    assert_eq!((at(13), nodes.progress()["dp-1"].denied), (Some(140), 13));
    let anew = nodes.enter_lane("dp-1", 4);
    assert_eq!(at(13), None, "another run knows nothing of it");
    lane.denied(14, 150);
    assert!(lane.is_replaced() && !anew.is_replaced() && at(14).is_none());
}

#[test]
fn words_are_bounded_and_never_earlier_than_the_truth() {
    let nodes = Nodes::default();
    let lane = nodes.enter_lane("dp-1", 3);
    (1..=1_000).for_each(|revision| lane.denied(revision, revision * 10));
    let at = |revision| nodes.denied_through(revision)["dp-1"];
    assert_eq!((at(1_000), at(937), at(1)), (10_000, 9_370, 9_370));
}

#[test]
fn a_node_that_differs_is_counted_until_it_is_equal_and_named_once() {
    let nodes = Nodes::default();
    let (_seat, _asked) = nodes.enter("dp-1", 3, true);
    let lane = nodes.enter_lane("dp-1", 3);
    let compare = |lane: &LaneSeat<'_>, digest: &str, expected: &str| lane.compare(digest.into(), expected.into());
    assert_eq!(compare(&lane, "aa", "aa"), Drift::No);
    assert_eq!(compare(&lane, "bb", ""), Drift::No, "of a revision that is not known here");
    assert_eq!((compare(&lane, "bb", "aa"), compare(&lane, "bb", "aa")), (Drift::New, Drift::Still));
    assert_eq!(nodes.drifting(), 1);
    drop(lane);
    assert_eq!(nodes.drifting(), 0, "it may be equal by now");
    let lane = nodes.enter_lane("dp-1", 3);
    assert_eq!((compare(&lane, "bb", "aa"), nodes.drifting()), (Drift::Still, 1));
    assert_eq!(compare(&lane, "bb", ""), Drift::No);
    assert_eq!((compare(&lane, "aa", "aa"), compare(&lane, "aa", "aa")), (Drift::Over, Drift::No));
    assert_eq!((compare(&lane, "bb", "aa"), compare(&lane, "cc", "aa")), (Drift::New, Drift::New));
}

#[test]
fn nodes_that_went_away_are_forgotten_when_there_are_too_many() {
    let nodes = Nodes::default();
    let stays = nodes.enter_lane("stays", 1);
    for n in 0..REMEMBERED_MAX + 5 {
        nodes.enter_lane(&format!("dp-{n}"), 1).denied(7, 70);
    }
    assert!(lock(&nodes.known).len() <= REMEMBERED_MAX);
    assert!(!stays.is_replaced());
}

#[tokio::test]
async fn an_answer_reaches_whoever_asked() {
    let nodes = Nodes::default();
    assert_eq!(nodes.discover(v1::Server::default()).await, None);
    let (seat, mut asked) = nodes.enter("dp-1", 3, true);
    let server = v1::Server { name: "finance".into(), ..v1::Server::default() };
    let (found, ()) = tokio::join!(nodes.discover(server), async {
        let question = asked.recv().await.unwrap();
        seat.discovered(v1::Discovered { id: question.id + 1, ..v1::Discovered::default() });
        seat.discovered(v1::Discovered { id: question.id, error: "refused".into(), ..v1::Discovered::default() });
    });
    assert_eq!(found, Some(Err("refused".to_owned())));
}

#[tokio::test(start_paused = true)]
async fn a_silent_node_is_not_waited_for() {
    let nodes = Nodes::default();
    let (_seat, _asked) = nodes.enter("dp-1", 3, true);
    let found = nodes.discover(v1::Server { name: "finance".into(), ..v1::Server::default() }).await;
    assert!(found.unwrap().unwrap_err().contains("within 5 s"));
    assert!(lock(&nodes.waiting).is_empty());
}

#[tokio::test]
async fn who_has_been_here_longest_is_let_go_first_and_asked_once() {
    let nodes = Nodes::default();
    let mut seats: Vec<_> = (0..4).map(|n| nodes.enter(&format!("dp-{n}"), 1, true)).collect();
    let mut lanes: Vec<_> = (0..4).map(|n| nodes.enter_lane(&format!("dp-{n}"), 1)).collect();
    let mut sessions: Vec<_> = seats.iter_mut().map(|(seat, _)| seat.leaving()).collect();
    let mut leaving: Vec<_> = lanes.iter_mut().map(LaneSeat::leaving).collect();
    let asked = |all: &mut Vec<Leaving>| {
        let asked = all.iter_mut().map(|leaving| futures::FutureExt::now_or_never(leaving.asked()));
        asked.map(|asked| asked == Some(Leave::GoElsewhere)).collect::<Vec<_>>()
    };
    nodes.let_go(2, 1);
    assert_eq!(asked(&mut sessions), [true, true, false, false]);
    assert_eq!(asked(&mut leaving), [true, false, false, false]);
    nodes.let_go(1, 9);
    assert_eq!(asked(&mut vec![sessions.remove(2)]), [true]);
    assert_eq!(asked(&mut leaving.split_off(1)), [true, true, true]);
    assert_eq!(nodes.load(), Load { sessions: 4, lanes: 4 }, "until they have gone");
}

#[tokio::test]
async fn who_is_replaced_hears_of_it() {
    let nodes = Nodes::default();
    let (mut seat, _asked) = nodes.enter("dp-1", 1, true);
    let mut lane = nodes.enter_lane("dp-1", 1);
    let (_new, _asked) = nodes.enter("dp-1", 1, true);
    assert_eq!(seat.leaving().asked().await, Leave::Replaced);
    let _anew = nodes.enter_lane("dp-1", 2);
    assert_eq!(lane.leaving().asked().await, Leave::Replaced, "by another run");
}
