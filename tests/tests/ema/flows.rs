//! The whole way with other people's clients: sign in at the company, assertion, token, a tool's answer, the record.

use bailiwick_tests::idp::{Asking, EmaClient};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::*;

/// A client that signs instead of having a secret.
const SIGNING: &str = "assistant-that-signs";

/// Every one of them, how it is called here, and the scope that it says.
const CLIENTS: [(EmaClient, &str, Option<&str>); 6] = [
    (EmaClient::TypeScript, CLIENT, None),
    (EmaClient::TypeScriptBare, CLIENT, Some("mcp:write")),
    (EmaClient::StrictBasic, CLIENT, Some("mcp:write")),
    (EmaClient::StrictPost, CLIENT, None),
    (EmaClient::StrictKey, SIGNING, Some("mcp:write")),
    (EmaClient::Python, CLIENT, Some("mcp:write")),
];

/// The manifest of a client with a key, and the key in PEM.
fn signing_client() -> Result<(String, String)> {
    let key = rcgen::KeyPair::generate()?;
    let point = key.public_key_raw();
    ensure!(point.len() == 65, "not an uncompressed point of P-256");
    let [x, y] = [&point[1..33], &point[33..]].map(|half| URL_SAFE_NO_PAD.encode(half));
    let jwks = json!({"keys": [{"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "x": x, "y": y}]});
    let spec = json!({"agent": AGENT, "auth": "private_key_jwt", "jwks": jwks.to_string()});
    Ok((manifest("Client", SIGNING, &spec.to_string()), key.serialize_pem()))
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_others_wrote_get_tokens_by_the_companys_word_and_their_calls_are_answered() -> Result<()> {
    let world = World::start(Shape::Processes).await?;
    let (signing, pem) = signing_client()?;
    world.deployment.apply(&signing)?;
    let file = world.deployment.data().join("client.pem");
    std::fs::write(&file, pem)?;
    let file = file.display().to_string();
    let id_token = world.provider.sign_in("jane").await?;
    for (which, client_id, scope) in CLIENTS {
        let rule = Rule { client_id: client_id.to_owned(), ..world.rule("mcp:read mcp:write mcp:tools") };
        world.provider.policy(&[rule]).await?;
        let secret = if client_id == SIGNING { &file } else { SECRET };
        let (issuer, url) = (&world.issuer, &world.resource);
        let asking = Asking { id_token: &id_token, url, issuer, client_id, secret, scope };
        let said = which.run(&world.provider, &asking, "charge").await?;
        ensure!(said["ok"] == true, "{which:?}: {said:#}\n{}", world.deployment.log());
        ensure!(said["results"][0]["isError"] != true, "{which:?}: {said:#}");
        let tokens = &said["tokens"];
        ensure!(tokens.get("refresh_token").is_none(), "{which:?} was given a long life: {tokens}");
        ensure!(tokens["expires_in"].as_u64().is_some_and(|seconds| seconds <= 600), "{which:?}: {tokens}");
        ensure!(scope.is_none() || tokens["scope"] == scope.unwrap_or_default(), "{which:?}: {tokens}");
        if let Some(claims) = said.get("claims") {
            ensure!(claims["sub"] == JANE && claims["client_id"] == client_id, "{which:?}: {claims:#}");
            ensure!(claims["aud"] == world.resource.as_str() && claims["iss"] == world.issuer.as_str(), "{claims:#}");
            ensure!(claims["act"]["sub"].as_str().is_some_and(|actor| actor.contains(AGENT)), "{which:?}: {claims:#}");
        }
        if matches!(which, EmaClient::StrictBasic) {
            ensure!(said["cache"] == "no-store", "{said:#}");
            is_advertised(&said["server"])?;
        }
    }
    is_on_record(&world).await
}

fn is_advertised(metadata: &Value) -> Result<()> {
    let of = |key: &str, word: &str| metadata[key].as_array().is_some_and(|words| words.iter().any(|has| has == word));
    ensure!(of("authorization_grant_profiles_supported", "urn:ietf:params:oauth:grant-profile:id-jag"), "{metadata:#}");
    ensure!(of("grant_types_supported", JWT_BEARER), "{metadata:#}");
    for method in ["client_secret_basic", "client_secret_post", "private_key_jwt"] {
        ensure!(of("token_endpoint_auth_methods_supported", method), "{metadata:#}");
    }
    Ok(())
}

/// Each call says whose authority it was, by which agent and client, and on which consent; so does each exchange.
async fn is_on_record(world: &World) -> Result<()> {
    let mut calls = world.deployment.records_of("tools/call", 2 * CLIENTS.len()).await?;
    calls.retain(|record| record["kind"] == "call.intent");
    ensure!(calls.len() == CLIENTS.len(), "{} calls are on record", calls.len());
    for (record, (which, client_id, _)) in calls.iter().zip(CLIENTS) {
        ensure!(record["user"] == JANE && record["agent"] == AGENT, "{which:?}: {record:#}");
        ensure!(record["client"] == client_id, "{which:?}: {record:#}");
        ensure!(record["consent"].is_string() && record["owner"] == JANE, "{which:?}: {record:#}");
    }
    let used = eventually("the exchanges are in the ledger", async || {
        let records = world.deployment.audit(&["--limit", "1000"]).ok()?;
        let used: Vec<_> = records.into_iter().filter(|record| record.to_string().contains("assertion_used")).collect();
        (used.len() >= CLIENTS.len()).then_some(used)
    })
    .await?;
    ensure!(used.len() == CLIENTS.len(), "{} exchanges are on record", used.len());
    let listed = world.deployment.cli_ok(&["get", "consent", "-o", "json"])?;
    for consent in calls.iter().filter_map(|record| record["consent"].as_str()) {
        ensure!(listed.contains(consent), "consent {consent} of a call is not listed: {listed}");
    }
    ensure!(!listed.contains("eyJ") && used.iter().all(|record| !record.to_string().contains("eyJ")), "a JWT is kept");
    Ok(())
}
