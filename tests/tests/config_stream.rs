//! What whoever follows the config stream may rely on, checked over recordings of real streams.
//!
//! Followers at every control plane of a cluster record what they are sent while writers write, leaders die and
//! followers leave and come back. Six guarantees are then held against each recording, one validator each: ordered,
//! unique, atomic, resumable, bookmarkable, and, against what all the others were sent, reliable.

#![expect(clippy::disallowed_methods, reason = "followers end with the test; a test has no supervisor")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use bailiwick_proto::{
    config_digest::Entries,
    v1::{
        ConfigFrame, Delta, Hello, NodeMessage, RegisterNodeRequest, config_client::ConfigClient, config_frame::Frame,
        node_message::Message,
    },
};
use bailiwick_tests::{Deployment, SampleServer, Shape, Writers};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Endpoint};

const WRITERS: usize = 4;
/// Acknowledged writes between two disturbances.
const SOME: u64 = 40;
/// A follower leaves after so many frames and comes back; primes, so that they do not leave together.
const FRAMES: [usize; 4] = [7, 23, 61, 1_000_003];
const WAIT_MAX: Duration = Duration::from_secs(3);
const FRAME_BYTES_MAX: usize = 32 * 1024 * 1024;

/// What one follower was sent, in order.
#[derive(Debug, Default)]
struct Recording(Vec<Step>);

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all of them are the large one")]
enum Step {
    /// It (re)connected, holding this revision.
    Opened(u64),
    Frame(Frame),
}

/// What a follower holds.
#[derive(Debug, Default)]
struct Held {
    revision: u64,
    entries: Entries,
    staged: Entries,
}

impl Held {
    fn take(&mut self, frame: &Frame) -> Result<()> {
        match frame {
            Frame::Snapshot(chunk) => {
                chunk.entries.iter().for_each(|entry| self.staged.insert(&entry.key, &entry.value));
                if chunk.last {
                    self.entries = std::mem::take(&mut self.staged);
                    self.revision = chunk.revision;
                    self.entries.settle();
                    ensure!(self.entries.digest().as_slice() == chunk.digest, "snapshot {}: digest", chunk.revision);
                }
            }
            Frame::Delta(delta) => {
                delta.changes.iter().for_each(|change| self.entries.apply(change));
                self.entries.settle();
                self.revision = delta.to;
                ensure!(self.entries.digest().as_slice() == delta.digest, "delta to {}: digest", delta.to);
            }
            Frame::Heartbeat(_) | Frame::Keys(_) | Frame::Discover(_) | Frame::Statement(_) => {}
        }
        Ok(())
    }
}

