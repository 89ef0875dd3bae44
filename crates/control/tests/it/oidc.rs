//! Tokens of an outside issuer, which is a server of this test: it shows its
//! keys, changes them, dies, and lies.

use crate::harness::{Server, ok, problem, start_with};
use crate::signer::Signer;
use aether_control::OidcIssuer;
use aether_core::{Clock, Role, source::SystemClock};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// What the issuer answers.
#[derive(Default)]
struct Says {
    issuer: Option<String>,
    jwks_uri: Option<String>,
    keys: Vec<Value>,
    /// In place of the keys.
    body: Option<String>,
    status: Option<u16>,
    redirect: Option<String>,
    slow: bool,
}

/// With the address of somebody inside.
type Lie = fn(&mut Says, &str);

#[derive(Clone)]
struct Issuer {
    url: String,
    says: Arc<Mutex<Says>>,
    fetched: Arc<AtomicU32>,
}

impl Issuer {
    async fn start(keys: &[&Signer]) -> Self {
        Self::serve(keys, None).await
    }

    /// Over HTTPS; with its certificate, which is its own root.
    async fn start_tls(keys: &[&Signer]) -> (Self, String) {
        let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(own.signing_key.serialize_der().into());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config =
            config.expect("versions").with_no_client_auth().with_single_cert(vec![own.cert.der().clone()], key);
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config.expect("a configuration")));
        (Self::serve(keys, Some(acceptor)).await, own.cert.pem())
    }

    async fn serve(keys: &[&Signer], tls: Option<tokio_rustls::TlsAcceptor>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}", listener.local_addr().expect("address"));
        let says = Says { keys: keys.iter().map(|key| key.jwk()).collect(), ..Says::default() };
        let issuer = Self { url, says: Arc::new(Mutex::new(says)), fetched: Arc::default() };
        let (of, keys) = (issuer.clone(), issuer.clone());
        let router = axum::Router::new()
            .route("/.well-known/openid-configuration", axum::routing::get(async move || of.document().await))
            .route("/keys", axum::routing::get(async move || keys.keys().await));
        let Some(tls) = tls else {
            tokio::spawn(async move { axum::serve(listener, router).await });
            return issuer;
        };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(stream) = tls.accept(stream).await else { continue };
                let (io, service) = (TokioIo::new(stream), TowerToHyperService::new(router.clone()));
                tokio::spawn(
                    async move { hyper::server::conn::http1::Builder::new().serve_connection(io, service).await },
                );
            }
        });
        issuer
    }

    async fn document(self) -> axum::response::Response {
        self.fetched.fetch_add(1, Ordering::SeqCst);
        let slow = self.says.lock().slow;
        if slow {
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
        let says = self.says.lock();
        let response = http::Response::builder().status(says.status.unwrap_or(200));
        let response = match &says.redirect {
            Some(to) => http::Response::builder().status(302).header("location", to),
            None => response,
        };
        let issuer = says.issuer.clone().unwrap_or_else(|| self.url.clone());
        let keys = says.jwks_uri.clone().unwrap_or_else(|| format!("{}/keys", self.url));
        let document = json!({ "issuer": issuer, "jwks_uri": keys, "authorization_endpoint": "x" });
        response.body(axum::body::Body::from(document.to_string())).expect("a response")
    }

    async fn keys(self) -> String {
        let says = self.says.lock();
        says.body.clone().unwrap_or_else(|| json!({ "keys": says.keys }).to_string())
    }

    fn claims(&self) -> Value {
        let now = SystemClock::default().now().unix_ms() / 1000;
        json!({
            "iss": self.url, "aud": "aether", "sub": "ann", "iat": now, "exp": now + 300,
            "groups": ["staff", "dev"],
        })
    }

    fn entry(&self) -> OidcIssuer {
        OidcIssuer {
            role_claim: Some("groups".into()),
            roles: BTreeMap::from([("dev".to_owned(), Role::Developer), ("adm".to_owned(), Role::Admin)]),
            tenant: Some("acme".parse().expect("an id")),
            allow_internal: true,
            refetch_interval: Duration::from_millis(200),
            ..OidcIssuer::new(&self.url, "aether")
        }
    }
}

async fn server(entry: OidcIssuer) -> Server {
    let server = start_with(|cfg| cfg.oidc = vec![entry]).await;
    server.tenant(&"acme".parse().expect("an id")).await;
    server
}

async fn status(server: &Server, token: &str) -> u16 {
    server.as_key(token, Method::GET, "/v1/agents").send().await.expect("answered").status().as_u16()
}

/// With one claim changed.
fn with(mut claims: Value, name: &str, value: Value) -> Value {
    claims[name] = value;
    claims
}

