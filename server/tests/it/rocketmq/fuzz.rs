//! Random and damaged bytes for every call, over real connections to the real binary: no panic, no call that does not
//! end, no memory without bound, and the broker serves afterwards.
//!
//! `WEIR_SEED=N` runs a seed again.

use std::{fs, path::Path, process::Stdio};

use prost::Message as _;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom as _};
use weir_server::rocketmq::proto::{
    ChangeInvisibleDurationRequest, ClientType, Code, EndTransactionRequest, FilterType,
    ForwardMessageToDeadLetterQueueRequest, GetOffsetRequest, HeartbeatRequest, MessageType,
    NotifyClientTerminationRequest, PullMessageRequest, QueryAssignmentRequest, QueryOffsetRequest,
    QueryRouteRequest, RecallMessageRequest, SyncLiteSubscriptionRequest, TelemetryCommand,
    UpdateOffsetRequest, telemetry_command::Command as Telemetry,
};

use super::{
    settings::{consumer, producer},
    wire::{DATA, END_STREAM, Waited, Wire, framed},
    *,
};
use crate::cli::{Served, weir};

/// Damaged calls, and connections with damaged frames.
const CALLS: usize = 3000;
const CONNECTIONS: usize = 200;
/// Calls under way at once.
const AT_ONCE: usize = 64;
/// Resident memory of the broker at its most. A debug build with an empty directory takes about 150 MiB.
const MEMORY_MAX: u64 = 1 << 30;
const WINDOW: u32 = 0x7fff_ffff;

fn start(dir: &Path) -> Served {
    let log = fs::File::create(dir.join("log")).unwrap();
    let config = dir.join("weir.toml");
    fs::write(&config, "retention-disk-percent = 100\n").unwrap();
    let data = dir.join("data");
    let process = weir()
        .args(["serve", "--listen", "127.0.0.1:0", "--config"])
        .arg(&config)
        .arg("--data")
        .arg(&data)
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .unwrap();
    let served = Served::over(process, &data);
    served.json(&["topic", "create", TOPIC]);
    served
}

