//! What becomes of tasks, told as it comes, until nothing can come any more.

use super::*;

/// A world with a listener that follows these tasks, and its acknowledgement.
fn following(tasks: &[&str]) -> (World, Value) {
    let tasks = tasks.iter().map(|id| (*id).to_owned()).collect();
    let mut world = World::new(modern(Wishes { tasks, ..Wishes::default() }, &["s"]), Era::Modern, ALL);
    let acknowledged = text(&world.take()[0]);
    (world, acknowledged)
}

fn say(world: &mut World, id: &str, more: Value) {
    let mut said = json!({"taskId": id, "createdAt": "x", "_meta": {"io.modelcontextprotocol/subscriptionId": 7}});
    said.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    world.says(&Notification { method: "notifications/tasks".into(), params: Some(raw(&said)) });
}

#[test]
fn a_task_is_told_in_full_under_the_listeners_own_subscription() {
    let (mut world, acknowledged) = following(&["a", "b"]);
    assert_eq!(acknowledged["params"]["notifications"], json!({"taskIds": ["a", "b"]}));
    say(&mut world, "a", json!({"status": "working", "statusMessage": "half"}));
    say(&mut world, "c", json!({"status": "working"}));
    let told = world.take();
    assert_eq!(told.len(), 1, "{told:?}");
    let body = text(&told[0]);
    assert_eq!((&body["method"], &body["params"]["statusMessage"]), (&json!("notifications/tasks"), &json!("half")));
    assert_eq!(body["params"]["_meta"], json!({"io.modelcontextprotocol/subscriptionId": "l-1"}));
}

#[test]
fn of_news_that_come_fast_the_newest_is_told_and_nothing_follows_the_last() {
    let (mut world, _) = following(&["a"]);
    say(&mut world, "a", json!({"status": "working"}));
    assert_eq!(world.take().len(), 1);
    for number in 0..100 {
        say(&mut world, "a", json!({"status": "working", "statusMessage": number.to_string()}));
    }
    say(&mut world, "a", json!({"status": "completed", "result": {"content": []}}));
    say(&mut world, "a", json!({"status": "working"}));
    assert_eq!(world.take(), [], "within a quarter of a second");
    world.pass(COALESCE_MS);
    let told = world.take();
    assert_eq!(text(&told[0])["params"]["result"], json!({"content": []}));
    assert_eq!((told.len(), told.last()), (3, Some(&Output::End)), "nothing else can come: {told:?}");
}

#[test]
fn where_news_may_have_been_missed_the_stream_ends() {
    let (mut world, _) = following(&["a"]);
    world.breaks();
    assert_eq!(world.take().last(), Some(&Output::End));
}

#[test]
fn a_server_without_the_extension_and_a_legacy_one_are_not_asked_for_tasks() {
    for (era, offers) in [(Era::Modern, Offers { tasks: false, ..ALL }), (LEGACY, ALL)] {
        let wishes = Wishes { tasks: ["a".to_owned()].into(), ..Wishes::default() };
        let mut source = Source::new(era, offers, wishes);
        assert_eq!(source.poll_output(), Some(SourceOutput::Settled(Wishes::default())), "{era:?}");
    }
}
