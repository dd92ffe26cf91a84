//! A node among its neighbours: starting, following the configuration, losing others, stopping.

use super::*;

#[tokio::test]
async fn before_a_configuration_nothing_is_served() {
    let (closed, _held) = fakes::closed();
    let mut node = Node::start(&format!("http://{closed}"), EventStream::in_process()).await;
    let get = |path: &str| Client::new().get(format!("{}{path}", node.url)).send();
    let posted = Client::new().post(format!("{}/mcp/finance", node.url)).body("{}").send().await.unwrap();
    assert_eq!(posted.status(), 503);
    assert_eq!(get("/.well-known/oauth-protected-resource").await.unwrap().status(), 503);
    assert!(!node.running.as_ref().unwrap().is_ready());
    node.stop().await;
}

#[tokio::test]
async fn calls_go_on_while_the_control_plane_is_gone() {
    let world = World::start(Speaks::Modern, PERMIT_ALL).await;
    world.control.vanish();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(json_of(world.call("query_data").send().await.unwrap()).await.1["result"].is_object());
}

#[tokio::test]
async fn a_revocation_is_in_force_even_when_its_delta_does_not_match() {
    let world = World::start(Speaks::Modern, PERMIT_ALL).await;
    let revision = world.control.change(consent(true), false).await;
    let refused = || async { json_of(world.call("query_data").send().await.unwrap()).await.1["error"].clone() };
    let mut error = refused().await;
    while error.is_null() {
        tokio::time::sleep(Duration::from_millis(10)).await;
        error = refused().await;
    }
    assert_eq!(error["data"]["reason"], "consent_revoked");
    eventually("a fresh snapshot was applied", || world.control.acknowledged(revision)).await;
    let hellos = world.control.shared.hellos.lock().unwrap().clone();
    assert_eq!((hellos[0].last_revision, hellos[1].last_revision), (0, 0), "after a mismatch everything is asked anew");
    assert!(world.control.shared.said.lock().unwrap().iter().any(|said| matches!(said, Up::Nack(_))));
}

#[tokio::test]
async fn policies_that_do_not_compile_are_refused_and_the_older_ones_stay() {
    let world = World::start(Speaks::Modern, PERMIT_READS).await;
    let revision = world.control.change(policy("permit (principal"), true).await;
    let nacked = |said: &Up| matches!(said, Up::Nack(nack) if nack.revision == revision && !nack.error.is_empty());
    eventually("nack", || world.control.shared.said.lock().unwrap().iter().any(nacked)).await;
    assert!(json_of(world.call("query_data").send().await.unwrap()).await.1["result"].is_object());
    let (_, body) = json_of(world.call("create_charge").send().await.unwrap()).await;
    assert_eq!(refusal(&body).1, "policy_denied");
}

#[tokio::test]
async fn servers_are_looked_at_when_asked_and_when_nothing_is_pinned() {
    let world = World::with(Speaks::Modern, |url| entries(url, PERMIT_ALL, false), true).await;
    let reported =
        || world.control.shared.reports.lock().unwrap().iter().filter(|report| report.tools.len() == 3).count();
    eventually("reports until something is pinned", || reported() >= 2).await;
    let server =
        |url: &str| Some(Server { name: "new".into(), url: url.into(), timeout_ms: 1000, ..Server::default() });
    world.control.send(Frame::Discover(Discover { id: 1, server: server(&world.server.url) })).await;
    world.control.send(Frame::Discover(Discover { id: 2, server: server("http://127.0.0.1:1/mcp") })).await;
    let discovered = |wanted: u64, good: bool| {
        let said = world.control.shared.said.lock().unwrap();
        said.iter().any(|up| {
            matches!(up, Up::Discovered(found) if found.id == wanted && found.error.is_empty() == good && found.tools.is_empty() != good)
        })
    };
    eventually("discovered", || discovered(1, true) && discovered(2, false)).await;
}

#[tokio::test]
async fn shutdown_lets_a_call_finish_and_closes_the_chain() {
    let mut world = World::start(Speaks::Modern, PERMIT_ALL).await;
    world.server.set(Mode::Slow(Duration::from_millis(500)));
    let request = world.call("create_charge");
    let stop = world.node.shutdown.clone();
    let server = &world.server;
    let (answer, ()) = tokio::join!(request.send(), async {
        eventually("forwarded", || !server.seen("tools/call").is_empty()).await;
        stop.request();
    });
    assert!(json_of(answer.unwrap()).await.1["result"].is_object());
    world.node.stop().await;
    let ledger = world.ledger.as_ref().unwrap();
    eventually("closed", || !ledger.of_kind(Kind::NodeEpochClose).is_empty()).await;
    let (outcome, close) =
        (ledger.of_kind(Kind::CallOutcome).remove(0), ledger.of_kind(Kind::NodeEpochClose).remove(0));
    assert!(outcome.seq < close.seq);
    assert_eq!(close.epoch, 11);
}

