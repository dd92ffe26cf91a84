//! Assertions and bound tokens: with a key that the company's word names, and on several control planes.

use bailiwick_tests::prover::Prover;

use super::*;

impl World {
    /// Exchanges an assertion at a node, with a proof.
    async fn proving(&self, node: &str, assertion: &str, prover: &Prover, nonce: Option<&str>) -> Result<Answer> {
        let proof = prover.proof("POST", &format!("{}/oauth/token", self.issuer), nonce)?;
        let form = [("grant_type", JWT_BEARER), ("assertion", assertion), ("resource", &self.resource)];
        let request = self.http.post(format!("{node}/oauth/token")).header("authorization", basic(CLIENT, SECRET));
        Answer::to(request.header("DPoP", proof).form(&form)).await
    }
}

fn nonce(answer: &Answer) -> Result<String> {
    Ok(answer.headers.get("dpop-nonce").context("no DPoP-Nonce")?.to_str()?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assertion_for_a_key_is_taken_from_who_holds_it() -> Result<()> {
    let world = World::start(Shape::Embedded).await?;
    let (own, thief) = (Prover::new()?, Prover::new()?);
    let assertion = world.provider.mint(json!({"claims": {"cnf": {"jkt": own.jkt()}}})).await?;
    let first = world.proving(&world.issuer, &assertion, &own, None).await?;
    ensure!(first.status == 400 && first.body["error"] == "use_dpop_nonce", "{}", first.text);
    let known = nonce(&first)?;
    let form = [("grant_type", JWT_BEARER), ("assertion", assertion.as_str()), ("binding_alg", "aes-256-gcm")];
    for answer in [
        world.exchange(&world.issuer, &assertion).await?,
        world.ask(&world.issuer, &form).await?,
        world.proving(&world.issuer, &assertion, &thief, Some(&known)).await?,
    ] {
        ensure!(answer.status == 400 && answer.body["error"] == "invalid_grant", "{}", answer.text);
        ensure!(answer.text.contains("bound to a key"), "{}", answer.text);
    }
    let given = world.proving(&world.issuer, &assertion, &own, Some(&known)).await?;
    ensure!(given.status == 200 && given.body["token_type"] == "DPoP", "nothing used it up: {}", given.text);
    let certificate = json!({"claims": {"cnf": {"x5t#S256": own.jkt()}}});
    let assertion = world.provider.mint(certificate).await?;
    let other = world.proving(&world.issuer, &assertion, &own, Some(&known)).await?;
    ensure!(other.status == 400 && other.body["error"] == "invalid_grant", "{}", other.text);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nonce_of_one_control_plane_is_good_at_another() -> Result<()> {
    let world = World::start(Shape::Processes).await?;
    let prover = Prover::new()?;
    let nodes = world.nodes();
    let assertion = world.provider.mint(json!({})).await?;
    let mut known = nonce(&world.proving(&nodes[0], &assertion, &prover, None).await?)?;
    for node in nodes.iter().rev() {
        let assertion = world.provider.mint(json!({})).await?;
        let given = world.proving(node, &assertion, &prover, Some(&known)).await?;
        ensure!(given.status == 200 && given.body["token_type"] == "DPoP", "{node}: {}", given.text);
        known = nonce(&given)?;
        let form = [
            ("grant_type", JWT_BEARER),
            ("assertion", &world.provider.mint(json!({})).await?),
            ("binding_alg", "aes-256-gcm"),
        ];
        let with_key = world.ask(node, &form).await?;
        ensure!(with_key.status == 200 && with_key.body["binding_key"].is_string(), "{node}: {}", with_key.text);
    }
    Ok(())
}
