//! `proofs`: what the parts cost that bound tokens and contexts add to a call, in this process and on one thread.
//!
//! Each part is what a data plane does for one request, in the order in which it does it; SHA-256 over the same body is
//! the yardstick. Rounds take turns, and the median round counts, so that a machine that drifts affects all alike. What
//! a whole call costs with them, `loadtest/speed --possession` measures.

use std::{hint::black_box, time::Instant};

use anyhow::{Context as _, Result};
use aws_lc_rs::digest::{SHA256, digest};
use bailiwick_token::{
    Actor, Algorithm, Claims, Confirmation, DpopClaims, Expect, SigningKey, Thumbprint, TokenHash, VerifyingKeys,
    binding::{BindingKey, BindingSeal},
    context::{ContextClaims, ContextDecision, ContextKey, ContextPolicy},
    dpop::{DpopProof, DpopRequest},
    dpop_proof, mint,
    proof::{Proof, Proven, prove},
};
use clap::Args as ClapArgs;

const ISSUER: &str = "https://auth.example.com";
const RESOURCE: &str = "https://mcp.example.com/mcp/finance";
const NOW: i64 = 1_800_000_000;
const MILLIS: u64 = 1_800_000_000_000;

/// What it costs to check a proof, open a binding, and sign a context.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Bytes of each request's body.
    #[arg(long, default_value_t = 1_024, value_parser = clap::value_parser!(u32).range(1..=4_194_304))]
    body_bytes: u32,
    /// Rounds; in each, every part has its turn.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// How often in each round.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    times: u32,
}

/// One part: what it is called, and doing it once; whether it did as it should.
type Part<'a> = (&'static str, Box<dyn Fn() -> bool + 'a>);

/// Measures and prints.
pub(crate) fn run(args: &Args) -> Result<()> {
    let body = vec![b'x'; args.body_bytes as usize];
    let signing = SigningKey::from_pkcs8(Algorithm::EdDsa, &SigningKey::generate_pkcs8(Algorithm::EdDsa)?)?;
    let jwk = signing.public_jwk().to_json()?;
    let keys = VerifyingKeys::from_jwks([(signing.kid(), "EdDSA", jwk.as_str())])?;
    let seal = BindingSeal::new([[3_u8; 32].as_slice()])?;
    let (binding_key, mut bound) = (BindingKey::new([5; 32]), claims());
    seal.seal(&mut bound, &binding_key, [7; 32])?;
    let token = mint(&bound, &signing)?;
    let hash = TokenHash::of(token.expose());
    let expect = Expect { issuer: ISSUER, audience: RESOURCE };
    let method = "POST";
    let sha = |body: &[u8]| -> [u8; 32] { digest(&SHA256, body).as_ref().try_into().unwrap_or_default() };
    let body_hash = sha(&body);
    let proven = Proven { token: &hash, method, path: "/mcp/finance", body: &body_hash };
    let proof = prove(&binding_key, &proven, MILLIS, [9; 12]).context("no proof")?.to_string();
    let dpop = [Algorithm::Es256, Algorithm::EdDsa].map(|algorithm| Dpop::new(algorithm, token.expose()));
    let [es256, eddsa] = dpop;
    let (es256, eddsa) = (es256?, eddsa?);
    let context_key = ContextKey::from_seed("k".to_owned(), &[1; 32])?;
    let parts: Vec<Part<'_>> = vec![
        ("SHA-256 of the body (yardstick)", Box::new(|| black_box(sha(&body)) == body_hash)),
        ("an access token is verified, once for each", {
            Box::new(|| keys.verify(black_box(token.expose()), &expect, NOW).is_ok())
        }),
        ("its binding is opened, once for each", Box::new(|| matches!(seal.open(black_box(&bound)), Ok(Some(_))))),
        ("a Bailiwick-Proof is checked, body hashed", {
            Box::new(|| {
                let body = sha(black_box(&body));
                Proof::parse(&proof).is_some_and(|proof| proof.is_of(&binding_key, &Proven { body: &body, ..proven }))
            })
        }),
        ("a DPoP proof is verified, ES256", Box::new(|| es256.verify(token.expose(), &body))),
        ("a DPoP proof is verified, EdDSA", Box::new(|| eddsa.verify(token.expose(), &body))),
        ("a Bailiwick-Context is signed, body hashed", {
            Box::new(|| context_key.sign(&context(hex(&sha(black_box(&body))))).is_ok())
        }),
    ];
    let mut figures: Vec<Vec<f64>> = vec![Vec::new(); parts.len()];
    for _ in 0..args.rounds {
        for ((name, part), figures) in parts.iter().zip(&mut figures) {
            let began = Instant::now();
            for _ in 0..args.times {
                anyhow::ensure!(part(), "{name}: it does not do what it should");
            }
            figures.push(began.elapsed().as_secs_f64() * 1e6 / f64::from(args.times));
        }
    }
    println!("| part, body of {} bytes | µs | of the yardstick |\n| --- | ---: | ---: |", args.body_bytes);
    let medians: Vec<f64> = figures.iter_mut().map(|figures| median(figures)).collect();
    let yardstick = medians.first().copied().unwrap_or(f64::NAN);
    for ((name, _), micros) in parts.iter().zip(&medians) {
        println!("| {name} | {micros:.2} | {:.1} |", micros / yardstick);
    }
    Ok(())
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A proof, and the key it is by.
struct Dpop {
    jwt: String,
    key: Thumbprint,
}

