//! The table of what is refused of workloads, and for which reason; and what is something else altogether.

use super::*;

const FORGED: fn(&Platforms) -> Vec<(&'static str, Value, &'static str)> = |platforms| {
    let world = &platforms.world;
    let token_endpoint = format!("{}/oauth/token", world.issuer);
    vec![
        ("for another audience", json!({"claims": {"aud": ["https://kubernetes.default.svc"]}}), "another audience"),
        ("for the resource", json!({"claims": {"aud": [world.resource]}}), "another audience"),
        ("for the endpoint with a slash", json!({"claims": {"aud": format!("{token_endpoint}/")}}), "another audience"),
        ("for two audiences", json!({"claims": {"aud": [token_endpoint, world.issuer]}}), "another audience"),
        ("for nobody", json!({"claims": {"aud": []}}), "another audience"),
        ("without aud", json!({"claims": {"aud": null}}), "lacks a claim"),
        ("without sub", json!({"claims": {"sub": null}}), "lacks a claim"),
        ("without exp", json!({"seconds": {"exp": null}, "claims": {"exp": null}}), "lacks a claim"),
        ("expired", json!({"seconds": {"iat": -60, "nbf": -60, "exp": -1}}), "has expired"),
        ("issued in the future", json!({"seconds": {"iat": 120}}), "not valid yet"),
        ("not valid before the future", json!({"seconds": {"nbf": 120}}), "not valid yet"),
        ("for longer than is accepted", json!({"seconds": {"exp": 7200}}), "lives longer"),
        ("issued long ago", json!({"seconds": {"iat": -3000, "nbf": -3000, "exp": 3000}}), "lives longer"),
        ("alg none", json!({"by": "nobody"}), "algorithm"),
        ("HS256 with the public key", json!({"by": "public"}), "algorithm"),
        ("ES384 claimed", json!({"header": {"alg": "ES384"}}), "algorithm"),
        ("a key that the header brings along", json!({"by": "embedded"}), "form"),
        ("a place of keys in the header", json!({"header": {"jku": "https://other.example/jwks"}}), "form"),
        ("crit", json!({"header": {"crit": ["exp"]}}), "form"),
        ("nested", json!({"nested": true}), "form"),
        ("giant", json!({"bytes": 20_000}), "form"),
        ("a claim twice", json!({"repeat": "sub"}), "form"),
        ("a stranger's key under the key's id", json!({"by": "stranger"}), "signature"),
        ("a key that nobody knows", json!({"by": "stranger", "header": {"kid": "other"}}), "signature"),
        ("bound to a key", json!({"claims": {"cnf": {"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}}}), "bound"),
        ("about another", json!({"claims": {"sub": "system:serviceaccount:agents:other"}}), "no client here"),
        ("about one that begins so", json!({"claims": {"sub": format!("{SUBJECT}-2")}}), "no client here"),
        ("from another namespace", json!({"claims": {"kubernetes.io": {"namespace": "other"}}}), "must have"),
        ("from no namespace", json!({"claims": {"kubernetes.io": null}}), "must have"),
        ("of another issuer", json!({"claims": {"iss": "https://other.example"}}), "issuer"),
        ("of no issuer", json!({"claims": {"iss": null}}), "issuer"),
        ("of the other platform", json!({"claims": {"iss": platforms.spire.issuer}}), "issuer"),
        ("about a workload of the other", json!({"claims": {"sub": SPIFFE_ID}}), "signature"),
        ("a security event's type", json!({"header": {"typ": "secevent+jwt"}}), "type"),
        ("an access token's type", json!({"header": {"typ": "at+jwt"}}), "type"),
        ("a workload identity token's type", json!({"header": {"typ": "wit+jwt"}}), "type"),
    ]
};

/// Fewer than fail at an address before it is turned away.
const AT_ONE_ADDRESS: usize = 20;

#[tokio::test]
async fn whatever_is_wrong_with_a_workloads_assertion_there_is_no_token() -> Result<()> {
    let platforms = Platforms::start().await?;
    let honest = platforms.projected(json!({})).await?;
    ensure!(platforms.ask(&honest, &[]).await?.status == 200, "an honest one");
    for (number, (name, change, why)) in FORGED(&platforms).into_iter().enumerate() {
        let elsewhere = u8::try_from(10 + number / AT_ONE_ADDRESS)?;
        let answer = platforms.ask_from(elsewhere, &platforms.projected(change).await?).await?;
        is_refused(&answer, 400, "invalid_grant", why).with_context(|| format!("an assertion {name}"))?;
    }
    for (name, change, why) in [
        ("of another trust domain", json!({"claims": {"sub": "spiffe://other.example/ns/agents/sa/x"}}), "issuer"),
        ("of one that begins so", json!({"claims": {"sub": "spiffe://acme.example.evil/ns/agents"}}), "issuer"),
        ("of another issuer", json!({"claims": {"iss": platforms.kubernetes.issuer}}), "issuer"),
        ("about somebody in no domain", json!({"claims": {"sub": SUBJECT}}), "issuer"),
        ("about another there", json!({"claims": {"sub": format!("{SPIFFE_ID}/x")}}), "no client here"),
        ("expired", json!({"seconds": {"iat": -60, "exp": -1}}), "has expired"),
    ] {
        let answer = platforms.ask(&platforms.svid(change).await?, &[]).await?;
        is_refused(&answer, 400, "invalid_grant", why).with_context(|| format!("an SVID {name}"))?;
    }
    for text in ["x", "a.b.c", "e30.e30.", "..", "eyJhbGciOiJub25lIn0.e30."] {
        is_refused(&platforms.ask(text, &[]).await?, 400, "invalid_grant", "").context(text)?;
    }
    let fetches = platforms.kubernetes.fetches_of_keys().await?;
    ensure!(fetches <= 3, "strangers had the keys fetched {fetches} times");
    ensure!(platforms.ask(&honest, &[]).await?.status == 200, "an honest one still");
    Ok(())
}

#[tokio::test]
async fn what_does_not_verify_counts_against_the_address_it_comes_from() -> Result<()> {
    let platforms = Platforms::start().await?;
    let honest = platforms.projected(json!({})).await?;
    let forged = platforms.projected(json!({"by": "stranger"})).await?;
    for number in 0.. {
        let answer = platforms.ask_from(9, &forged).await?;
        if answer.status == 429 {
            break;
        }
        is_refused(&answer, 400, "invalid_grant", "signature")?;
        ensure!(number < 1_000, "a stranger guesses for ever");
    }
    ensure!(platforms.ask(&honest, &[]).await?.status == 200, "others are served");
    Ok(())
}

#[tokio::test]
async fn each_kind_of_assertion_is_taken_for_itself_alone() -> Result<()> {
    let platforms = Platforms::start().await?;
    let world = &platforms.world;
    let acme = "workloads: {}, assertions: {virtual_servers: [shop]}, people: {user: email}";
    platforms.apply(&platforms.of_kubernetes(acme))?;
    let projected = platforms.projected(json!({})).await?;
    for (name, why) in [(CLIENT, "another one"), (READER, "another one"), ("nobody", "another one")] {
        let answer = platforms.ask(&projected, &[("client_id", name)]).await?;
        is_refused(&answer, 400, "invalid_grant", why).with_context(|| format!("as {name}"))?;
    }
    // An identity assertion needs a client that proves who it is, a public one does not.
    let id_jag = platforms.kubernetes.mint(json!({"claims": {"client_id": CLIENT}})).await?;
    for more in [&[][..], &[("client_id", CLIENT)], &[("client_id", WRITER)]] {
        is_refused(&platforms.ask(&id_jag, more).await?, 401, "invalid_client", "")
            .with_context(|| format!("{more:?}"))?;
    }
    // Whoever proves who it is has an identity assertion; a workload's is of another type.
    let kind = ("client_assertion_type", SIGNED);
    let answer = platforms.ask(&projected, &[kind, ("client_assertion", &projected)]).await?;
    is_refused(&answer, 400, "invalid_grant", "of a type")?;
    let own = platforms.ask(&projected, &[]).await?;
    let answer = platforms.ask(text(&own.body, "access_token"), &[]).await?;
    is_refused(&answer, 400, "invalid_grant", "of a type").context("an access token of ours")?;
    let id_token = platforms.kubernetes.sign_in("jane").await?;
    is_refused(&platforms.ask(&id_token, &[]).await?, 400, "invalid_grant", "another audience")
        .context("an ID token")?;
    let elsewhere = [("grant_type", JWT_BEARER), ("assertion", &*projected), ("resource", "https://other.example/mcp")];
    is_refused(&world.post("/oauth/token", &elsewhere).await?, 400, "invalid_target", "")?;
    let unnamed = [("grant_type", JWT_BEARER), ("assertion", &*projected)];
    ensure!(world.post("/oauth/token", &unnamed).await?.status == 200, "there is one place it may be for");
    is_refused(&platforms.ask(&projected, &[("scope", "openid")]).await?, 400, "invalid_scope", "")?;
    is_refused(&platforms.ask(&projected, &[("assertion", "x")]).await?, 400, "invalid_request", "more than once")?;
    is_refused(&world.post("/oauth/token", &[("grant_type", JWT_BEARER)]).await?, 401, "invalid_client", "")?;
    // A workload that proves who it is may bring a person's word.
    let id_jag = platforms.kubernetes.mint(json!({"claims": {"client_id": WRITER, "scope": "mcp:read"}})).await?;
    let answer = platforms.ask(&id_jag, &[kind, ("client_assertion", &projected)]).await?;
    ensure!(answer.status == 200, "{}", answer.text);
    Ok(())
}
