//! A call that stays open: how long it has been is shown, as the spool keeps everything since.

use super::*;

#[tokio::test(start_paused = true)]
async fn the_age_of_the_oldest_call_without_an_outcome_is_shown() {
    let (dir, stream) = (tempfile::tempdir().unwrap(), EventStream::in_process());
    let run = Run::start(dir.path(), 7, &stream);
    let shown = || run.metrics.oldest_open_call_seconds.get();
    let open = run.recorder.intent(intent("long"), Tier::Retrieval).await.unwrap();
    tokio::time::advance(Duration::from_secs(90)).await;
    let short = run.recorder.intent(intent("short"), Tier::Retrieval).await.unwrap();
    while shown() < 90 {
        tokio::time::advance(Duration::from_millis(200)).await;
    }
    run.recorder.outcome(outcome(&open), Tier::Retrieval).await.unwrap();
    while shown() >= 90 {
        tokio::time::advance(Duration::from_millis(200)).await;
    }
    run.recorder.outcome(outcome(&short), Tier::Retrieval).await.unwrap();
    tokio::time::advance(Duration::from_secs(5)).await;
    while shown() > 0 {
        tokio::time::advance(Duration::from_millis(200)).await;
    }
}
