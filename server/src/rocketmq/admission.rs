//! What requests may take while they arrive: bytes of each, bytes of all together, and time.
//!
//! A request is decoded once all of it is there, and is memory until it is answered. So its length is looked at before
//! its bytes are taken; of the bytes that are there, those of all clients are counted; and what does not arrive in
//! time is given up. Callers that are not let in may send little, and take nothing from what those may that are.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use http_body::Frame;
use tokio::time::Sleep;
use tonic::{
    Status,
    body::Body,
    codegen::{BoxFuture, Service, http},
    server::NamedService,
};

use super::{REQUEST_BYTES_MAX, codec::SMALL_BYTES_MAX, signature::Admitted};

/// Bytes of requests of all clients that are there and not answered yet.
const ARRIVING_BYTES_MAX: usize = 512 << 20;

/// Bytes of a message of a caller that is not let in.
const STRANGER_BYTES_MAX: usize = 64 << 10;

/// How long a request may take to arrive: 4 MiB come over a line of a megabit a second.
const ARRIVAL_MAX: Duration = Duration::from_secs(60);

/// Bytes before a message: whether it is compressed, and how long it is.
const HEADER_BYTES: usize = 5;

/// A service whose requests are bounded while they arrive.
#[derive(Clone, Debug)]
pub struct Admission<S> {
    inner: S,
    arriving: Arc<AtomicUsize>,
    bytes_max: usize,
    time_max: Duration,
}

impl<S> Admission<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner, arriving: Arc::default(), bytes_max: ARRIVING_BYTES_MAX, time_max: ARRIVAL_MAX }
    }
}

impl<S: NamedService> NamedService for Admission<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Admission<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (head, body) = request.into_parts();
        // The doorkeeper stands before this. Whom it has not seen is not let in.
        let is_stranger = head.extensions.get::<Admitted>().is_none_or(|admission| admission.0.is_err());
        let all = if is_stranger { Arc::default() } else { Arc::clone(&self.arriving) };
        let held = Arc::new(Held { all, bytes: AtomicUsize::new(0) });
        let call = head.uri.path().rsplit('/').next().unwrap_or_default();
        let body = Arriving {
            body,
            is_stream: call == "Telemetry",
            is_stranger,
            message_bytes_max: match call {
                _ if is_stranger => STRANGER_BYTES_MAX,
                "SendMessage" => REQUEST_BYTES_MAX,
                _ => SMALL_BYTES_MAX,
            },
            all_bytes_max: self.bytes_max,
            time_max: self.time_max,
            message: Message::default(),
            deadline: None,
            held: Arc::clone(&held),
        };
        let answer = self.inner.call(http::Request::from_parts(head, Body::new(body)));
        Box::pin(async move {
            let answer = answer.await;
            // What was decoded is memory up to here.
            drop(held);
            answer
        })
    }
}

/// Bytes that count for one call, until it is answered.
#[derive(Debug)]
struct Held {
    all: Arc<AtomicUsize>,
    bytes: AtomicUsize,
}

