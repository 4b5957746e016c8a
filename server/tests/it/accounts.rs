//! Who is let in: accounts, and certificates that change, with the real binary.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use arrow_flight::{
    Action, Criteria, Empty, FlightData, FlightDescriptor, HandshakeRequest, Ticket,
    flight_service_client::FlightServiceClient, sql::client::FlightSqlServiceClient,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use hmac::{Hmac, Mac as _};
use rustix::process::Signal;
use sha1::Sha1;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    rustls::{
        self, ClientConfig, DigitallySignedStruct, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
    },
};
use tonic::{Code as GrpcCode, Request, transport::Channel};
use weir_server::rocketmq::proto::{
    self, Code, messaging_service_client::MessagingServiceClient, receive_message_response::Content,
};

use crate::cli::{Ran, Served, data, refused, run, weir};

const SECRET: &str = "ann's secret";

/// A broker that other machines may reach, since `ann` alone is let in.
struct Guarded {
    dir: TempDir,
    broker: Served,
}

impl Guarded {
    fn start() -> Self {
        let dir = data();
        write_accounts(dir.path(), &[("ann", SECRET)]);
        let config = dir.path().join("weir.toml");
        fs::write(&config, "accounts = \"accounts.toml\"\n[[listener]]\naddress = \"0.0.0.0:0\"\n").unwrap();
        let broker = Served::start_with(&dir.path().join("data"), &["--config", config.to_str().unwrap()]);
        Self { dir, broker }
    }

    fn address(&self) -> String {
        self.broker.uri.strip_prefix("grpc://").unwrap().replace("0.0.0.0", "127.0.0.1")
    }

    async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.address())).unwrap().connect().await.unwrap()
    }

    /// Runs a command with a user and a secret.
    fn run_as(&self, user: &str, secret: &str, words: &[&str]) -> Ran {
        let file = self.dir.path().join(format!("{user}.secret"));
        fs::write(&file, format!("{secret}\n")).unwrap();
        let server = format!("grpc://{}", self.address());
        let account = ["--server", &server, "--user", user, "--password-file", file.to_str().unwrap()];
        run(&[words, &account].concat(), "")
    }
}

pub(crate) fn write_accounts(dir: &Path, accounts: &[(&str, &str)]) {
    let entry =
        |(name, secret): &(&str, &str)| format!("[[account]]\nname = \"{name}\"\nsecret = \"{secret}\"\n");
    let (temporary, path) = (dir.join("accounts.new"), dir.join("accounts.toml"));
    fs::write(&temporary, accounts.iter().map(entry).collect::<String>()).unwrap();
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(temporary, path).unwrap();
}

/// How a request says who sends it.
#[derive(Clone, Copy, Debug)]
enum Signed {
    Not,
    With(&'static str, &'static str),
}

fn of_rocketmq<T>(message: T, signed: Signed) -> Request<T> {
    let mut request = Request::new(message);
    let headers = request.metadata_mut();
    headers.insert("x-mq-client-id", "a-client@1".parse().unwrap());
    if let Signed::With(key, secret) = signed {
        let date = "20261123T023657Z";
        let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).unwrap();
        mac.update(date.as_bytes());
        let signature: String =
            mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02X}")).collect();
        let header =
            format!("MQv2-HMAC-SHA1 Credential={key}/, SignedHeaders=x-mq-date-time, Signature={signature}");
        headers.insert("x-mq-date-time", date.parse().unwrap());
        headers.insert("authorization", header.parse().unwrap());
    }
    request
}

