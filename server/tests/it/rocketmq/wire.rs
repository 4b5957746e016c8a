//! HTTP/2 by hand, as no library would write it: frames, calls and what comes back.

use std::collections::BTreeMap;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Duration, timeout},
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
pub(super) const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;
/// What is asked of the other end with each wait, to know that it has read all that came before.
const QUESTION: &[u8; 8] = b"are you?";
/// How long the broker may take to end a call, however slow the machine.
const END_MAX: Duration = Duration::from_secs(30);

/// A connection.
pub(super) struct Wire {
    socket: TcpStream,
    next_stream: u32,
    /// The calls that have not ended, with their names.
    open: BTreeMap<u32, String>,
    is_closed: bool,
}

/// What a wait came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Waited {
    /// Every call has ended.
    Ended,
    /// The broker has closed the connection.
    Closed,
    /// These calls have not ended in time.
    Hanging(Vec<String>),
}

impl Wire {
    /// Opens a connection with windows so large that nobody waits for them, or with none.
    pub(super) async fn open(address: &str, window: u32) -> Self {
        let socket = TcpStream::connect(address).await.unwrap();
        let mut wire = Self { socket, next_stream: 1, open: BTreeMap::new(), is_closed: false };
        wire.write(PREFACE).await;
        // The window of each stream, and then that of the connection.
        wire.frame(SETTINGS, 0, 0, &[&[0, 4][..], &window.to_be_bytes()].concat()).await;
        wire.frame(WINDOW_UPDATE, 0, 0, &(1_u32 << 30).to_be_bytes()).await;
        wire
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) {
        self.is_closed |= self.socket.write_all(bytes).await.is_err();
    }

    pub(super) async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = vec![len[1], len[2], len[3], kind, flags];
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.write(&frame).await;
    }

    /// Begins a call, and returns its stream.
    pub(super) async fn begin(&mut self, call: &str, client: &str) -> u32 {
        let path = format!("/apache.rocketmq.v2.MessagingService/{call}");
        let mut block = Vec::new();
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", &path),
            (":authority", "broker.example"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("grpc-timeout", "400m"),
            ("x-mq-client-id", client),
            ("x-mq-language", "JAVA"),
            ("x-mq-client-version", "5.2.0"),
        ] {
            // A literal without an index, whose name and value are not compressed.
            block.push(0);
            for text in [name, value] {
                assert!(text.len() < 127, "the length fits into a byte");
                block.push(text.len() as u8);
                block.extend(text.as_bytes());
            }
        }
        let stream = self.next_stream;
        self.next_stream += 2;
        self.open.insert(stream, call.to_owned());
        self.frame(HEADERS, END_HEADERS, stream, &block).await;
        stream
    }

    /// Makes a call whose content is `body`, in frames of up to `piece` bytes.
    pub(super) async fn call(&mut self, call: &str, client: &str, body: &[u8], piece: usize) {
        let stream = self.begin(call, client).await;
        let mut pieces = body.chunks(piece.clamp(1, 16_384)).peekable();
        if pieces.peek().is_none() {
            self.frame(DATA, END_STREAM, stream, &[]).await;
        }
        while let Some(part) = pieces.next() {
            let flags = if pieces.peek().is_none() { END_STREAM } else { 0 };
            self.frame(DATA, flags, stream, part).await;
        }
    }

    /// Waits until all calls have ended.
    pub(super) async fn wait(&mut self) -> Waited {
        self.wait_for(|wire, _| wire.open.is_empty()).await
    }

    /// Waits until the broker has read everything, or has closed the connection.
    pub(super) async fn is_read(&mut self) -> Waited {
        self.frame(PING, 0, 0, QUESTION).await;
        self.wait_for(|_, answered| answered).await
    }

    async fn wait_for(&mut self, is_enough: impl Fn(&Self, bool) -> bool) -> Waited {
        let mut answered = false;
        let waiting = async {
            while !self.is_closed && !is_enough(self, answered) {
                answered |= self.read().await;
            }
        };
        let in_time = timeout(END_MAX, waiting).await.is_ok();
        if self.is_closed {
            return Waited::Closed;
        }
        match in_time {
            true => Waited::Ended,
            false => Waited::Hanging(self.open.values().cloned().collect()),
        }
    }

    /// Reads a frame. Returns whether it is the answer to [`QUESTION`].
    async fn read(&mut self) -> bool {
        let mut head = [0; 9];
        if self.socket.read_exact(&mut head).await.is_err() {
            self.is_closed = true;
            return false;
        }
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let (kind, flags) = (head[3], head[4]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut payload = vec![0; len as usize];
        if self.socket.read_exact(&mut payload).await.is_err() {
            self.is_closed = true;
            return false;
        }
        match kind {
            SETTINGS if flags & ACK == 0 => self.frame(SETTINGS, ACK, 0, &[]).await,
            PING if flags & ACK == 0 => self.frame(PING, ACK, 0, &payload).await,
            PING => return payload == QUESTION,
            GOAWAY => self.is_closed = true,
            RST_STREAM => drop(self.open.remove(&stream)),
            DATA | HEADERS if flags & END_STREAM != 0 => drop(self.open.remove(&stream)),
            _ => {}
        }
        false
    }
}

/// The frame of gRPC around a message.
pub(super) fn framed(message: &[u8]) -> Vec<u8> {
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    framed.extend(message);
    framed
}