/// A node that follows the stream of whichever control plane answers, and leaves every so often.
async fn follow(urls: Vec<String>, number: usize, frames_each: usize, stop: Arc<AtomicBool>) -> Result<Recording> {
    let node = format!("follower-{number}");
    let (mut recording, mut held, mut at) = (Recording::default(), Held::default(), number);
    let mut epoch = 0;
    while !stop.load(Ordering::Relaxed) {
        at += 1;
        let Some(url) = urls.get(at % urls.len()) else { bail!("no control plane") };
        let Ok(stream) = open(url, &node, &mut epoch, &held).await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        recording.0.push(Step::Opened(held.revision));
        held.staged = Entries::new();
        let (_up, mut frames) = stream;
        for _ in 0..frames_each {
            let next = tokio::time::timeout(WAIT_MAX, frames.message()).await;
            let Ok(Ok(Some(ConfigFrame { frame: Some(frame) }))) = next else { break };
            held.take(&frame).with_context(|| format!("{node} at {url}"))?;
            recording.0.push(Step::Frame(frame));
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
    }
    Ok(recording)
}

type Opened = (mpsc::Sender<NodeMessage>, Streaming<ConfigFrame>);

async fn open(url: &str, node: &str, epoch: &mut u64, held: &Held) -> Result<Opened> {
    let endpoint = Endpoint::from_shared(url.to_owned())?.connect_timeout(WAIT_MAX).timeout(WAIT_MAX);
    let mut client = ConfigClient::new(endpoint.connect().await?).max_decoding_message_size(FRAME_BYTES_MAX);
    if *epoch == 0 {
        let request = RegisterNodeRequest { node: node.to_owned(), public_key: vec![7; 32], role: "data-plane".into() };
        *epoch = client.register_node(request).await?.into_inner().epoch;
    }
    let (up, messages) = mpsc::channel(8);
    let digest = if held.revision == 0 { Vec::new() } else { held.entries.digest().to_vec() };
    let hello = Hello { node: node.to_owned(), epoch: *epoch, last_revision: held.revision, digest };
    up.send(NodeMessage { message: Some(Message::Hello(hello)) }).await?;
    // The timeout of the endpoint would end the stream as well.
    let endpoint = Endpoint::from_shared(url.to_owned())?.connect_timeout(WAIT_MAX);
    let mut client = ConfigClient::new(endpoint.connect().await?).max_decoding_message_size(FRAME_BYTES_MAX);
    let stream = tokio::time::timeout(WAIT_MAX, client.stream(ReceiverStream::new(messages))).await??;
    Ok((up, stream.into_inner()))
}

/// Deltas that change the revision, by where they start. A confirmation of what is held is none.
fn deltas(recording: &Recording) -> impl Iterator<Item = &Delta> {
    recording.0.iter().filter_map(|step| match step {
        Step::Frame(Frame::Delta(delta)) if delta.from != delta.to => Some(delta),
        Step::Frame(_) | Step::Opened(_) => None,
    })
}

/// Ordered: each delta starts where its follower is, and leads forward.
fn ordered(recording: &Recording) -> Result<()> {
    let mut at = 0;
    for step in &recording.0 {
        match step {
            Step::Opened(held) => ensure!(*held == at, "reopened at {held}, not {at}"),
            Step::Frame(Frame::Snapshot(chunk)) if chunk.last => {
                ensure!(chunk.revision >= at, "a snapshot leads back from {at} to {}", chunk.revision);
                at = chunk.revision;
            }
            Step::Frame(Frame::Delta(delta)) => {
                ensure!(delta.from == at && delta.to >= at, "a delta from {} to {} at {at}", delta.from, delta.to);
                at = delta.to;
            }
            Step::Frame(_) => {}
        }
    }
    Ok(())
}

/// Unique: no revision comes twice, not even after coming back.
fn unique(recording: &Recording) -> Result<()> {
    let mut seen = BTreeMap::new();
    for delta in deltas(recording) {
        ensure!(seen.insert(delta.to, ()).is_none(), "revision {} came twice", delta.to);
    }
    Ok(())
}

/// Atomic: after each frame the whole is what the control plane had at that revision; nothing is seen half.
fn atomic(recording: &Recording, digests: &mut BTreeMap<u64, Vec<u8>>) -> Result<()> {
    let mut held = Held::default();
    for step in &recording.0 {
        let Step::Frame(frame) = step else { continue };
        held.take(frame)?;
        let digest = held.entries.digest().to_vec();
        if matches!(frame, Frame::Delta(_)) && held.revision > 0 {
            let known = digests.entry(held.revision).or_insert_with(|| digest.clone());
            ensure!(*known == digest, "two followers hold different things at {}", held.revision);
        }
    }
    Ok(())
}

/// Resumable: whoever comes back with what it has gets what it missed. Only a control plane that has just started, and so
/// knows no past, sends everything anew. How often each happened.
fn resumable(recording: &Recording) -> Result<(usize, usize)> {
    let (mut resumed, mut anew) = (0, 0);
    for pair in recording.0.windows(2) {
        let [Step::Opened(held), Step::Frame(first)] = pair else { continue };
        match first {
            Frame::Delta(delta) if *held > 0 => {
                ensure!(delta.from == *held, "resumed from {}, not {held}", delta.from);
                resumed += 1;
            }
            Frame::Snapshot(_) if *held > 0 => anew += 1,
            Frame::Delta(_)
            | Frame::Snapshot(_)
            | Frame::Heartbeat(_)
            | Frame::Keys(_)
            | Frame::Discover(_)
            | Frame::Statement(_) => {}
        }
    }
    Ok((resumed, anew))
}

/// Bookmarkable: a heartbeat comes after everything up to its revision, and names the digest there.
fn bookmarkable(recording: &Recording) -> Result<usize> {
    let (mut held, mut bookmarks) = (Held::default(), 0);
    for step in &recording.0 {
        let Step::Frame(frame) = step else { continue };
        held.take(frame)?;
        if let Frame::Heartbeat(beat) = frame {
            ensure!(
                beat.revision <= held.revision,
                "a bookmark at {} before revision {}",
                held.revision,
                beat.revision
            );
            if beat.revision == held.revision {
                ensure!(beat.digest == held.entries.digest(), "the bookmark of {} has another digest", beat.revision);
                bookmarks += 1;
            }
        }
    }
    Ok(bookmarks)
}

/// Reliable: a revision changes the same for everybody, and nobody skips one that somebody else was sent.
fn reliable(recordings: &[Recording]) -> Result<()> {
    let mut all: BTreeMap<u64, &Delta> = BTreeMap::new();
    for delta in recordings.iter().flat_map(deltas) {
        let known = all.entry(delta.from).or_insert(delta);
        ensure!(*known == delta, "the delta from {} differs between followers", delta.from);
    }
    let mut last = None;
    for (from, delta) in all {
        ensure!(last.is_none_or(|last| from >= last), "the delta from {from} overlaps one that leads to {last:?}");
        last = Some(delta.to);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_streams_are_ordered_unique_atomic_resumable_bookmarkable_and_reliable() -> Result<()> {
    let mut deployment = Deployment::start(Shape::Cluster).await?;
    let server = SampleServer::start().await?;
    deployment.apply(&server.manifests())?;
    let stop = Arc::new(AtomicBool::new(false));
    let start = |(number, frames): (usize, &usize)| {
        tokio::spawn(follow(deployment.admins.clone(), number, *frames, Arc::clone(&stop)))
    };
    let followers: Vec<JoinHandle<Result<Recording>>> = FRAMES.iter().enumerate().map(start).collect();
    let writers = Writers::start(&deployment, "stream", WRITERS);
    for _ in 0..2 {
        writers.go_on(SOME).await?;
        let leader = deployment.leader().await?;
        deployment.end(&leader, "KILL").await?;
        writers.go_on(SOME).await?;
        deployment.up(&[]).await?;
    }
    writers.go_on(SOME).await?;
    writers.stop().await?;
    stop.store(true, Ordering::Relaxed);
    let mut recordings = Vec::new();
    for follower in followers {
        recordings.push(follower.await??);
    }
    let (mut digests, mut resumed, mut anew, mut bookmarks) = (BTreeMap::new(), 0, 0, 0);
    for (number, recording) in recordings.iter().enumerate() {
        let of = |what: &str| format!("follower {number}: {what}");
        ensure!(deltas(recording).count() > 0, "follower {number} was sent no delta");
        ordered(recording).with_context(|| of("ordered"))?;
        unique(recording).with_context(|| of("unique"))?;
        atomic(recording, &mut digests).with_context(|| of("atomic"))?;
        let times = resumable(recording).with_context(|| of("resumable"))?;
        (resumed, anew) = (resumed + times.0, anew + times.1);
        bookmarks += bookmarkable(recording).with_context(|| of("bookmarkable"))?;
    }
    reliable(&recordings).context("reliable")?;
    println!("{} revisions, resumed {resumed} times, anew {anew} times, {bookmarks} bookmarks", digests.len());
    ensure!(resumed > anew && bookmarks > 0, "resumed {resumed} times, anew {anew}, {bookmarks} bookmarks");
    Ok(())
}
