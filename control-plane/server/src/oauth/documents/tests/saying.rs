//! What a document says, and what makes it describe nobody.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use bailiwick_control_plane_core::resource::ClientBinding;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::*;

/// A key set of one public key.
fn key_set() -> Value {
    let key = Ed25519KeyPair::generate().unwrap();
    let x = URL_SAFE_NO_PAD.encode(key.public_key());
    json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": "a", "x": x}]})
}

/// What is read where the document is this.
async fn reading(document: &Value) -> Result<ClientSpec, DocumentFault> {
    Host::that_says(said(document)).read().await
}

#[tokio::test(start_paused = true)]
async fn a_document_describes_a_client_that_can_only_ask_people() {
    let host = Host::that_says(said(&document()));
    let expected = ClientSpec {
        title: Some("Editor".to_owned()),
        agent: None,
        auth: ClientAuth::None,
        redirect_uris: [CALLBACK.to_owned()].into(),
        secret_sha256: None,
        jwks: None,
        ceiling: None,
        headless: None,
        exchange: None,
        workload: None,
        certificate: None,
        binding: None,
        self_registered: false,
        active: true,
    };
    assert_eq!(host.read().await, Ok(expected.clone()));
    assert_eq!(*host.written.asked.lock().unwrap(), [URL], "neither logo nor anything else");
    let little = json!({"client_id": URL, "redirect_uris": [CALLBACK]});
    assert_eq!(reading(&little).await, Ok(ClientSpec { title: None, ..expected.clone() }));
    for (member, binding) in [
        ("tls_client_certificate_bound_access_tokens", ClientBinding::Certificate),
        ("dpop_bound_access_tokens", ClientBinding::Dpop),
    ] {
        let bound = reading(&but(json!({member: true}))).await;
        assert_eq!(bound, Ok(ClientSpec { binding: Some(binding), ..expected.clone() }), "{member}");
    }
    let sly = but(json!({"agent": "assistant", "ceiling": "destructive", "headless": {"virtual_servers": ["shop"]}}));
    assert_eq!(reading(&sly).await, Ok(expected), "nobody chooses an agent or a ceiling for themselves");
    assert_eq!(Named(URL.to_owned()).origin(), "https://editor.example");
    assert_eq!(Named("https://editor.example:8443/x/y".to_owned()).origin(), "https://editor.example:8443");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_no_json_of_status_200_describes_nobody() {
    let answer = |status: StatusCode| Ok(Fetched { status, ..said(&document()).unwrap() });
    for status in [StatusCode::FOUND, StatusCode::TEMPORARY_REDIRECT, StatusCode::NOT_FOUND, StatusCode::NO_CONTENT] {
        let host = Host::that_says(answer(status));
        assert_eq!(host.read().await, Err(DocumentFault::Status(status)));
        assert_eq!(host.asked(), 1, "no redirect is followed");
    }
    let of_type = |content_type: Option<&str>| {
        Host::that_says(Ok(Fetched { content_type: content_type.map(str::to_owned), ..said(&document()).unwrap() }))
    };
    for content_type in [None, Some(""), Some("text/html"), Some("text/plain; x=application/json"), Some("image/json")]
    {
        assert_eq!(of_type(content_type).read().await, Err(DocumentFault::ContentType), "{content_type:?}");
    }
    for content_type in ["application/json; charset=utf-8", "Application/JSON", "application/client+json"] {
        assert!(of_type(Some(content_type)).read().await.is_ok(), "{content_type}");
    }
    for fault in [FetchError::TooLarge, FetchError::Late, FetchError::Untrusted, FetchError::Unreachable] {
        assert_eq!(Host::that_says(Err(fault)).read().await, Err(DocumentFault::Fetch(fault)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_document_with_one_wrong_word_describes_nobody() {
    let twice = document().to_string().replacen('{', &format!("{{\"client_id\": \"{URL}\", "), 1);
    for body in ["", "{", "[]", "\"client\"", "null", twice.as_str()] {
        let read = Host::that_says(ok(body.to_owned())).read().await;
        assert_eq!(read, Err(DocumentFault::Unreadable), "{body}");
    }
    let many: Vec<_> = (0..17).map(|number| format!("https://editor.example/{number}")).collect();
    for (members, fault) in [
        (json!({"client_id": null}), DocumentFault::Unreadable),
        (json!({"client_name": ["Editor"]}), DocumentFault::Unreadable),
        (json!({"redirect_uris": CALLBACK}), DocumentFault::Unreadable),
        (json!({"client_id": "https://editor.example/other.json"}), DocumentFault::ClientId),
        (json!({"client_id": "https://EDITOR.example/client.json"}), DocumentFault::ClientId),
        (json!({"client_id": "https://editor.example:443/client.json"}), DocumentFault::ClientId),
        (json!({"client_id": "https://editor.example/./client.json"}), DocumentFault::ClientId),
        (json!({"client_secret": "hush"}), DocumentFault::Secret),
        (json!({"client_secret": ""}), DocumentFault::Secret),
        (json!({"client_secret_expires_at": 0}), DocumentFault::Secret),
        (json!({"token_endpoint_auth_method": "client_secret_basic"}), DocumentFault::AuthMethod),
        (json!({"token_endpoint_auth_method": "client_secret_post"}), DocumentFault::AuthMethod),
        (json!({"token_endpoint_auth_method": "client_secret_jwt"}), DocumentFault::AuthMethod),
        (json!({"token_endpoint_auth_method": "tls_client_auth"}), DocumentFault::AuthMethod),
        (json!({"redirect_uris": null}), DocumentFault::RedirectUris),
        (json!({"redirect_uris": []}), DocumentFault::RedirectUris),
        (json!({"redirect_uris": many}), DocumentFault::RedirectUris),
        (json!({"redirect_uris": [CALLBACK, "javascript:alert(1)"]}), DocumentFault::RedirectUris),
        (json!({"redirect_uris": ["http://editor.example/cb"]}), DocumentFault::RedirectUris),
        (json!({"redirect_uris": ["https://*.example/cb"]}), DocumentFault::RedirectUris),
        (json!({"redirect_uris": ["https://editor.example/#x"]}), DocumentFault::RedirectUris),
        (json!({"grant_types": ["client_credentials"]}), DocumentFault::NoCodes),
        (json!({"grant_types": []}), DocumentFault::NoCodes),
        (json!({"response_types": ["token"]}), DocumentFault::NoCodes),
        (
            json!({"dpop_bound_access_tokens": true, "tls_client_certificate_bound_access_tokens": true}),
            DocumentFault::Binding,
        ),
        (json!({"tls_client_certificate_bound_access_tokens": "true"}), DocumentFault::Unreadable),
    ] {
        assert_eq!(reading(&but(members.clone())).await, Err(fault), "{members}");
    }
    let null_secret = document().to_string().replacen('{', "{\"client_secret\": null, ", 1);
    assert_eq!(Host::that_says(ok(null_secret)).read().await, Err(DocumentFault::Secret));
}

#[tokio::test(start_paused = true)]
async fn keys_stand_in_the_document_or_at_its_own_host() {
    let (keys, signing) = (key_set(), json!("private_key_jwt"));
    let inline = but(json!({"token_endpoint_auth_method": signing, "jwks": keys}));
    let spec = reading(&inline).await.unwrap();
    assert_eq!(spec.auth, ClientAuth::PrivateKeyJwt);
    assert_eq!(serde_json::from_str::<Value>(&spec.jwks.unwrap()).unwrap(), keys);

    let place = "https://editor.example/keys.json";
    let elsewhere = |place: &str| but(json!({"token_endpoint_auth_method": signing, "jwks_uri": place}));
    let host = Host::that_says(kept(&elsewhere(place), 900));
    host.says_at(place, kept(&keys, 120));
    let spec = host.read().await.unwrap();
    assert_eq!(serde_json::from_str::<Value>(&spec.jwks.unwrap()).unwrap(), keys);
    tokio::time::advance(Duration::from_secs(120)).await;
    host.says_at(place, Err(FetchError::Unreachable));
    let fault = DocumentFault::Fetch(FetchError::Unreachable);
    assert_eq!(host.read().await, Err(fault), "both are as fresh as the one that is less so");

    for place in [
        "https://other.example/keys.json",
        "https://editor.example:8443/keys.json",
        "https://editor.example.evil.example/keys.json",
        "https://editor.example@evil.example/keys.json",
        "https://evil.example#https://editor.example/keys.json",
        "http://editor.example/keys.json",
        "file:///keys",
        "",
    ] {
        let host = Host::that_says(said(&elsewhere(place)));
        assert_eq!(host.read().await, Err(DocumentFault::KeysElsewhere), "{place}");
        assert_eq!(host.asked(), 1, "{place}");
    }
    let redirected = Host::that_says(said(&elsewhere(place)));
    redirected.says_at(place, Ok(Fetched { status: StatusCode::FOUND, ..said(&keys).unwrap() }));
    assert_eq!(redirected.read().await, Err(DocumentFault::Status(StatusCode::FOUND)));
}

#[tokio::test(start_paused = true)]
async fn keys_that_are_none_or_not_only_public_are_refused() {
    let signing = json!("private_key_jwt");
    let mut leaked = key_set();
    leaked["keys"][0]["d"] = json!("AAAA");
    for members in [
        json!({}),
        json!({"jwks": {"keys": []}}),
        json!({"jwks": {}}),
        json!({"jwks": "keys"}),
        json!({"jwks": leaked}),
        json!({"jwks": {"keys": [{"kty": "oct", "k": "AAAA"}]}}),
        json!({"jwks": key_set(), "jwks_uri": "https://editor.example/keys.json"}),
    ] {
        let mut said = but(members.clone());
        said["token_endpoint_auth_method"] = signing.clone();
        assert_eq!(reading(&said).await, Err(DocumentFault::Keys), "{members}");
    }
    // A client that proves nothing needs none, and none are looked for.
    let public = but(json!({"jwks_uri": "https://other.example/keys.json"}));
    assert_eq!(reading(&public).await.unwrap().jwks, None);
}

#[tokio::test(start_paused = true)]
async fn a_name_is_short_and_shows_nothing_that_is_not_there() {
    for (name, title) in [
        ("  Some\n\teditor ", Some("Some editor")),
        ("Editor\u{202E}rotidE\u{200B}\u{7}", Some("EditorrotidE")),
        ("\u{200B}\n", None),
        ("", None),
    ] {
        let spec = reading(&but(json!({"client_name": name}))).await.unwrap();
        assert_eq!(spec.title.as_deref(), title, "{name:?}");
    }
    let long = reading(&but(json!({"client_name": "x".repeat(1_000)}))).await.unwrap();
    assert_eq!(long.title.map(|title| title.len()), Some(64));
}

#[test]
fn what_people_are_told_is_about_the_description_and_holds_nothing_of_it() {
    let address = bailiwick_proto::address::AddressRefusal::Metadata("169.254.169.254".parse().unwrap());
    for fault in [
        DocumentFault::Fetch(FetchError::Address(address)),
        DocumentFault::Fetch(FetchError::TooLarge),
        DocumentFault::Status(StatusCode::IM_A_TEAPOT),
        DocumentFault::Late,
        DocumentFault::Secret,
    ] {
        let told = fault.sentence();
        assert!(told.starts_with("the client's description cannot be read: "), "{told}");
        assert!(!told.contains("169.254") && !told.contains("418") && !fault.is_ours(), "{told}");
    }
    assert!(DocumentFault::Busy.is_ours() && DocumentFault::Stopped.is_ours());
}
