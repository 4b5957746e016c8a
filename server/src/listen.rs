//! Listeners: sockets, TLS, and how a connection finds its way to the services.
//!
//! One port takes everything: plaintext HTTP/2 with prior knowledge and TLS with ALPN `h2`, told apart by the
//! first byte that the client sends. What is neither is turned away here, so that it disturbs nobody.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::{TcpListener, TcpSocket, TcpStream, lookup_host},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::{Connected, TcpConnectInfo};

use crate::{
    config::ListenerConfig,
    context::{Address, TlsMode},
    identity::{Identity, IdentityError},
};

/// How long a client may take to send its first byte and to finish its TLS handshake.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait before accepting again after the system refused, for example for lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections that wait to be accepted; the system may allow fewer. Those of a thousand clients that come back at once
/// are more than are accepted in a moment, and what is beyond is reset.
const BACKLOG: u32 = 8192;
/// Accepted connections that wait for the server to take them.
const ACCEPTED_MAX: usize = 128;
/// The first byte of a TLS record that opens a handshake.
const TLS_HANDSHAKE: u8 = 0x16;
/// What a client of HTTP/2 sends first.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What a client that speaks HTTP/1 is told.
const HTTP1_ANSWER: &str = "This port speaks gRPC over HTTP/2: RocketMQ v2, Arrow Flight and Flight SQL.\n";

/// Why a listener cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The name cannot be resolved.
    #[error("cannot resolve {address}: {source}")]
    Resolve {
        /// The address as configured.
        address: Address,
        /// What the system said.
        source: io::Error,
    },
    /// Another process listens there.
    #[error("{address} is in use by another process; stop it, or choose another port with --listen")]
    InUse {
        /// The address.
        address: SocketAddr,
    },
    /// The system refuses to listen there.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Others than this machine could reach the broker, and anybody could do anything.
    #[error(
        "{address} can be reached from other machines, and this broker has no accounts: anybody could read, \
         write and delete. Name an accounts file in the configuration, listen on 127.0.0.1, or pass --insecure if \
         the network keeps others away"
    )]
    Insecure {
        /// The address.
        address: SocketAddr,
    },
    /// Certificate or key cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Whether a broker without accounts may listen where other machines reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// This machine only.
    Loopback,
    /// Anywhere.
    Anywhere,
}

/// A socket that listens.
pub struct Listener {
    socket: TcpListener,
    local: SocketAddr,
    advertised: Address,
    mode: TlsMode,
    identity: Option<Arc<Identity>>,
    acceptor: Option<TlsAcceptor>,
    permits: Arc<Semaphore>,
}

/// A connection that speaks HTTP/2, or says it will.
pub struct Connection {
    stream: Stream,
    /// How much of the preface the server has read; it was taken from the stream before the server got it.
    preface_read: usize,
    peer: TcpConnectInfo,
    _permit: OwnedSemaphorePermit,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener")
            .field("local", &self.local)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("peer", &self.peer.remote_addr()).finish_non_exhaustive()
    }
}