impl Held {
    /// Counts bytes that arrived, unless there are too many of all clients.
    fn add(&self, bytes: usize, max: usize) -> Result<(), Status> {
        if self.all.fetch_add(bytes, Ordering::Relaxed) + bytes > max {
            self.all.fetch_sub(bytes, Ordering::Relaxed);
            return Err(Status::resource_exhausted("the broker is too busy: too many large requests arrive"));
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    fn release(&self) {
        self.all.fetch_sub(self.bytes.swap(0, Ordering::Relaxed), Ordering::Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.release();
    }
}

/// How much of a message is there.
#[derive(Debug, Default)]
struct Message {
    header: [u8; HEADER_BYTES],
    header_bytes: usize,
    /// Of the content.
    missing: usize,
    /// Whether one has arrived before.
    follows: bool,
}

/// The body of a request.
#[derive(Debug)]
struct Arriving {
    body: Body,
    is_stream: bool,
    is_stranger: bool,
    message_bytes_max: usize,
    all_bytes_max: usize,
    time_max: Duration,
    message: Message,
    /// When the message that is waited for must be there.
    deadline: Option<Pin<Box<Sleep>>>,
    held: Arc<Held>,
}

impl Arriving {
    /// Looks at bytes that arrived.
    fn take(&mut self, data: &Bytes) -> Result<(), Status> {
        let mut rest = data.as_ref();
        self.held.add(rest.len(), self.all_bytes_max)?;
        while !rest.is_empty() {
            if self.message.header_bytes < HEADER_BYTES {
                self.begin(&mut rest)?;
            }
            let taken = self.message.missing.min(rest.len());
            rest.advance(taken);
            self.message.missing -= taken;
            if self.message.header_bytes == HEADER_BYTES && self.message.missing == 0 {
                self.message = Message { follows: true, ..Message::default() };
                self.deadline = None;
                if self.is_stream {
                    // It is answered by itself, and the stream goes on.
                    self.held.release();
                }
            }
        }
        Ok(())
    }

    /// Takes bytes of the header of a message, and looks at it once it is whole.
    fn begin(&mut self, rest: &mut &[u8]) -> Result<(), Status> {
        if self.message.follows && !self.is_stream {
            return Err(Status::internal("the call takes one message, and there are more"));
        }
        while let (Some(place), Some(byte)) =
            (self.message.header.get_mut(self.message.header_bytes), rest.first())
        {
            *place = *byte;
            self.message.header_bytes += 1;
            rest.advance(1);
        }
        if self.message.header_bytes < HEADER_BYTES {
            return Ok(());
        }
        let [_, length @ ..] = self.message.header;
        self.message.missing = u32::from_be_bytes(length) as usize;
        if self.message.missing > self.message_bytes_max {
            let (bytes, max) = (self.message.missing, self.message_bytes_max);
            return Err(match self.is_stranger {
                true => Status::unauthenticated(format!(
                    "the caller is not let in: check its access key; its request has {bytes} bytes of {max} at most"
                )),
                false => {
                    Status::resource_exhausted(format!("the request has {bytes} bytes; the limit is {max}"))
                }
            });
        }
        Ok(())
    }

    /// Whether a message is waited for that must come in time: any of a call that has one, and what has begun.
    fn is_due(&self) -> bool {
        !self.is_stream || self.message.header_bytes > 0
    }
}

impl http_body::Body for Arriving {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                let taken = frame.data_ref().map_or(Ok(()), |data| self.take(data));
                Poll::Ready(Some(taken.map(|()| frame)))
            }
            Poll::Ready(other) => Poll::Ready(other),
            Poll::Pending if self.is_due() => {
                let time_max = self.time_max;
                let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(time_max)));
                deadline.as_mut().poll(context).map(|()| {
                    let text = format!("the request took longer than {} s to arrive", time_max.as_secs());
                    Some(Err(Status::deadline_exceeded(text)))
                })
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, future::poll_fn};

    use http_body::Body as _;
    use tonic::Code;
    use weir_engine::{Principal, Unauthenticated};

    use super::*;

    /// Takes a whole request and answers with nothing.
    #[derive(Clone)]
    struct Swallow;