/// Resident memory of a process at its most, in bytes.
fn peak(id: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

async fn client(served: &Served) -> Client {
    let channel =
        Channel::from_shared(format!("http://{}", served.address())).unwrap().connect().await.unwrap();
    Client { calls: MessagingServiceClient::new(channel), id: "sane", language: "JAVA", version: "5.2.0" }
}

/// A request of every call that makes sense, some of them in two forms.
fn corpus(handle: &str) -> Vec<(&'static str, Vec<u8>)> {
    let queue = || Some(MessageQueue { topic: resource(TOPIC), id: 1, ..MessageQueue::default() });
    let mut full = message("full");
    if let Some(system) = &mut full.system_properties {
        system.tag = Some("tag".to_owned());
        system.keys = vec!["k1".to_owned(), "k2".to_owned()];
        system.message_group = Some("line".to_owned());
        system.message_type = MessageType::Fifo.into();
        system.born_timestamp = Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 5 });
        system.trace_context = Some("trace".to_owned());
    }
    let handle = || handle.to_owned();
    let settings = |settings| TelemetryCommand { status: None, command: Some(Telemetry::Settings(settings)) };
    vec![
        (
            "QueryRoute",
            QueryRouteRequest { topic: resource(TOPIC), endpoints: Some(endpoints()) }.encode_to_vec(),
        ),
        (
            "Heartbeat",
            HeartbeatRequest { group: resource(GROUP), client_type: ClientType::SimpleConsumer.into() }
                .encode_to_vec(),
        ),
        ("SendMessage", SendMessageRequest { messages: vec![message("a")] }.encode_to_vec()),
        ("SendMessage", SendMessageRequest { messages: vec![full.clone(), full] }.encode_to_vec()),
        (
            "QueryAssignment",
            QueryAssignmentRequest {
                topic: resource(TOPIC),
                group: resource(GROUP),
                endpoints: Some(endpoints()),
            }
            .encode_to_vec(),
        ),
        (
            "ReceiveMessage",
            receive(|request| request.attempt_id = Some("attempt".to_owned())).encode_to_vec(),
        ),
        (
            "ReceiveMessage",
            receive(|request| request.filter_expression = Some(filter(FilterType::Sql, "name LIKE 'a%'")))
                .encode_to_vec(),
        ),
        (
            "AckMessage",
            AckMessageRequest {
                group: resource(GROUP),
                topic: resource(TOPIC),
                entries: vec![AckMessageEntry { receipt_handle: handle(), ..AckMessageEntry::default() }; 2],
            }
            .encode_to_vec(),
        ),
        (
            "ForwardMessageToDeadLetterQueue",
            ForwardMessageToDeadLetterQueueRequest {
                group: resource(GROUP),
                topic: resource(TOPIC),
                receipt_handle: handle(),
                delivery_attempt: 1,
                ..ForwardMessageToDeadLetterQueueRequest::default()
            }
            .encode_to_vec(),
        ),
        (
            "PullMessage",
            PullMessageRequest {
                group: resource(GROUP),
                message_queue: queue(),
                offset: 0,
                batch_size: 3,
                filter_expression: Some(filter(FilterType::Tag, "a || b")),
                long_polling_timeout: Some(prost_types::Duration { seconds: 0, nanos: 1 }),
            }
            .encode_to_vec(),
        ),
        (
            "UpdateOffset",
            UpdateOffsetRequest { group: resource(GROUP), message_queue: queue(), offset: 1 }.encode_to_vec(),
        ),
        ("GetOffset", GetOffsetRequest { group: resource(GROUP), message_queue: queue() }.encode_to_vec()),
        (
            "QueryOffset",
            QueryOffsetRequest {
                message_queue: queue(),
                query_offset_policy: 2,
                timestamp: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 5 }),
            }
            .encode_to_vec(),
        ),
        (
            "EndTransaction",
            EndTransactionRequest {
                topic: resource(TOPIC),
                message_id: "id".to_owned(),
                transaction_id: "transaction".to_owned(),
                resolution: 1,
                source: 1,
                trace_context: String::new(),
            }
            .encode_to_vec(),
        ),
        ("Telemetry", settings(producer()).encode_to_vec()),
        (
            "Telemetry",
            settings(consumer(ClientType::PushConsumer, FilterType::Sql, "a = 1 AND b IN ('x')"))
                .encode_to_vec(),
        ),
        (
            "NotifyClientTermination",
            NotifyClientTerminationRequest { group: resource(GROUP) }.encode_to_vec(),
        ),
        (
            "ChangeInvisibleDuration",
            ChangeInvisibleDurationRequest {
                group: resource(GROUP),
                topic: resource(TOPIC),
                receipt_handle: handle(),
                invisible_duration: Some(prost_types::Duration { seconds: 5, nanos: 5 }),
                ..ChangeInvisibleDurationRequest::default()
            }
            .encode_to_vec(),
        ),
        (
            "RecallMessage",
            RecallMessageRequest { topic: resource(TOPIC), recall_handle: "handle".to_owned() }
                .encode_to_vec(),
        ),
        (
            "SyncLiteSubscription",
            SyncLiteSubscriptionRequest {
                topic: resource(TOPIC),
                group: resource(GROUP),
                lite_topic_set: vec!["lite".to_owned()],
                ..SyncLiteSubscriptionRequest::default()
            }
            .encode_to_vec(),
        ),
    ]
}

/// Damages bytes in a few places.
fn damage(bytes: &mut Vec<u8>, other: &[u8], random: &mut StdRng) {
    for _ in 0..random.random_range(1..6) {
        let at = random.random_range(0..=bytes.len());
        let len = random.random_range(0..=(bytes.len() - at).min(40));
        match random.random_range(0..9) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            1 if at < bytes.len() => bytes[at] = random.random(),
            2 => drop(bytes.drain(at..at + len)),
            3 => {
                let noise: Vec<u8> = (0..random.random_range(1..20)).map(|_| random.random()).collect();
                drop(bytes.splice(at..at, noise));
            }
            4 => {
                let again = bytes[at..at + len].to_vec();
                drop(bytes.splice(at..at, again));
            }
            5 => bytes.truncate(at),
            6 => {
                let from = random.random_range(0..=other.len());
                drop(bytes.splice(at..at, other[from..].iter().copied()));
            }
            // A number as large as can be, and one that never ends.
            7 => drop(bytes.splice(at..at + len.min(1), [0xff; 9].into_iter().chain([1]))),
            _ => drop(bytes.splice(at..at, [0x80; 12])),
        }
    }
}

