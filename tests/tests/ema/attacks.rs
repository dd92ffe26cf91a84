//! The table of what is refused, with which word of OAuth and for which reason.
//!
//! Each row differs from an honest exchange in one thing only; the honest one is made before and after the table, so
//! that no row is refused because nothing works. `why` is a part of the description: refused for this, not another.

use super::*;

/// What is not for this client, server or resource, not for now, or not an assertion at all.
const FORGED: fn(&World) -> Vec<(&'static str, Value, &'static str)> = |world| {
    let issuer = &world.issuer;
    let token_endpoint = format!("{issuer}/oauth/token");
    vec![
        ("for another client", json!({"claims": {"client_id": "somebody-else"}}), "another client"),
        ("for another audience", json!({"claims": {"aud": "https://other.example"}}), "another audience"),
        ("for the resource as audience", json!({"claims": {"aud": world.resource}}), "another audience"),
        ("for the token endpoint as audience", json!({"claims": {"aud": token_endpoint}}), "another audience"),
        ("for the issuer with a slash", json!({"claims": {"aud": format!("{issuer}/")}}), "another audience"),
        ("for two audiences", json!({"claims": {"aud": [issuer, "https://other.example"]}}), "another audience"),
        ("for another resource", json!({"claims": {"resource": "https://other.example/mcp/shop"}}), "does not vouch"),
        ("for the resource with a slash", json!({"claims": {"resource": format!("{}/", world.resource)}}), "not vouch"),
        ("expired", json!({"seconds": {"iat": -60, "exp": -1}}), "has expired"),
        ("issued in the future", json!({"seconds": {"iat": 120, "exp": 300}}), "not valid yet"),
        ("not valid before the future", json!({"seconds": {"nbf": 120}}), "not valid yet"),
        ("for longer than is accepted", json!({"seconds": {"exp": 3600}}), "lives longer"),
        ("without jti", json!({"claims": {"jti": null}}), "lacks a claim"),
        ("without client_id", json!({"claims": {"client_id": null}}), "lacks a claim"),
        ("without iat", json!({"claims": {"iat": null}}), "lacks a claim"),
        ("without exp", json!({"claims": {"exp": null}}), "lacks a claim"),
        ("without aud", json!({"claims": {"aud": null}}), "lacks a claim"),
        ("without sub", json!({"claims": {"sub": null}}), "lacks a claim"),
        ("of a number as jti", json!({"claims": {"jti": 7}}), "form"),
        ("typ of a plain JWT", json!({"header": {"typ": "JWT"}}), "type"),
        ("typ of an access token", json!({"header": {"typ": "at+jwt"}}), "type"),
        ("no typ", json!({"header": {"typ": null}}), "type"),
        ("alg none", json!({"by": "nobody"}), "algorithm"),
        ("HS256 with the public key", json!({"by": "public"}), "algorithm"),
        ("HS256 claimed of a signature", json!({"header": {"alg": "HS256"}}), "algorithm"),
        ("RS256 claimed of an EC key", json!({"header": {"alg": "RS256"}}), "algorithm"),
        ("a key that the header brings along", json!({"by": "embedded"}), "form"),
        ("a place of keys in the header", json!({"header": {"jku": "https://other.example/jwks"}}), "form"),
        ("a certificate in the header", json!({"header": {"x5c": ["MIIB"]}}), "form"),
        ("crit", json!({"header": {"crit": ["exp"]}}), "form"),
        ("a stranger's key under the key's id", json!({"by": "stranger"}), "signature"),
        ("a key that nobody knows", json!({"by": "stranger", "header": {"kid": "other"}}), "signature"),
        ("giant", json!({"bytes": 20_000}), "form"),
        ("nested", json!({"nested": true}), "form"),
        ("a claim twice", json!({"repeat": "aud"}), "form"),
        ("of another issuer", json!({"claims": {"iss": "https://other.example"}}), "issuer"),
        ("of the issuer with a slash", json!({"claims": {"iss": format!("{}/", world.provider.issuer)}}), "issuer"),
        ("bound to a key", json!({"claims": {"cnf": {"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}}}), "bound"),
        ("about somebody whose address is not verified", json!({"claims": {"email_verified": false}}), "who it is"),
        ("about nobody here", json!({"claims": {"email": "nobody@example.com"}}), "not found"),
    ]
};

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_wrong_with_an_assertion_there_is_no_token() -> Result<()> {
    let world = World::start(Shape::Embedded).await?;
    world.token().await?;
    for (name, order, why) in FORGED(&world) {
        let answer = world.exchange_minted(order).await?;
        is_refused(&answer, 400, "invalid_grant", why).with_context(|| format!("an assertion {name}"))?;
    }
    let nothing = world.exchange_minted(json!({"claims": {"scope": "openid profile"}})).await?;
    is_refused(&nothing, 400, "invalid_scope", "none of the scopes").context("of no scope that is known")?;
    let id_token = world.provider.sign_in("jane").await?;
    let answer = world.exchange(&world.issuer, &id_token).await?;
    is_refused(&answer, 400, "invalid_grant", "type").context("an ID token of the same issuer")?;
    let own = world.token().await?;
    let own = own["access_token"].as_str().context("token")?;
    is_refused(&world.exchange(&world.issuer, own).await?, 400, "invalid_grant", "")
        .context("an access token of ours")?;
    for text in ["x", "a.b.c", "e30.e30.", "..", "eyJhbGciOiJub25lIn0.e30."] {
        is_refused(&world.exchange(&world.issuer, text).await?, 400, "invalid_grant", "").context(text)?;
    }
    let strangers = world.provider.fetches_of_keys().await?;
    ensure!(strangers <= 3, "strangers had the provider's keys fetched {strangers} times");
    for (order, status) in [(json!({}), 200), (json!({"by": "stranger"}), 400)] {
        let assertion = world.provider.mint(order).await?;
        ensure!(world.exchange(&world.issuer, &assertion).await?.status == status, "an assertion as before");
        let log = world.deployment.log();
        ensure!(assertion.split('.').skip(1).all(|part| !log.contains(part)), "an assertion is in the log");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assertion_that_was_refused_is_not_used_up_by_it() -> Result<()> {
    let world = World::start(Shape::Embedded).await?;
    let assertion = world.provider.mint(json!({})).await?;
    let form = |resource| [("grant_type", JWT_BEARER), ("assertion", &*assertion), ("resource", resource)];
    let elsewhere = world.ask(&world.issuer, &form("https://other.example/mcp/shop")).await?;
    is_refused(&elsewhere, 400, "invalid_target", "not for this resource")?;
    let answer = world.ask(&world.issuer, &form(&world.resource)).await?;
    ensure!(answer.status == 200, "{}", answer.text);
    Ok(())
}

/// What is tried, its header, what else is in its form, and the refusal.
type Case<'a> = (&'static str, &'a str, &'a [(&'a str, &'a str)], u16, &'a str);

#[tokio::test(flavor = "multi_thread")]
async fn whoever_does_not_prove_to_be_the_client_gets_no_token() -> Result<()> {
    let world = World::start(Shape::Embedded).await?;
    let right = basic(CLIENT, SECRET);
    let cases: &[Case<'_>] = &[
        ("a wrong secret", &basic(CLIENT, "wrong"), &[], 401, "invalid_client"),
        ("no secret", &basic(CLIENT, ""), &[], 401, "invalid_client"),
        (
            "the secret's hash",
            &basic(CLIENT, &hex::encode(digest::digest(&digest::SHA256, SECRET.as_bytes()))),
            &[],
            401,
            "invalid_client",
        ),
        ("an unknown client", &basic("nobody", SECRET), &[], 401, "invalid_client"),
        ("a bearer token", "Bearer x", &[], 401, "invalid_client"),
        ("no proof", "", &[("client_id", CLIENT)], 401, "invalid_client"),
        ("nothing at all", "", &[], 401, "invalid_client"),
        ("a wrong secret in the body", "", &[("client_id", CLIENT), ("client_secret", "wrong")], 401, "invalid_client"),
        ("another name in the body", &right, &[("client_id", "nobody")], 401, "invalid_client"),
        ("two ways at once", &right, &[("client_secret", SECRET)], 400, "invalid_request"),
        (
            "a name twice",
            "",
            &[("client_id", CLIENT), ("client_id", CLIENT), ("client_secret", SECRET)],
            400,
            "invalid_request",
        ),
    ];
    for (name, header, more, status, error) in cases {
        let assertion = world.provider.mint(json!({})).await?;
        let form = [&[("grant_type", JWT_BEARER), ("assertion", &assertion)], *more].concat();
        let mut request = world.http.post(format!("{}/oauth/token", world.issuer)).form(&form);
        if !header.is_empty() {
            request = request.header("authorization", *header);
        }
        let answer = Answer::to(request).await?;
        is_refused(&answer, *status, error, "").context(*name)?;
        let challenge =
            answer.headers.get("www-authenticate").is_some_and(|value| value.as_bytes().starts_with(b"Basic"));
        ensure!(challenge == (*status == 401 && !header.is_empty()), "{name}: {:?}", answer.headers);
        // Who failed has used nothing up.
        ensure!(world.exchange(&world.issuer, &assertion).await?.status == 200, "{name} used the assertion up");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_of_any_characters_is_read_as_it_was_escaped() -> Result<()> {
    const ODD: &str = "a secret: 100% of it+more&less=";
    let world = World::start(Shape::Embedded).await?;
    world.deployment.apply(&client(ODD, ""))?;
    let at = format!("{}/oauth/token", world.issuer);
    for by_header in [true, false] {
        let assertion = world.provider.mint(json!({})).await?;
        let form = [("grant_type", JWT_BEARER), ("assertion", &*assertion), ("resource", &*world.resource)];
        let in_body = [("client_id", CLIENT), ("client_secret", ODD)];
        let request = if by_header {
            world.http.post(&at).header("authorization", basic(CLIENT, ODD)).form(&form)
        } else {
            world.http.post(&at).form(&[&form[..], &in_body[..]].concat())
        };
        let answer = Answer::to(request).await?;
        ensure!(answer.status == 200, "by header {by_header}: {}", answer.text);
    }
    is_refused(&world.exchange_minted(json!({})).await?, 401, "invalid_client", "").context("the former secret")
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_none_are_refused_by_their_own_words() -> Result<()> {
    let world = World::start(Shape::Embedded).await?;
    let assertion = world.provider.mint(json!({})).await?;
    let (grant, assertion) = (("grant_type", JWT_BEARER), ("assertion", &*assertion));
    let elsewhere = ("resource", "https://other.example/mcp/shop");
    let resource = ("resource", &*world.resource);
    let cases: &[(&[(&str, &str)], &str)] = &[
        (&[assertion], "invalid_request"),
        (&[grant], "invalid_request"),
        (&[grant, assertion, assertion], "invalid_request"),
        (&[grant, grant, assertion], "invalid_request"),
        (&[grant, assertion, ("scope", "mcp:read"), ("scope", "mcp:tools")], "invalid_request"),
        (&[("grant_type", "password"), assertion], "unsupported_grant_type"),
        (&[("grant_type", TOKEN_EXCHANGE), assertion], "unauthorized_client"),
        (&[grant, assertion, elsewhere], "invalid_target"),
        (&[grant, assertion, resource, elsewhere], "invalid_target"),
        (&[grant, assertion, ("scope", "openid")], "invalid_scope"),
    ];
    for (form, error) in cases {
        let form: Vec<_> = form.iter().map(|(name, value)| (*name, *value)).collect();
        is_refused(&world.ask(&world.issuer, &form).await?, 400, error, "").with_context(|| format!("{form:?}"))?;
    }
    // What is in the address instead of the body does not count, and is not answered with a token.
    let address = format!("{}/oauth/token", world.issuer);
    let asked =
        world.http.post(&address).query(&[grant, assertion, resource]).header("authorization", basic(CLIENT, SECRET));
    is_refused(&Answer::to(asked).await?, 400, "invalid_request", "").context("in the address")?;
    let huge = "x".repeat(70 * 1024);
    is_refused(&world.exchange(&world.issuer, &huge).await?, 400, "invalid_request", "").context("70 KiB")?;
    let answer = Answer::to(world.http.get(&address)).await?;
    ensure!(answer.status == 405, "a token by GET: {}", answer.status);
    let answer = world.ask(&world.issuer, &[grant, assertion, resource]).await?;
    ensure!(answer.status == 200, "{}", answer.text);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_holds_no_more_than_is_asked_for_and_granted() -> Result<()> {
    let world = World::start(Shape::Embedded).await?;
    let cases = [
        ("mcp:read mcp:write", Some("mcp:tools"), "mcp:write", [true, false, true]),
        ("mcp:tools", Some("mcp:read openid"), "mcp:read", [false, false, true]),
        ("mcp:tools", None, "mcp:tools", [true, true, true]),
        ("", None, "mcp:read", [false, false, true]),
    ];
    for (granted, asked, given, permitted) in cases {
        let claim = if granted.is_empty() { Value::Null } else { granted.into() };
        let assertion = world.provider.mint(json!({"claims": {"scope": claim}})).await?;
        let scope = asked.map(|scope| ("scope", scope));
        let form = [("grant_type", JWT_BEARER), ("assertion", &*assertion), ("resource", &*world.resource)];
        let form: Vec<_> = form.into_iter().chain(scope).collect();
        let answer = world.ask(&world.issuer, &form).await?;
        ensure!(answer.status == 200, "{granted} {asked:?}: {}", answer.text);
        ensure!(
            answer.body["scope"] == given && answer.body["token_type"] == "Bearer",
            "{granted} {asked:?}: {}",
            answer.text
        );
        ensure!(answer.headers.get("cache-control").is_some_and(|value| value == "no-store"), "it may be kept");
        for client in world.clients(&answer.body) {
            for ((tool, _), expected) in TIERS.iter().zip(permitted) {
                ensure!(is_permitted(&client, tool).await? == expected, "{granted} {asked:?}: {tool}");
            }
        }
    }
    Ok(())
}