impl Dpop {
    fn new(algorithm: Algorithm, token: &str) -> Result<Self> {
        let key = SigningKey::from_pkcs8(algorithm, &SigningKey::generate_pkcs8(algorithm)?)?;
        let claims =
            DpopClaims { method: "POST", url: RESOURCE, token: Some(token), nonce: Some("n"), jti: "j-1", iat: NOW };
        let jwt = dpop_proof(&claims, &key)?.expose().to_owned();
        Ok(Self { jwt, key: Thumbprint::parse(key.kid()).context("no thumbprint")? })
    }

    fn verify(&self, token: &str, body: &[u8]) -> bool {
        let key = Some(&self.key);
        let request = DpopRequest { method: "POST", url: RESOURCE, access_token: Some(token), body, key };
        DpopProof::verify(black_box(&self.jwt), &request, NOW).is_ok()
    }
}

fn claims() -> Claims {
    Claims {
        iss: ISSUER.into(),
        aud: RESOURCE.into(),
        sub: "jane@example.com".into(),
        agent_sub: "coding-assistant".into(),
        project_id: "platform".into(),
        client_id: "editor".into(),
        consent_id: "c-0123456789abcdef".into(),
        sid: "s-0123456789abcdef".into(),
        scope: "mcp:read mcp:write".into(),
        act: Actor { sub: "coding-assistant".into(), act: None },
        jti: "t-0123456789abcdef".into(),
        iat: NOW,
        nbf: None,
        exp: NOW + 600,
        min_revision: Some(42),
        cnf: None::<Confirmation>,
        binding_alg: None,
        binding: None,
    }
}

fn context(body: String) -> ContextClaims<'static> {
    ContextClaims {
        iss: ISSUER.into(),
        aud: "https://finance.internal/mcp".into(),
        iat: NOW,
        exp: NOW + 60,
        jti: "r-0123456789abcdef.1".into(),
        sub: "jane@example.com".into(),
        agent: "coding-assistant".into(),
        earlier_agents: Vec::new().into(),
        client_id: "editor".into(),
        project: "platform".into(),
        consent: "c-0123456789abcdef".into(),
        session: "s-0123456789abcdef".into(),
        virtual_server: "finance".into(),
        server: "finance".into(),
        method: "tools/call".into(),
        tool: Some("query_data".into()),
        prompt: None,
        uri: None,
        tier: "retrieval".into(),
        decision: ContextDecision {
            effect: "permit".into(),
            policies: vec![ContextPolicy { name: "reads".into(), version: 3 }],
        },
        revision: 42,
        digest: "00ff".into(),
        request_id: "r-0123456789abcdef".into(),
        binding: "bound".into(),
        htm: "POST".into(),
        target: "0000000000000000000000000000000000000000000".into(),
        body: body.into(),
    }
}