/// Puts a message into the frame of gRPC, which may be damaged too.
fn frame(message: &[u8], random: &mut StdRng) -> Vec<u8> {
    let mut body = framed(message);
    match random.random_range(0..12) {
        // Compressed, or neither that nor not.
        0 => body[0] = random.random(),
        // Longer or shorter than it says.
        1 => body[4] = body[4].wrapping_add(random.random_range(1..200)),
        2 => body[1..5].copy_from_slice(&random.random::<u32>().to_be_bytes()),
        // More than one, or part of one.
        3 => body.extend(framed(message)),
        4 => body.truncate(random.random_range(0..body.len())),
        _ => {}
    }
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_calls_and_frames_disturb_nobody() {
    let dir = directory();
    let served = start(dir.path());
    let client = client(&served).await;
    client.send_all(&["a", "b"]).await;
    let received = client.receive_all(2).await;
    let corpus = corpus(handle(&received[0]));
    let names: std::collections::BTreeSet<_> = corpus.iter().map(|(name, _)| *name).collect();
    assert_eq!(names.len(), 17, "every call of the protocol");

    // As they are, all of them end; so a hang below is the damage's.
    let mut wire = Wire::open(served.address(), WINDOW).await;
    for (name, message) in &corpus {
        wire.call(name, "whole", &framed(message), 16_384).await;
    }
    assert_eq!(wire.wait().await, Waited::Ended);

    let seed =
        std::env::var("WEIR_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut left = CALLS;
    while left > 0 {
        if wire.is_closed() {
            wire = Wire::open(served.address(), WINDOW).await;
        }
        for _ in 0..AT_ONCE.min(left) {
            let (name, message) = corpus.choose(&mut random).unwrap();
            let (_, other) = corpus.choose(&mut random).unwrap();
            let mut message = message.clone();
            if random.random_bool(0.9) {
                damage(&mut message, other, &mut random);
            }
            let body = frame(&message, &mut random);
            let piece = if random.random_bool(0.2) { random.random_range(1..8) } else { 16_384 };
            wire.call(name, ["c1", "c2", ""][random.random_range(0..3)], &body, piece).await;
            left -= 1;
        }
        let waited = wire.wait().await;
        assert!(!matches!(waited, Waited::Hanging(_)), "seed {seed}: {waited:?}");
    }

    for _ in 0..CONNECTIONS {
        let mut wire = Wire::open(served.address(), WINDOW).await;
        for _ in 0..random.random_range(1..12) {
            let payload: Vec<u8> = (0..random.random_range(0..60)).map(|_| random.random()).collect();
            match random.random_range(0..4) {
                // Any frame on any stream.
                0 => wire.frame(random.random(), random.random(), random.random_range(0..9), &payload).await,
                // A frame of a kind that there is.
                1 => {
                    let kind = random.random_range(0..10);
                    wire.frame(kind, random.random(), random.random_range(0..9), &payload).await;
                }
                // A call whose end never comes, and one whose content is noise.
                2 => drop(wire.begin(corpus.choose(&mut random).unwrap().0, "c3").await),
                _ => {
                    let stream = wire.begin(corpus.choose(&mut random).unwrap().0, "c3").await;
                    wire.frame(DATA, END_STREAM, stream, &payload).await;
                }
            }
        }
        let waited = wire.is_read().await;
        // What ends within a frame waits for the rest of it, as it should.
        assert!(!matches!(waited, Waited::Hanging(_)), "seed {seed}: {waited:?}");
    }

    let sane = self::client(&served).await;
    sane.send_all(&["still here"]).await;
    let again = receive(|request| request.group = resource("afterwards"));
    assert_eq!(sane.receive(again).await.code(), Code::Ok, "seed {seed}");
    let memory = peak(served.id());
    assert!(memory < MEMORY_MAX, "seed {seed}: {} MiB", memory >> 20);
    served.stop();
    let log = fs::read_to_string(dir.path().join("log")).unwrap();
    assert!(!log.contains("panicked"), "seed {seed}: {log}");
}