/// Makes every call, and returns what each was answered.
async fn all_calls(guarded: &Guarded, signed: Signed) -> Vec<(&'static str, Code)> {
    let mut calls = MessagingServiceClient::new(guarded.channel().await);
    let topic = Some(proto::Resource { name: "orders".to_owned(), ..Default::default() });
    let group = Some(proto::Resource { name: "readers".to_owned(), ..Default::default() });
    let mut codes = Vec::new();
    macro_rules! call {
        ($call:ident, $request:ident { $($field:ident: $value:expr),* }) => {{
            let mut message = proto::$request::default();
            $(message.$field = $value;)*
            let answer = calls.$call(of_rocketmq(message, signed)).await.unwrap().into_inner();
            codes.push((stringify!($call), answer.status.unwrap().code()));
        }};
    }
    call!(query_route, QueryRouteRequest { topic: topic.clone() });
    call!(heartbeat, HeartbeatRequest { group: group.clone() });
    call!(send_message, SendMessageRequest { messages: Vec::new() });
    call!(query_assignment, QueryAssignmentRequest { topic: topic.clone(), group: group.clone() });
    call!(ack_message, AckMessageRequest { topic: topic.clone(), group: group.clone() });
    call!(
        change_invisible_duration,
        ChangeInvisibleDurationRequest { topic: topic.clone(), group: group.clone() }
    );
    call!(
        forward_message_to_dead_letter_queue,
        ForwardMessageToDeadLetterQueueRequest { topic: topic.clone(), group: group.clone() }
    );
    call!(notify_client_termination, NotifyClientTerminationRequest { group: group.clone() });
    let message = proto::ReceiveMessageRequest { group, ..Default::default() };
    let mut stream = calls.receive_message(of_rocketmq(message, signed)).await.unwrap().into_inner();
    let Some(Content::Status(status)) = stream.message().await.unwrap().unwrap().content else {
        panic!("a receive is answered with a status first")
    };
    codes.push(("receive_message", status.code()));
    codes
}

#[tokio::test]
async fn rocketmq_clients_sign_or_are_refused() {
    let guarded = Guarded::start();
    assert_eq!(guarded.run_as("ann", SECRET, &["topic", "create", "orders"]).code, 0);
    for signed in
        [Signed::Not, Signed::With("ann", "another one"), Signed::With("eve", SECRET), Signed::With("", "")]
    {
        for (call, code) in all_calls(&guarded, signed).await {
            assert_eq!(code, Code::Unauthorized, "{call}, {signed:?}");
        }
        let mut calls = MessagingServiceClient::new(guarded.channel().await);
        let stream = of_rocketmq(tokio_stream::pending(), signed);
        let mut replies = calls.telemetry(stream).await.unwrap().into_inner();
        let first = replies.message().await.unwrap().unwrap();
        assert_eq!(first.status.unwrap().code(), Code::Unauthorized, "{signed:?}");
        // Not a stream that stays silent: clients would wait for settings.
        assert_eq!(replies.message().await.unwrap_err().code(), GrpcCode::Unauthenticated, "{signed:?}");
    }
    let codes = all_calls(&guarded, Signed::With("ann", SECRET)).await;
    assert!(codes.iter().all(|(_, code)| *code != Code::Unauthorized), "{codes:?}");
    assert!(codes.contains(&("query_route", Code::Ok)), "{codes:?}");
    let mut calls = MessagingServiceClient::new(guarded.channel().await);
    let (sender, commands) = tokio::sync::mpsc::channel(1);
    let stream =
        of_rocketmq(tokio_stream::wrappers::ReceiverStream::new(commands), Signed::With("ann", SECRET));
    let mut replies = calls.telemetry(stream).await.unwrap().into_inner();
    let settings = proto::Settings {
        client_type: Some(proto::ClientType::Producer.into()),
        pub_sub: Some(proto::settings::PubSub::Publishing(proto::Publishing::default())),
        ..Default::default()
    };
    let command = Some(proto::telemetry_command::Command::Settings(settings));
    sender.send(proto::TelemetryCommand { status: None, command }).await.unwrap();
    assert_eq!(replies.message().await.unwrap().unwrap().status.unwrap().code(), Code::Ok);
    drop(sender);
    guarded.broker.stop();
}

/// Makes every call of Flight with a header, and returns how each ended.
async fn all_of_flight(guarded: &Guarded, header: Option<&str>) -> Vec<(&'static str, GrpcCode)> {
    let mut calls = FlightServiceClient::new(guarded.channel().await);
    fn with<T>(message: T, header: Option<&str>) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(header) = header {
            request.metadata_mut().insert("authorization", header.parse().unwrap());
        }
        request
    }
    let code = |status: tonic::Status| status.code();
    let sql = || FlightDescriptor::new_cmd("SELECT 1");
    let put = FlightData { flight_descriptor: Some(sql()), ..FlightData::default() };
    let handshake = with(tokio_stream::iter([HandshakeRequest::default()]), header);
    let put = with(tokio_stream::iter([put]), header);
    vec![
        ("handshake", calls.handshake(handshake).await.err().map_or(GrpcCode::Ok, code)),
        (
            "list_flights",
            calls.list_flights(with(Criteria::default(), header)).await.err().map_or(GrpcCode::Ok, code),
        ),
        (
            "get_flight_info",
            calls.get_flight_info(with(sql(), header)).await.err().map_or(GrpcCode::Ok, code),
        ),
        ("get_schema", calls.get_schema(with(sql(), header)).await.err().map_or(GrpcCode::Ok, code)),
        (
            "do_get",
            calls.do_get(with(Ticket::new("of nobody"), header)).await.err().map_or(GrpcCode::Ok, code),
        ),
        ("do_put", calls.do_put(put).await.err().map_or(GrpcCode::Ok, code)),
        (
            "do_action",
            calls
                .do_action(with(Action::new("ListTopics", "{}"), header))
                .await
                .err()
                .map_or(GrpcCode::Ok, code),
        ),
        ("list_actions", calls.list_actions(with(Empty {}, header)).await.err().map_or(GrpcCode::Ok, code)),
    ]
}

