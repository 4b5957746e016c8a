//! Clients that are many, slow, or half gone: what each may take is bounded, and the others are served.

use std::time::Duration;

use bytes::Bytes;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::timeout};
use weir_server::{
    rocketmq::proto::{ClientType, Code, HeartbeatRequest},
    run::raise_open_files,
};

use super::{
    settings::{Telemetry, heartbeat, producer},
    wire::{DATA, Waited, Wire, framed},
    *,
};
use crate::cli::Served;

/// Clients that come at once.
const CLIENTS: usize = 1000;
/// As a broker has them that was restarted under all of its clients.
const CONNECT_MAX: Duration = Duration::from_secs(60);

async fn connect(address: &str, id: &'static str) -> Client {
    let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    Client { calls: MessagingServiceClient::new(channel), id, language: "JAVA", version: "5.2.0" }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_clients_that_come_back_at_once_are_all_served() {
    raise_open_files();
    let dir = directory();
    let served = Served::start(dir.path());
    served.json(&["topic", "create", TOPIC]);
    let start = |number: usize| {
        let address = served.address().to_owned();
        tokio::spawn(async move {
            let client = connect(&address, format!("client-{number}").leak()).await;
            let mut stream = Telemetry::open(&client).await;
            stream.send(producer()).await;
            stream.settings().await;
            assert_eq!(heartbeat(&client, ClientType::Producer).await, Code::Ok);
            client.send_all(&[&number.to_string()]).await;
            (client, stream)
        })
    };
    for _ in 0..2 {
        // The second time over connections that the first ones have just left.
        let starting: Vec<_> = (0..CLIENTS).map(start).collect();
        let mut clients = Vec::new();
        for client in starting {
            clients.push(timeout(CONNECT_MAX, client).await.expect("every client is served").unwrap());
        }
        assert_eq!(clients.len(), CLIENTS);
    }
    let described = served.json(&["topic", "describe", TOPIC]);
    let stored: u64 =
        described["queues"].as_array().unwrap().iter().map(|queue| queue["end"].as_u64().unwrap()).sum();
    assert_eq!(stored, 2 * CLIENTS as u64);
    served.stop();
}

/// A length is believed before its bytes come, so a call of a few bytes cannot ask for a room of many.
#[tokio::test]
async fn a_request_that_says_it_is_too_long_is_refused_before_it_comes() {
    let dir = directory();
    let weir = Weir::start(dir.path()).await;
    for (call, bytes) in [("Heartbeat", 2_u32 << 20), ("Telemetry", 2 << 20), ("SendMessage", 131 << 20)] {
        let mut wire = Wire::open(&weir.address, 1 << 20).await;
        let stream = wire.begin(call, "client").await;
        let header = [&[0][..], &bytes.to_be_bytes()].concat();
        wire.frame(DATA, 0, stream, &header).await;
        assert_eq!(wire.wait().await, Waited::Ended, "{call}: nothing more is waited for");
    }
    let client = weir.client().await;
    let names = HeartbeatRequest { group: resource(&"g".repeat(2 << 20)), client_type: 1 };
    let status = client.calls.clone().heartbeat(client.request(names)).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    client.send_all(&["still here"]).await;
}

/// Whoever opens a connection and says nothing more, or stops in the middle of a call, is in nobody's way.
#[tokio::test]
async fn connections_that_are_half_open_disturb_nobody() {
    let dir = directory();
    let weir = Weir::start(dir.path()).await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        let mut socket = TcpStream::connect(&weir.address).await.unwrap();
        socket.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
        silent.push(socket);
    }
    let mut stuck = Vec::new();
    for _ in 0..20 {
        let mut wire = Wire::open(&weir.address, 1 << 20).await;
        for call in ["SendMessage", "Heartbeat", "ReceiveMessage", "Telemetry"] {
            let stream = wire.begin(call, "stuck").await;
            wire.frame(DATA, 0, stream, &[0, 0, 0, 0, 100, 1, 2, 3]).await;
        }
        stuck.push(wire);
    }
    let client = weir.client().await;
    client.send_all(&["a", "b"]).await;
    assert_eq!(bodies(&client.receive_all(2).await), ["a", "b"]);
}

/// Clients whose windows are closed get nothing, and hold what they were to get; others get theirs.
#[tokio::test]
async fn readers_that_take_nothing_keep_others_from_nothing() {
    let dir = directory();
    let weir = Weir::start(dir.path()).await;
    let client = weir.client().await;
    let body = Bytes::from(vec![b'x'; 1 << 20]);
    for n in 0..8 {
        let large = Message { body: body.clone(), ..message(&n.to_string()) };
        assert_eq!(code(&client.send(vec![large]).await.status), Code::Ok);
    }
    let mut slow = Vec::new();
    for n in 0..20 {
        let mut wire = Wire::open(&weir.address, 0).await;
        let request = receive(|request| {
            request.group = resource(&format!("slow-{n}"));
            request.long_polling_timeout = Some(prost_types::Duration::default());
        });
        let content = framed(&prost::Message::encode_to_vec(&request));
        wire.call("ReceiveMessage", "slow", &content, 16_384).await;
        assert_eq!(wire.is_read().await, Waited::Ended);
        slow.push(wire);
    }
    let received = client.receive_all(8).await;
    assert_eq!(received.len(), 8);
    // When they go, what they did not take is there again for their groups.
    drop(slow);
    let again = async {
        let mut came = 0;
        while came < 8 {
            let request = receive(|request| request.group = resource("slow-3"));
            came += client.receive(request).await.messages().len();
        }
    };
    timeout(Duration::from_secs(20), again).await.expect("it comes again");
}
