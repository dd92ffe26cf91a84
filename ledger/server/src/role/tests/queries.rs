//! What the HTTP listener answers: searches, events, proofs, tiles, and clear errors for everything else.

use bailiwick_ledger_core::{hash::from_hex, tree::verify_inclusion};

use super::*;

/// A ledger with 21 published records of two runs: registrations, calls of jane, refusals of joe.
async fn filled() -> Bench {
    let mut bench = Bench::new().await;
    let (mut control, mut one, mut two) = (Node::control(), Node::run("dp-1", 7), Node::run("dp-2", 8));
    let registrations = control.batch(|control| vec![control.register(&one), control.register(&two)]);
    let (calls, more) = (one.batch(|node| node.calls(3)), two.batch(|node| node.calls(2)));
    let denials = one.batch(|node| (0..5).map(|_| node.denied("joe@example.com", "create_charge")).collect());
    for batch in [&registrations, &calls, &more, &denials] {
        bench.send(batch).await;
        bench.stored(batch).await;
    }
    bench.published(&denials).await;
    bench
}

fn indexes(answer: &Value) -> Vec<&str> {
    answer["items"].as_array().unwrap().iter().map(|item| item["index"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn records_are_found_newest_first_with_their_own_fields() {
    let bench = filled().await;
    let answer = bench.json("/v1/records?user=joe@example.com&decision=deny&tool=create_charge&limit=3").await;
    assert_eq!(indexes(&answer), ["20", "19", "18"]);
    let record = &answer["items"][0];
    assert_eq!((record["kind"].as_str(), record["decision"]["effect"].as_str()), (Some("call.denied"), Some("deny")));
    assert_eq!(record["leaf_hash"].as_str().map(str::len), Some(64));
    let next = answer["next"].as_str().unwrap();
    let rest = bench.json(&format!("/v1/records?user=joe@example.com&before={next}")).await;
    assert_eq!((indexes(&rest), &rest["next"]), (vec!["17", "16"], &Value::Null));
    for (query, found) in [
        ("user=jane@example.com&server=finance&agent=coding-assistant", 5),
        ("kind=control.event", 2),
        ("decision=permit", 5),
        ("user=nobody", 0),
        ("since=1970-01-01T00:03:00Z", 0),
        ("since=1970-01-01T00:00:00Z&limit=1000", 21),
        ("since=10m", 0),
        ("request_id=r-1", 2),
    ] {
        let answer = bench.json(&format!("/v1/records?{query}")).await;
        assert_eq!(indexes(&answer).len(), found, "{query}");
    }
    bench.stop().await;
}

#[tokio::test]
async fn decisions_for_services_are_found_by_who_asked_and_wait_for_no_outcome() {
    let mut bench = filled().await;
    let mut node = Node::run("dp-9", 9);
    let mut control = Node::control();
    control.batch(|control| vec![control.register(&Node::run("dp-1", 7)), control.register(&Node::run("dp-2", 8))]);
    let registration = control.batch(|control| vec![control.register(&node)]);
    let told = node.batch(|node| {
        let mut records = vec![node.open()];
        for (service, user) in
            [("billing", "jane@example.com"), ("billing", "joe@example.com"), ("stock", "jane@example.com")]
        {
            records.push(node.evaluated(service, user));
        }
        records.push(node.head());
        records
    });
    bench.send(&registration).await;
    bench.stored(&registration).await;
    bench.send(&told).await;
    bench.published(&told).await;
    for (query, found) in [
        ("kind=decision.evaluated", 3),
        ("decision_client=billing", 2),
        ("decision_client=billing&user=jane@example.com&decision=permit", 1),
        ("decision_client=nobody", 0),
    ] {
        let answer = bench.json(&format!("/v1/records?{query}")).await;
        assert_eq!(indexes(&answer).len(), found, "{query}");
    }
    bench.stop().await;
}

#[tokio::test]
async fn events_resume_where_a_reader_stopped() {
    let mut bench = filled().await;
    let (mut seen, mut path) = (Vec::new(), "/v1/events?limit=8".to_owned());
    loop {
        let answer = bench.json(&path).await;
        let page = indexes(&answer);
        let Some(last) = page.last() else { break };
        path = format!("/v1/events?limit=8&after={last}");
        seen.extend(page.into_iter().map(str::to_owned));
    }
    assert_eq!(seen, (0..21).map(|index: u64| index.to_string()).collect::<Vec<_>>());

    let lines = client()
        .get(format!("http://{}/v1/events?after=18", bench.running.http_addr))
        .header("accept", "application/x-ndjson");
    let lines = lines.send().await.unwrap().text().await.unwrap();
    let parsed: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(parsed.iter().map(|record| record["index"].as_str().unwrap()).collect::<Vec<_>>(), ["19", "20"]);

    let batch = Node::run("dp-9", 9);
    let news = {
        let mut control = Node::control();
        control.batch(|control| vec![control.register(&Node::run("dp-1", 7)), control.register(&Node::run("dp-2", 8))]);
        control.batch(|control| vec![control.register(&batch)])
    };
    let waiting = format!("http://{}/v1/events?after=20&wait=30s", bench.running.http_addr);
    let (answer, ()) = tokio::join!(async { super::get(waiting).await.json::<Value>().await.unwrap() }, async {
        bench.send(&news).await;
        bench.stored(&news).await;
    });
    assert_eq!(indexes(&answer), ["21"]);
    bench.stop().await;
}

#[tokio::test]
async fn a_proof_holds_against_the_checkpoint() {
    let bench = filled().await;
    let proof = bench.json("/v1/proof/5").await;
    let hash = |value: &Value| from_hex(value.as_str().unwrap()).unwrap();
    let hashes: Vec<_> = proof["hashes"].as_array().unwrap().iter().map(hash).collect();
    assert!(verify_inclusion(5, 21, &hash(&proof["leaf_hash"]), &hashes, &hash(&proof["root"])));
    assert_eq!(proof["checkpoint"].as_str().unwrap(), bench.get("/checkpoint").await.text().await.unwrap());
    assert_eq!(bench.get("/v1/key").await.text().await.unwrap().trim_end(), bench.running.verifier_key);
    bench.stop().await;
}

#[tokio::test]
async fn tiles_are_served_as_c2sp_says() {
    let bench = filled().await;
    let tile = bench.get("/tile/0/000.p/21").await;
    assert_eq!(tile.headers()["content-type"], "application/octet-stream");
    assert_eq!(tile.bytes().await.unwrap().len(), 21 * 32);
    assert_eq!(bench.get("/tile/entries/000.p/21").await.status(), 200);
    assert_eq!(bench.get("/checkpoint").await.headers()["content-type"], "text/plain; charset=utf-8");
    for missing in ["0/000", "0/000.p/22", "0/001.p/1", "1/000.p/1", "entries/000", "0/0", "x", "9/000.p/1"] {
        assert_eq!(bench.get(&format!("/tile/{missing}")).await.status(), 404, "{missing}");
    }
    bench.stop().await;
}

#[tokio::test]
async fn bad_requests_get_a_stable_code_and_name_what_is_wrong() {
    let bench = filled().await;
    for (path, status, code, named) in [
        ("/v1/records?usr=jane", 400, "unknown_parameter", "`usr`"),
        ("/v1/records?user=a&user=b", 400, "repeated_parameter", "`user`"),
        ("/v1/records?limit=5000", 400, "malformed_parameter", "`limit`"),
        ("/v1/records?decision=maybe", 400, "malformed_parameter", "permit, deny"),
        ("/v1/events?after=-1", 400, "malformed_parameter", "`after`"),
        ("/v1/proof/21", 404, "not_published", "21"),
        ("/v1/proof/x", 404, "not_found", "leaf"),
        ("/checkpoint?x=1", 400, "unknown_parameter", "`x`"),
        ("/nowhere", 404, "not_found", "page"),
    ] {
        let answer = bench.get(path).await;
        assert_eq!(answer.status(), status, "{path}");
        let error = answer.json::<Value>().await.unwrap()["error"].take();
        assert_eq!(error["code"], code, "{path}");
        assert!(error["message"].as_str().unwrap().contains(named), "{path}: {error}");
    }
    let posted = client().post(format!("http://{}/v1/records", bench.running.http_addr)).send().await;
    assert_eq!(posted.unwrap().status(), 405);
    bench.stop().await;
}

#[tokio::test]
async fn status_says_how_complete_each_chain_is() {
    let bench = filled().await;
    let status = bench.json("/v1/status").await;
    assert_eq!((&status["size"], &status["published_size"]), (&"21".into(), &"21".into()));
    let chains = status["chains"].as_array().unwrap();
    let chain = chains.iter().find(|chain| chain["node"] == "dp-1").unwrap();
    assert_eq!(
        (&chain["records"], &chain["complete"], &chain["published"]),
        (&"13".into(), &true.into(), &true.into())
    );
    assert_eq!(chain["signed_through"], "6");
    bench.stop().await;
}