/// Calls an action of Flight without an account, never sends what it is, and returns the answer.
async fn begun_without_account(guarded: &Guarded) -> GrpcCode {
    let mut calls = tonic::client::Grpc::new(guarded.channel().await);
    calls.ready().await.unwrap();
    let path = "/arrow.flight.protocol.FlightService/DoAction".parse().unwrap();
    let codec = tonic_prost::ProstCodec::<Action, arrow_flight::Result>::default();
    let call = calls.streaming(Request::new(tokio_stream::pending()), path, codec);
    let answer = tokio::time::timeout(Duration::from_secs(30), call).await;
    answer.expect("nothing is waited for").err().map_or(GrpcCode::Ok, |status| status.code())
}

#[tokio::test]
async fn flight_clients_show_a_secret_or_a_token() {
    let guarded = Guarded::start();
    assert_eq!(guarded.run_as("ann", SECRET, &["topic", "create", "orders"]).code, 0);
    let basic =
        |user: &str, secret: &str| format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{secret}")));
    let mut client = FlightSqlServiceClient::new(guarded.channel().await);
    assert!(client.handshake("ann", "another one").await.is_err());
    client.handshake("ann", SECRET).await.unwrap();
    let token = client.token().unwrap().clone();
    client.execute("SELECT 1".to_owned(), None).await.unwrap();
    for header in [
        None,
        Some(basic("ann", "another one")),
        Some(basic("eve", SECRET)),
        Some("Bearer x".to_owned()),
        Some(format!("Bearer {}", token.chars().rev().collect::<String>())),
        Some("Digest x".to_owned()),
    ] {
        for (call, code) in all_of_flight(&guarded, header.as_deref()).await {
            assert_eq!(code, GrpcCode::Unauthenticated, "{call}, {header:?}");
        }
    }
    assert_eq!(begun_without_account(&guarded).await, GrpcCode::Unauthenticated);
    for header in [format!("Bearer {token}"), basic("ann", SECRET)] {
        for (call, code) in all_of_flight(&guarded, Some(&header)).await {
            // A statement cannot be put, and this ticket is of nobody: both are refused for what they are.
            let expected = match call {
                "do_put" => GrpcCode::Unimplemented,
                "do_get" => GrpcCode::InvalidArgument,
                _ => GrpcCode::Ok,
            };
            assert_eq!(code, expected, "{call}, {header}");
        }
    }
    // Another secret ends the token.
    write_accounts(guarded.dir.path(), &[("ann", "ann's new secret")]);
    guarded.broker.signal(Signal::HUP);
    let header = format!("Bearer {token}");
    until(async || all_of_flight(&guarded, Some(&header)).await[1].1 == GrpcCode::Unauthenticated).await;
    guarded.broker.stop();
}