#[tokio::test]
async fn an_issuers_users_come_in_as_the_configuration_says() {
    let signers = [Signer::rsa(), Signer::p256(), Signer::ed25519()];
    let issuer = Issuer::start(&signers.iter().collect::<Vec<_>>()).await;
    let server = server(issuer.entry()).await;
    for signer in &signers {
        let token = signer.token(&issuer.claims());
        assert_eq!(status(&server, &token).await, 200, "{}", signer.alg());
        problem(server.as_key(&token, Method::GET, "/v1/auth/keys"), 403, "FORBIDDEN").await;
        let many = with(issuer.claims(), "aud", json!(["other", "aether"]));
        assert_eq!(status(&server, &signer.token(&many)).await, 200, "one of several audiences");
        // A header without `typ`, as some issuers have it.
        let bare = json!({ "alg": signer.alg(), "kid": signer.kid }).to_string();
        assert_eq!(status(&server, &signer.raw(&bare, &issuer.claims().to_string())).await, 200);
    }
    assert_eq!(issuer.fetched.load(Ordering::SeqCst), 1, "the keys are kept");
    let admin = signers[0].token(&with(issuer.claims(), "groups", json!(["adm"])));
    let made = server.as_key(&admin, Method::POST, "/v1/agents").json(&json!({ "image": "never", "name": "by-ann" }));
    assert_eq!(ok(made).await.0.as_u16(), 201);
    let (_, audit) = ok(server.as_key(&admin, Method::GET, "/v1/audit?action=create&resource=agent")).await;
    let place = issuer.url.trim_start_matches("http://");
    assert_eq!(audit["data"][0]["actor"], json!(format!("oidc:ann@{place}")), "{audit}");
    let logout = server.as_key(&admin, Method::POST, "/v1/auth/logout").send().await.expect("answered");
    assert_eq!((logout.status().as_u16(), status(&server, &admin).await), (204, 401));
    let path = "/v1/tenants/acme/suspend";
    let platform = server.key("default", Role::PlatformAdmin, None).await;
    ok(server.as_key(&platform, Method::POST, path)).await;
    assert_eq!(status(&server, &signers[0].token(&issuer.claims())).await, 403, "the tenant is suspended");
}

#[tokio::test]
async fn an_issuer_is_known_by_its_certificate() {
    let key = Signer::p256();
    let (issuer, pem) = Issuer::start_tls(&[&key]).await;
    let dir = tempfile::tempdir().expect("dir");
    let root = dir.path().join("root.pem");
    std::fs::write(&root, pem).expect("written");
    let known = server(OidcIssuer { ca_path: Some(root), ..issuer.entry() }).await;
    assert_eq!(status(&known, &key.token(&issuer.claims())).await, 200);
    let unknown = server(issuer.entry()).await;
    assert_eq!(status(&unknown, &key.token(&issuer.claims())).await, 503, "nobody vouches for it");
}

#[tokio::test]
async fn what_an_issuer_may_not_say() {
    let (key, other) = (Signer::rsa(), Signer::p256());
    let issuer = Issuer::start(&[&key]).await;
    let server = server(issuer.entry()).await;
    let good = issuer.claims();
    let now = good["iat"].as_u64().expect("a time");
    let mut forms = vec![
        ("another's key", other.token(&good)),
        ("another's key under its name", {
            let header = json!({ "alg": "ES256", "kid": key.kid });
            other.raw(&header.to_string(), &good.to_string())
        }),
        ("the public key as a secret", {
            let forger = Signer::secret(&key.public);
            forger.raw(&json!({ "alg": "HS256", "kid": key.kid }).to_string(), &good.to_string())
        }),
        ("not the issuer, but almost", key.token(&with(good.clone(), "iss", json!(format!("{}/", issuer.url))))),
        ("no role", key.token(&with(good.clone(), "groups", json!([])))),
    ];
    for (claim, value) in [
        ("aud", json!("other")),
        ("aud", json!(["other"])),
        ("aud", json!([])),
        ("aud", json!([["aether"]])),
        ("aud", json!(["aether", 1])),
        ("aud", json!({ "aether": 1 })),
        ("aud", json!(null)),
        ("exp", json!(now - 31)),
        ("exp", json!((now + 300).to_string())),
        ("exp", json!(now as f64 + 300.5)),
        ("exp", json!(now + 2 * 86_400)),
        ("exp", json!(null)),
        ("iat", json!(now + 120)),
        ("iat", json!(now.to_string())),
        ("iat", json!(null)),
        ("nbf", json!(now + 120)),
        ("nbf", json!(now.to_string())),
        ("sub", json!("")),
        ("sub", json!("a\nb")),
    ] {
        forms.push((claim, key.token(&with(good.clone(), claim, value))));
    }
    for (what, token) in &forms {
        assert_eq!(status(&server, token).await, 401, "{what}: {token}");
    }
    assert_eq!(status(&server, &key.token(&good)).await, 200);
    let strict = self::server(OidcIssuer { require_nbf: true, ..issuer.entry() }).await;
    assert_eq!(status(&strict, &key.token(&good)).await, 401);
    assert_eq!(status(&strict, &key.token(&with(good, "nbf", json!(now)))).await, 200);
}