    impl Service<http::Request<Body>> for Swallow {
        type Response = http::Response<Body>;
        type Error = Infallible;
        type Future = BoxFuture<Self::Response, Infallible>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: http::Request<Body>) -> Self::Future {
            let mut body = request.into_body();
            Box::pin(async move {
                while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
                    if let Err(status) = frame {
                        return Ok(status.into_http());
                    }
                }
                Ok(http::Response::new(Body::empty()))
            })
        }
    }

    /// A body that comes in pieces, and then ends or not.
    struct Pieces {
        left: VecDeque<Vec<u8>>,
        ends: bool,
    }

    impl http_body::Body for Pieces {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            match self.left.pop_front() {
                Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece.into())))),
                None if self.ends => Poll::Ready(None),
                None => Poll::Pending,
            }
        }
    }

    fn message(len: u32) -> Vec<u8> {
        let mut message = vec![0];
        message.extend(len.to_be_bytes());
        message.resize(HEADER_BYTES + len as usize, 7);
        message
    }

    fn admission(bytes_max: usize) -> Admission<Swallow> {
        Admission { bytes_max, time_max: Duration::from_millis(50), ..Admission::new(Swallow) }
    }

    async fn call(admission: &Admission<Swallow>, name: &str, pieces: Vec<Vec<u8>>, ends: bool) -> Code {
        call_as(Some(Admitted(Ok(Principal::Anonymous))), admission, name, pieces, ends).await
    }

    async fn call_as(
        caller: Option<Admitted>,
        admission: &Admission<Swallow>,
        name: &str,
        pieces: Vec<Vec<u8>>,
        ends: bool,
    ) -> Code {
        let body = Body::new(Pieces { left: pieces.into(), ends });
        let mut request = http::Request::builder().uri(format!("/service/{name}")).body(body).unwrap();
        caller.map(|caller| request.extensions_mut().insert(caller));
        let answer = admission.clone().call(request).await.unwrap_or_else(|never| match never {});
        Status::from_header_map(answer.headers()).map_or(Code::Ok, |status| status.code())
    }

    #[tokio::test]
    async fn a_length_is_looked_at_before_the_bytes_come() {
        let admission = admission(ARRIVING_BYTES_MAX);
        let header = |len: usize| vec![[&[0][..], &(len as u32).to_be_bytes()].concat()];
        for (name, len) in [
            ("Heartbeat", SMALL_BYTES_MAX),
            ("Telemetry", SMALL_BYTES_MAX),
            ("SendMessage", REQUEST_BYTES_MAX),
        ] {
            assert_eq!(call(&admission, name, header(len), true).await, Code::Ok, "{name}");
            assert_eq!(
                call(&admission, name, header(len + 1), false).await,
                Code::ResourceExhausted,
                "{name}"
            );
        }
        assert_eq!(
            call(&admission, "Heartbeat", header(u32::MAX as usize), false).await,
            Code::ResourceExhausted
        );
        // However the header is cut.
        let bytes = message(10).into_iter().map(|byte| vec![byte]).collect();
        assert_eq!(call(&admission, "Heartbeat", bytes, true).await, Code::Ok);
        assert_eq!(call(&admission, "Heartbeat", vec![vec![], vec![0], vec![]], true).await, Code::Ok);
    }

    #[tokio::test]
    async fn only_a_stream_has_more_than_one_message() {
        let admission = admission(100);
        for (name, expected) in [("Heartbeat", Code::Internal), ("Telemetry", Code::Ok)] {
            let together = vec![[message(20), message(0), message(30)].concat()];
            assert_eq!(call(&admission, name, together, true).await, expected, "{name}");
            let apart = vec![message(40); 50];
            assert_eq!(call(&admission, name, apart, true).await, expected, "{name}, one by one");
        }
        assert_eq!(admission.arriving.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn what_arrives_for_all_together_is_bounded_and_given_back() {
        let admission = admission(100);
        let held = call(&admission, "SendMessage", vec![message(200)[..60].to_vec()], false);
        tokio::pin!(held);
        assert!(futures::poll!(&mut held).is_pending());
        assert_eq!(call(&admission, "Heartbeat", vec![message(30)], true).await, Code::Ok);
        assert_eq!(call(&admission, "Heartbeat", vec![message(40)], true).await, Code::ResourceExhausted);
        assert_eq!(held.await, Code::DeadlineExceeded);
        assert_eq!(call(&admission, "Heartbeat", vec![message(90)], true).await, Code::Ok);
        assert_eq!(admission.arriving.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn who_is_not_let_in_may_send_little_and_takes_no_room() {
        let admission = admission(100);
        for caller in [None, Some(Admitted(Err(Unauthenticated::Wrong)))] {
            let call = |pieces, ends| call_as(caller.clone(), &admission, "SendMessage", pieces, ends);
            let held = call(vec![message(90)], false);
            tokio::pin!(held);
            assert!(futures::poll!(&mut held).is_pending());
            assert_eq!(admission.arriving.load(Ordering::Relaxed), 0);
            let length = u32::try_from(STRANGER_BYTES_MAX + 1).unwrap();
            let large = vec![[&[0][..], &length.to_be_bytes()].concat()];
            assert_eq!(call(large, false).await, Code::Unauthenticated);
            assert_eq!(call(vec![message(40)], true).await, Code::Ok, "it is refused by the service");
        }
    }

    #[tokio::test]
    async fn what_does_not_arrive_in_time_is_given_up_and_a_stream_may_be_silent() {
        let admission = admission(100);
        for pieces in [vec![], vec![vec![0]], vec![message(20)[..9].to_vec()], vec![message(20)]] {
            assert_eq!(call(&admission, "Heartbeat", pieces, false).await, Code::DeadlineExceeded);
        }
        let begun = vec![message(20), vec![0, 0]];
        assert_eq!(call(&admission, "Telemetry", begun, false).await, Code::DeadlineExceeded);
        let silent = call(&admission, "Telemetry", vec![message(20)], false);
        assert!(tokio::time::timeout(Duration::from_millis(200), silent).await.is_err());
    }
}
