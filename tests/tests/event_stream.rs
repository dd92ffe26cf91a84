//! The event stream's contract on a real NATS server with JetStream; `runtime` holds the same claims in process.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use bailiwick_runtime::{
    EventStream,
    event_stream::{NatsOptions, StreamError, StreamSpec},
};
use bailiwick_tests::{
    deployment::{kill, repository},
    eventually,
    upstream::free_port,
};
use bytes::Bytes;

/// A NATS server with its data in a temporary folder; stopped when dropped.
struct Nats {
    child: Child,
    folder: tempfile::TempDir,
    port: u16,
    program: String,
}

impl Nats {
    async fn start() -> Result<Self> {
        let program = match bailiwick_runtime::config::env("NATS_SERVER") {
            Some(program) => program,
            None => {
                let installed = Command::new(repository().join("deploy/nats/install")).output()?;
                String::from_utf8(installed.stdout)?.trim().to_owned()
            }
        };
        let (folder, port) = (tempfile::tempdir()?, free_port()?);
        let child = Self::spawn(&program, port, &folder)?;
        let nats = Self { child, folder, port, program };
        nats.answers().await?;
        Ok(nats)
    }

    fn spawn(program: &str, port: u16, folder: &tempfile::TempDir) -> Result<Child> {
        let mut command = Command::new(program);
        command
            .args(["--addr", "127.0.0.1", "--port", &port.to_string(), "--jetstream", "--store_dir"])
            .arg(folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("start nats-server")
    }

    async fn answers(&self) -> Result<()> {
        eventually("the NATS server", async || tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.ok())
            .await?;
        Ok(())
    }

    async fn restart(&mut self) -> Result<()> {
        kill(self.child.id(), "KILL");
        self.child.wait()?;
        self.child = Self::spawn(&self.program, self.port, &self.folder)?;
        self.answers().await
    }

    async fn connect(&self) -> Result<EventStream, StreamError> {
        let options = NatsOptions {
            url: format!("nats://127.0.0.1:{}", self.port),
            replicas: 1,
            stream_bytes_max: 64 * 1024 * 1024,
        };
        let spec = StreamSpec {
            name: "TEST".to_owned(),
            subjects: vec!["a.>".to_owned(), "b".to_owned()],
            message_bytes_max: 64 * 1024,
            age_max: Duration::from_secs(3600),
        };
        Box::pin(EventStream::nats(options, spec)).await
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        kill(self.child.id(), "KILL");
        drop(self.child.wait());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_gets_what_matches_in_order_and_goes_on_after_it_was_away() -> Result<()> {
    let nats = Nats::start().await?;
    let stream = nats.connect().await?;
    stream.publish("a.x", "1", Bytes::from("1")).await?;
    let mut consumer = stream.consume(&["a.>", "b"], "one").await?;
    stream.publish("b", "2", Bytes::from("2")).await?;
    for expected in ["1", "2"] {
        let message = consumer.next().await.context("closed")?;
        ensure!(message.payload == expected, "{message:?}");
        message.ack().await;
    }
    drop(consumer);
    stream.publish("a.y", "3", Bytes::from("3")).await?;
    let mut again = nats.connect().await?.consume(&["a.>", "b"], "one").await?;
    let message = again.next().await.context("closed")?;
    ensure!(message.payload == "3", "acknowledged messages came again: {message:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_message_id_arrives_once() -> Result<()> {
    let nats = Nats::start().await?;
    let stream = nats.connect().await?;
    for (id, payload) in [("1", "first"), ("1", "first"), ("2", "second")] {
        stream.publish("b", id, Bytes::from(payload)).await?;
    }
    let mut consumer = stream.consume(&["b"], "one").await?;
    for expected in ["first", "second"] {
        ensure!(consumer.next().await.context("closed")?.payload == expected);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_interrupts_and_nothing_acknowledged_is_lost() -> Result<()> {
    let mut nats = Nats::start().await?;
    let stream = nats.connect().await?;
    let mut consumer = stream.consume(&["b"], "one").await?;
    stream.publish("b", "1", Bytes::from("before")).await?;
    nats.restart().await?;
    eventually("publishing goes on", async || stream.publish("b", "2", Bytes::from("after")).await.ok()).await?;
    for expected in ["before", "after"] {
        let message = consumer.next().await.context("closed")?;
        ensure!(message.payload == expected, "{message:?}");
        message.ack().await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn broadcasts_reach_everyone_who_listens() -> Result<()> {
    let nats = Nats::start().await?;
    let (one, two) = (nats.connect().await?, nats.connect().await?);
    let (mut first, mut second) = (one.listen("n").await?, two.listen("n").await?);
    two.broadcast("n", Bytes::from("now")).await?;
    ensure!(first.next().await.context("closed")? == "now" && second.next().await.context("closed")? == "now");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_the_limit_is_refused() -> Result<()> {
    let nats = Nats::start().await?;
    let stream = nats.connect().await?;
    ensure!(stream.publish("b", "1", Bytes::from(vec![0; 65 * 1024])).await.is_err());
    stream.publish("b", "2", Bytes::from(vec![0; 60 * 1024])).await?;
    Ok(())
}