#[tokio::test]
async fn a_call_that_outlasts_the_shutdown_is_recorded_as_unknown() {
    let world = World::with(
        Speaks::Modern,
        |url| {
            let patient = Server { name: "finance".into(), url: url.into(), timeout_ms: 60_000, ..Server::default() };
            let patient = bailiwick_proto::v1::resource::Resource::Server(patient);
            let mut entries = entries(url, PERMIT_ALL, true);
            entries.retain(|entry| entry.key != "server/finance");
            entries.push(crate::fakes::world::entry("server/finance", patient));
            entries
        },
        true,
    )
    .await;
    world.server.set(Mode::Hang);
    let World { server, ledger, mut node, control: _control } = world;
    let ledger = ledger.unwrap();
    let url = format!("{}/mcp/finance", node.url);
    let world = (&server, &ledger);
    let body = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"create_charge","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}"#;
    let request = Client::new()
        .post(url)
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", "tools/call")
        .header("mcp-name", "create_charge")
        .bearer_auth(token(&claims()))
        .body(body);
    let (_answer, ()) = tokio::join!(request.send(), async {
        eventually("forwarded", || !world.0.seen("tools/call").is_empty()).await;
        node.stop().await;
    });
    let outcome = world.1.of_kind(Kind::CallOutcome).remove(0).outcome.unwrap();
    assert_eq!((outcome.status, outcome.error_code.as_deref()), (Status::Unknown, Some("cancelled")));
}

#[tokio::test]
async fn each_run_has_a_key_and_an_epoch_of_its_own() {
    let mut world = World::start(Speaks::Modern, PERMIT_ALL).await;
    world.call("query_data").send().await.unwrap();
    world.node.stop().await;
    let config = DataPlaneConfig {
        data_dir: world.node.dir.path().to_owned(),
        node: "dp-1".into(),
        drain_delay_ms: 0,
        listen: ([127, 0, 0, 1], 0).into(),
        ops_listen: ([127, 0, 0, 1], 0).into(),
        control_plane: world.control.url.clone().into(),
        master_key: super::master_key(),
        ..DataPlaneConfig::default()
    };
    let shutdown = Shutdown::new();
    let again = serve(config, world.node.stream.clone(), shutdown.clone()).await.unwrap();
    eventually("ready", || again.is_ready()).await;
    shutdown.request();
    again.stopped().await.unwrap();
    let registered = world.control.shared.registered.lock().unwrap().clone();
    assert_eq!(registered.len(), 2);
    assert_ne!(registered[0].public_key, registered[1].public_key);
    let ledger = world.ledger.as_ref().unwrap();
    eventually("both runs closed", || ledger.of_kind(Kind::NodeEpochClose).len() == 2).await;
    let epochs: Vec<_> = ledger.of_kind(Kind::NodeEpochOpen).iter().map(|record| record.epoch).collect();
    assert_eq!(epochs, [11, 12]);
}

#[tokio::test]
async fn a_client_that_never_finishes_its_request_does_not_hold_up_the_shutdown() {
    use tokio::io::AsyncWriteExt;
    let mut world = World::start(Speaks::Modern, PERMIT_ALL).await;
    let address = world.node.running.as_ref().unwrap().mcp_addr;
    let mut stuck = tokio::net::TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /mcp/finance HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\ncontent-length: 10\r\n\r\n{{",
        token(&claims())
    );
    stuck.write_all(head.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let before = Instant::now();
    world.node.stop().await;
    assert!(before.elapsed() < Duration::from_secs(6));
}

#[tokio::test]
async fn two_processes_never_share_a_data_folder() {
    let world = World::start(Speaks::Modern, PERMIT_ALL).await;
    let config = DataPlaneConfig {
        data_dir: world.node.dir.path().to_owned(),
        listen: ([127, 0, 0, 1], 0).into(),
        ops_listen: ([127, 0, 0, 1], 0).into(),
        master_key: super::master_key(),
        ..DataPlaneConfig::default()
    };
    let refused = serve(config, world.node.stream.clone(), Shutdown::new()).await.unwrap_err();
    assert!(matches!(refused, crate::DataPlaneError::DataDir { .. }), "{refused}");
}