/// Waits until something holds; the test fails if it never does.
async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < Duration::from_secs(60), "it never comes");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn the_command_line_names_its_account_and_changed_accounts_are_followed() {
    let guarded = Guarded::start();
    let server = format!("grpc://{}", guarded.address());
    let list = ["topic", "list"];
    refused(&run(&["topic", "list", "--server", &server], ""), 4, "wants to know who calls");
    refused(
        &guarded.run_as("ann", "another one", &list),
        4,
        "the name or the secret of the account is wrong",
    );
    refused(&guarded.run_as("eve", SECRET, &list), 4, "the name or the secret of the account is wrong");
    assert_eq!(guarded.run_as("ann", SECRET, &list).code, 0);
    // Out of the environment.
    let ran =
        weir().args(list).args(["--server", &server, "--user", "ann"]).env("WEIR_PASSWORD", SECRET).status();
    assert!(ran.unwrap().success());
    refused(&run(&["topic", "list", "--user", "ann"], ""), 2, "WEIR_PASSWORD");
    refused(&run(&["topic", "list", "--password-file", "x"], ""), 2, "--user");

    // By itself, without a signal.
    write_accounts(guarded.dir.path(), &[("ann", SECRET), ("bob", "bob's secret")]);
    until(async || guarded.run_as("bob", "bob's secret", &list).code == 0).await;
    // What cannot be used leaves all as it was.
    fs::write(guarded.dir.path().join("accounts.toml"), "[[account]]\n").unwrap();
    guarded.broker.signal(Signal::HUP);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(guarded.run_as("bob", "bob's secret", &list).code, 0);
    write_accounts(guarded.dir.path(), &[("bob", "bob's secret")]);
    guarded.broker.signal(Signal::HUP);
    until(async || guarded.run_as("ann", SECRET, &list).code == 4).await;
    assert_eq!(guarded.run_as("bob", "bob's secret", &list).code, 0);
    guarded.broker.stop();
}

#[test]
fn accounts_that_cannot_be_used_stop_a_start() {
    let dir = data();
    let config = dir.path().join("weir.toml");
    fs::write(&config, "accounts = \"accounts.toml\"\n").unwrap();
    let words = |data: &PathBuf| {
        [
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--config",
            config.to_str().unwrap(),
            "--data",
            data.to_str().unwrap(),
        ]
        .map(str::to_owned)
    };
    let path = dir.path().join("d");
    let start = || run(&words(&path).each_ref().map(String::as_str), "");
    refused(&start(), 1, "accounts.toml");
    write_accounts(dir.path(), &[("ann", "short")]);
    refused(&start(), 2, "the secret of ann has 5 bytes");
    write_accounts(dir.path(), &[]);
    refused(&start(), 2, "0 accounts");
    write_accounts(dir.path(), &[("ann", SECRET)]);
    fs::set_permissions(dir.path().join("accounts.toml"), fs::Permissions::from_mode(0o644)).unwrap();
    refused(&start(), 2, "chmod o-rw");
}

/// Takes any certificate, and remembers it.
#[derive(Debug)]
struct Any(Mutex<Option<CertificateDer<'static>>>);

impl ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.0.lock().unwrap() = Some(certificate.clone().into_owned());
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Shakes hands, and returns the certificate that was shown.
async fn shown_certificate(address: &str) -> CertificateDer<'static> {
    let any = Arc::new(Any(Mutex::default()));
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&any) as Arc<dyn ServerCertVerifier>)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    any.0.lock().unwrap().take().unwrap()
}

#[tokio::test]
async fn tls_needs_no_certificate_and_one_that_changes_is_followed() {
    let dir = data();
    // As many RocketMQ clients do that nobody has told otherwise.
    let broker = Served::start(&dir.path().join("made"));
    let address = broker.uri.strip_prefix("grpc://").unwrap().to_owned();
    let made = shown_certificate(&address).await;
    assert_eq!(shown_certificate(&address).await, made, "the same for each connection");
    assert_eq!(broker.run(&["topic", "list"]).code, 0, "plaintext on the same port");
    broker.stop();

    let renew = || {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        fs::write(dir.path().join("server.key"), made.signing_key.serialize_pem()).unwrap();
        fs::write(dir.path().join("server.pem"), made.cert.pem()).unwrap();
        CertificateDer::from_pem_file(dir.path().join("server.pem")).unwrap()
    };
    let first = renew();
    let config = dir.path().join("weir.toml");
    let listener =
        "[[listener]]\naddress = \"127.0.0.1:0\"\ncertificate = \"server.pem\"\nkey = \"server.key\"\n";
    fs::write(&config, listener).unwrap();
    let broker = Served::start_with(&dir.path().join("files"), &["--config", config.to_str().unwrap()]);
    let address = broker.uri.strip_prefix("grpc://").unwrap().to_owned();
    assert_eq!(shown_certificate(&address).await, first);
    fs::write(dir.path().join("server.pem"), "no certificate").unwrap();
    broker.signal(Signal::HUP);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(shown_certificate(&address).await, first, "what cannot be used changes nothing");
    let second = renew();
    until(async || shown_certificate(&address).await == second).await;
    broker.stop();
}