impl Listener {
    /// Opens the listener that `config` describes.
    ///
    /// # Errors
    ///
    /// If the address is taken, refused, or beyond `reach`, or if the certificate cannot be used.
    pub async fn bind(config: &ListenerConfig, reach: Reach) -> Result<Self, ListenError> {
        let address = resolve(&config.address).await?;
        if reach == Reach::Loopback && !is_loopback(address.ip()) {
            return Err(ListenError::Insecure { address });
        }
        let identity = match (&config.identity, config.tls) {
            (_, TlsMode::Off) => None,
            (Some(files), _) => Some(Arc::new(Identity::of(files)?)),
            (None, _) => {
                tracing::debug!(%address, "no certificate is configured: one was made that proves nothing");
                Some(Arc::new(Identity::self_signed(names(config))?))
            }
        };
        let socket = listen(address).map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => ListenError::InUse { address },
            _ => ListenError::Bind { address, source },
        })?;
        let local = socket.local_addr().map_err(|source| ListenError::Bind { address, source })?;
        Ok(Self {
            socket,
            local,
            advertised: config.advertised.clone().unwrap_or_else(|| advertised(&config.address, local)),
            mode: config.tls,
            acceptor: identity.as_ref().map(Identity::acceptor),
            identity,
            permits: Arc::new(Semaphore::new(config.connections_max.get() as usize)),
        })
    }

    /// Returns where the socket listens, with the port that the system chose.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Returns where clients reach it.
    pub fn advertised(&self) -> &Address {
        &self.advertised
    }

    /// Returns how connections are protected.
    pub fn mode(&self) -> TlsMode {
        self.mode
    }

    /// Returns its certificate and key, if it takes TLS.
    pub fn identity(&self) -> Option<&Arc<Identity>> {
        self.identity.as_ref()
    }

    /// Returns the URI by which clients of this machine reach it.
    pub fn uri(&self) -> String {
        let scheme = if self.mode == TlsMode::On { "grpc+tls" } else { "grpc" };
        format!("{scheme}://{}", Address::from(self.local))
    }

    /// Returns the connections that clients open, for as long as the stream is held.
    pub fn connections(self) -> ReceiverStream<io::Result<Connection>> {
        let (sender, receiver) = mpsc::channel(ACCEPTED_MAX);
        tokio::spawn(self.accept(sender));
        ReceiverStream::new(receiver)
    }

    async fn accept(self, sender: mpsc::Sender<io::Result<Connection>>) {
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                () = sender.closed() => return,
            };
            match accepted {
                Ok((stream, peer)) => self.greet(stream, peer, &sender),
                Err(error) => {
                    tracing::warn!(%error, local = %self.local, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Lets a task of its own see what the client wants, so that a slow one holds up nobody.
    fn greet(&self, stream: TcpStream, peer: SocketAddr, sender: &mpsc::Sender<io::Result<Connection>>) {
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            tracing::warn!(%peer, local = %self.local, "turned away: too many connections are open");
            return;
        };
        let (mode, acceptor, sender) = (self.mode, self.acceptor.clone(), sender.clone());
        tokio::spawn(async move {
            match timeout(HELLO_TIMEOUT, hello(stream, mode, acceptor)).await {
                Ok(Ok((stream, peer))) => {
                    // A closed receiver means that the server is stopping.
                    let _ =
                        sender.send(Ok(Connection { stream, preface_read: 0, peer, _permit: permit })).await;
                }
                Ok(Err(error)) => tracing::debug!(%peer, %error, "turned away"),
                Err(_) => tracing::debug!(%peer, "turned away: silent for too long"),
            }
        });
    }
}

/// Tells TLS from plaintext, shakes hands, and hears the client say that it speaks HTTP/2.
async fn hello(
    mut stream: TcpStream,
    mode: TlsMode,
    acceptor: Option<TlsAcceptor>,
) -> io::Result<(Stream, TcpConnectInfo)> {
    stream.set_nodelay(true)?;
    let peer = stream.connect_info();
    match (acceptor, first_byte(&stream).await?, mode) {
        (Some(acceptor), TLS_HANDSHAKE, _) => {
            let mut stream = acceptor.accept(stream).await?;
            read_preface(&mut stream).await?;
            Ok((Stream::Tls(Box::new(stream)), peer))
        }
        (None, TLS_HANDSHAKE, _) => Err(io::Error::other("a TLS client on a plaintext port")),
        (_, _, TlsMode::On) => Err(io::Error::other("a plaintext client on a TLS port")),
        _ => {
            read_preface(&mut stream).await?;
            Ok((Stream::Plain(stream), peer))
        }
    }
}

async fn first_byte(stream: &TcpStream) -> io::Result<u8> {
    let mut byte = [0];
    match stream.peek(&mut byte).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(byte[0]),
    }
}

/// Reads the preface of HTTP/2, and turns away what opens otherwise as soon as it differs.
async fn read_preface<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> io::Result<()> {
    let mut seen = [0; PREFACE.len()];
    let mut filled = 0;
    while filled < PREFACE.len() {
        let read = stream.read(&mut seen[filled..]).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += read;
        if !PREFACE.starts_with(&seen[..filled]) {
            return refuse(stream, seen[0]).await;
        }
    }
    Ok(())
}

async fn refuse<S: AsyncWrite + Unpin>(stream: &mut S, first: u8) -> io::Result<()> {
    if !first.is_ascii_uppercase() {
        return Err(io::Error::other("neither HTTP/2 nor TLS"));
    }
    let answer = format!(
        "HTTP/1.1 426 Upgrade Required\r\nContent-Type: text/plain\r\nConnection: close\r\n\
         Content-Length: {}\r\n\r\n{HTTP1_ANSWER}",
        HTTP1_ANSWER.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    Err(io::Error::other("HTTP/1"))
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // So that a broker that is restarted need not wait for connections that are still being closed.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn resolve(address: &Address) -> Result<SocketAddr, ListenError> {
    let found = lookup_host((address.host.as_str(), address.port)).await;
    let source = match found.map(|mut found| found.next()) {
        Ok(Some(found)) => return Ok(found),
        Ok(None) => io::Error::other("the name has no address"),
        Err(source) => source,
    };
    Err(ListenError::Resolve { address: address.clone(), source })
}

fn is_loopback(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_loopback()),
    }
}

/// Returns the names that a certificate of our own is made for.
fn names(config: &ListenerConfig) -> Vec<String> {
    let hosts = [Some(&config.address), config.advertised.as_ref()];
    let mut names: Vec<String> = hosts.into_iter().flatten().map(|address| address.host.clone()).collect();
    names.extend(["localhost".to_owned(), host_name()]);
    names.sort_unstable();
    names.dedup();
    names
}

fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "localhost".to_owned() } else { name.trim().to_owned() }
}

/// Returns the address to advertise where none is configured: as configured, with the port that is open.
fn advertised(configured: &Address, local: SocketAddr) -> Address {
    if !local.ip().is_unspecified() {
        return Address::new(configured.host.clone(), local.port());
    }
    Address::new(host_name(), local.port())
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(rest) = PREFACE.get(self.preface_read..).filter(|rest| !rest.is_empty()) {
            let taken = rest.len().min(buffer.remaining());
            buffer.put_slice(&rest[..taken]);
            self.preface_read += taken;
            return Poll::Ready(Ok(()));
        }
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