#[tokio::test]
async fn keys_change_and_are_not_fetched_too_often() {
    let (first, second) = (Signer::ed25519(), Signer::p256());
    let issuer = Issuer::start(&[&first]).await;
    let server = server(issuer.entry()).await;
    assert_eq!(status(&server, &first.token(&issuer.claims())).await, 200);
    for _ in 0..20 {
        assert_eq!(status(&server, &second.token(&issuer.claims())).await, 401);
    }
    let fetched = issuer.fetched.load(Ordering::SeqCst);
    issuer.says.lock().keys = vec![second.jwk()];
    server
        .until(|s| {
            let token = second.token(&issuer.claims());
            async move { status(s, &token).await == 200 }
        })
        .await;
    assert_eq!(status(&server, &first.token(&issuer.claims())).await, 401, "a key that is taken back is dead");
    // It goes away: what is known holds.
    issuer.says.lock().status = Some(500);
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(210)).await;
        assert_eq!(status(&server, &first.token(&issuer.claims())).await, 401);
        assert_eq!(status(&server, &second.token(&issuer.claims())).await, 200);
    }
    let slow = OidcIssuer { refetch_interval: Duration::from_secs(3600), ..issuer.entry() };
    issuer.says.lock().status = None;
    let (before, server) = (issuer.fetched.load(Ordering::SeqCst), self::server(slow).await);
    for _ in 0..20 {
        assert_eq!(status(&server, &first.token(&issuer.claims())).await, 401);
    }
    assert_eq!(issuer.fetched.load(Ordering::SeqCst), before + 1, "twenty unknown keys, one fetch ({fetched})");
}

#[tokio::test]
async fn an_issuer_that_lies_lets_nobody_in() {
    let key = Signer::ed25519();
    let inside = Issuer::start(&[&key]).await;
    let lies: [(&str, Lie); 9] = [
        ("another's document", |s, _| s.issuer = Some("https://login.example".into())),
        ("keys at another place inside", |s, inside| s.jwks_uri = Some(format!("{inside}/keys"))),
        ("keys at a file", |s, _| s.jwks_uri = Some("file:///etc/passwd".into())),
        ("keys at the metadata service", |s, _| s.jwks_uri = Some("http://169.254.169.254/".into())),
        ("a redirect inward", |s, inside| s.redirect = Some(format!("{inside}/.well-known/openid-configuration"))),
        ("an error", |s, _| s.status = Some(404)),
        ("no keys", |s, _| s.body = Some("{}".into())),
        ("a thousand keys", |s, _| s.keys = vec![s.keys[0].clone(); 1000]),
        ("a megabyte of keys", |s, _| s.body = Some(format!("{{\"keys\":[]{}}}", " ".repeat(1 << 20)))),
    ];
    for (what, lie) in lies {
        let issuer = Issuer::start(&[&key]).await;
        lie(&mut issuer.says.lock(), &inside.url);
        let server = server(issuer.entry()).await;
        let token = key.token(&issuer.claims());
        let answer = problem(server.as_key(&token, Method::GET, "/v1/agents"), 503, "SERVICE_UNAVAILABLE").await;
        assert_eq!(answer["detail"], json!("The keys of the token's issuer cannot be had."), "{what}");
        assert_eq!(status(&server, &server.admin).await, 200, "{what}: others go on");
    }
    assert_eq!(inside.fetched.load(Ordering::SeqCst), 0, "nothing was followed");
}

#[tokio::test]
async fn a_slow_issuer_holds_up_its_own_users_alone() {
    let key = Signer::ed25519();
    let issuer = Issuer::start(&[&key]).await;
    issuer.says.lock().slow = true;
    let server = server(issuer.entry()).await;
    let token = key.token(&issuer.claims());
    let waits = (0..4).map(|_| status(&server, &token));
    let (waits, ()) = tokio::join!(futures::future::join_all(waits), async {
        for _ in 0..20 {
            assert_eq!(status(&server, &server.admin).await, 200);
        }
    });
    assert_eq!(waits, [503; 4]);
    assert_eq!(issuer.fetched.load(Ordering::SeqCst), 1, "they wait for one fetch");
}
