//! What is remembered of clients, by their id: what they are and which telemetry streams they hold open.
//!
//! A client is not its connection. It may hold several telemetry streams and lose some of them; it is forgotten
//! when it says good-bye, or when it holds no stream and gave no sign of life for two minutes. Nothing that a
//! client asks for depends on its being remembered.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::{
    Notify,
    mpsc::{Sender, WeakSender},
};
use weir_engine::{AnswerShare, Readiness, TopicName, limits::CLIENT_ALIVE};

use super::{
    caller::{Caller, Language},
    convert::topic_name,
    proto::{ClientType, Code, Settings, TelemetryCommand, settings::PubSub, telemetry_command::Command},
    refusal::Refusal,
};

/// Clients that are remembered at a time.
const CLIENTS_MAX: usize = 10_000;

/// Telemetry streams that one client holds open at a time; the oldest gives way.
const STREAMS_MAX: usize = 8;

/// Receives and pulls of one client that wait, or whose answers it has not taken yet.
const POLLS_MAX: usize = 1024;

/// Topics of one producer that are remembered, so that it can be asked about its transactions.
const TOPICS_MAX: usize = 1024;

/// A producer is asked nothing while so many commands wait in its telemetry stream.
const QUESTIONS_WAITING_MAX: usize = 2;

/// How often clients are looked through for those that are gone.
const SWEEP_INTERVAL: Duration = Duration::from_secs(30);

/// How long after a route the settings are sent once more to clients that need it.
const PUSH_AFTER_ROUTE: Duration = Duration::from_millis(100);

/// The age of a telemetry stream up to which a route makes its client start up.
const STARTUP_MAX: Duration = Duration::from_secs(10);

/// What goes down a telemetry stream.
pub(super) type Sent = Result<TelemetryCommand, tonic::Status>;

/// All clients that are remembered.
#[derive(Debug)]
pub(super) struct Sessions {
    clients: Mutex<Clients>,
    /// Which producer is asked next.
    turn: AtomicUsize,
}

#[derive(Debug)]
struct Clients {
    by_id: HashMap<String, Arc<Session>>,
    swept: Instant,
}

/// One client.
#[derive(Debug)]
pub(super) struct Session {
    polls: AtomicUsize,
    /// Messages that the client has not taken yet.
    answers: AnswerShare,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    client_type: ClientType,
    seen: Instant,
    request_timeout: Option<Duration>,
    /// The settings as they were answered; only kept for clients that must be sent them again.
    settings: Option<Settings>,
    /// The topics that it sends to, as its settings say, and its messages.
    produces: BTreeSet<TopicName>,
    /// Newest last.
    streams: Vec<OpenStream>,
    streams_opened: u64,
    /// When the settings are to be sent again, while somebody is waiting to do it.
    push_at: Option<Instant>,
}

#[derive(Debug)]
struct OpenStream {
    number: u64,
    opened: Instant,
    commands: WeakSender<Sent>,
    close: Arc<Notify>,
}

/// A telemetry stream of a client, known to its session until it is dropped.
#[derive(Debug)]
pub(super) struct Registration {
    session: Arc<Session>,
    number: u64,
    close: Arc<Notify>,
}

/// A receive that waits.
#[derive(Debug)]
pub(super) struct Poll(Arc<Session>);

impl Poll {
    /// Returns what counts the messages that wait for this client.
    pub(super) fn share(&self) -> &AnswerShare {
        &self.0.answers
    }
}

impl Default for Sessions {
    fn default() -> Self {
        let clients = Mutex::new(Clients { by_id: HashMap::new(), swept: Instant::now() });
        Self { clients, turn: AtomicUsize::new(0) }
    }
}

impl Sessions {
    /// Returns the session of the caller, who has just given a sign of life.
    pub(super) fn enter(&self, caller: &Caller) -> Result<Arc<Session>, Refusal> {
        let mut clients = self.clients.lock();
        clients.sweep(SWEEP_INTERVAL);
        if let Some(session) = clients.by_id.get(&caller.client) {
            session.state.lock().seen = Instant::now();
            return Ok(Arc::clone(session));
        }
        if clients.by_id.len() >= CLIENTS_MAX {
            let text = format!("the broker serves {CLIENTS_MAX} clients already");
            return Err(Refusal::new(Code::TooManyRequests, text));
        }
        let session = Arc::new(Session::new());
        clients.by_id.insert(caller.client.clone(), Arc::clone(&session));
        Ok(session)
    }

    /// Returns what the client with this id is, as far as it has said so.
    pub(super) fn client_type(&self, client: &str) -> ClientType {
        self.get(client).map_or(ClientType::Unspecified, |session| session.state.lock().client_type)
    }

    /// Returns how long the client with this id waits for the answer to a call, if it has said so.
    pub(super) fn request_timeout(&self, client: &str) -> Option<Duration> {
        self.get(client)?.state.lock().request_timeout
    }

    /// Notes that the caller was told a route.
    ///
    /// The Node client up to 1.0.8 never starts up if the last of its routes comes after its settings, unless
    /// settings come once more after it.
    pub(super) fn routed(&self, caller: &Caller) {
        if caller.language != Language::Node {
            return;
        }
        if let Ok(session) = self.enter(caller) {
            session.push_settings_soon();
        }
    }

    /// Returns whether a live client that sends to a topic can be sent a question.
    pub(super) fn readiness(&self, topic: &TopicName) -> Readiness {
        let producers = self.producers(topic);
        match producers.iter().any(has_room) {
            true => Readiness::Ready,
            false if producers.is_empty() => Readiness::Nobody,
            false => Readiness::Busy,
        }
    }

    /// Sends a question to a live client that sends to a topic, another one each time. Returns whether there was one with
    /// room for it.
    pub(super) fn tell_producer(&self, topic: &TopicName, command: impl Fn() -> TelemetryCommand) -> bool {
        let producers = self.producers(topic);
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % producers.len().max(1);
        let (before, from) = producers.split_at(first);
        from.iter().chain(before).any(|commands| {
            let permit = if has_room(commands) { commands.try_reserve().ok() } else { None };
            permit.map(|permit| permit.send(Ok(command()))).is_some()
        })
    }

    fn producers(&self, topic: &TopicName) -> Vec<Sender<Sent>> {
        let sessions: Vec<Arc<Session>> = self.clients.lock().by_id.values().cloned().collect();
        sessions.iter().filter_map(|session| session.producer_of(topic)).collect()
    }

    /// Sends a command to a client, over its newest stream that it reads. Returns whether there was one with room.
    pub(super) fn tell(&self, client: &str, command: TelemetryCommand) -> bool {
        let Some(session) = self.get(client) else { return false };
        let commands = session.commands();
        commands.is_some_and(|commands| commands.try_send(Ok(command)).is_ok())
    }

    /// Forgets a client and ends its telemetry streams.
    pub(super) fn leave(&self, client: &str) {
        let session = self.clients.lock().by_id.remove(client);
        for stream in session.iter().flat_map(|session| std::mem::take(&mut session.state.lock().streams)) {
            stream.close.notify_one();
        }
    }

    fn get(&self, client: &str) -> Option<Arc<Session>> {
        self.clients.lock().by_id.get(client).map(Arc::clone)
    }
}

/// Returns whether one more question may wait in a stream. Each may hold a large body; what else is to be told needs room,
/// too.
fn has_room(commands: &Sender<Sent>) -> bool {
    !commands.is_closed()
        && commands.max_capacity().saturating_sub(commands.capacity()) < QUESTIONS_WAITING_MAX
}

impl Clients {
    fn sweep(&mut self, interval: Duration) {
        if self.swept.elapsed() >= interval {
            self.by_id.retain(|_, session| session.is_alive());
            self.swept = Instant::now();
        }
    }
}

impl State {
    fn produce(&mut self, topic: TopicName) {
        if self.produces.len() < TOPICS_MAX {
            self.produces.insert(topic);
        }
    }
}

impl Session {
    fn new() -> Self {
        let state = State {
            client_type: ClientType::Unspecified,
            seen: Instant::now(),
            request_timeout: None,
            settings: None,
            produces: BTreeSet::new(),
            streams: Vec::new(),
            streams_opened: 0,
            push_at: None,
        };
        Self { polls: AtomicUsize::new(0), answers: AnswerShare::default(), state: Mutex::new(state) }
    }

    /// Notes what the client says that it is, and returns what it is known to be.
    pub(super) fn meet(&self, claimed: ClientType) -> ClientType {
        let mut state = self.state.lock();
        if claimed != ClientType::Unspecified {
            state.client_type = claimed;
        }
        state.client_type
    }

    /// Keeps of the settings, as they were answered, what is needed later.
    pub(super) fn keep(&self, caller: &Caller, settings: &Settings, request_timeout: Option<Duration>) {
        self.meet(settings.client_type());
        let mut state = self.state.lock();
        if let Some(PubSub::Publishing(publishing)) = &settings.pub_sub {
            // Names that are not allowed have been refused.
            let topics = publishing.topics.iter().filter_map(|topic| topic_name(Some(topic), caller).ok());
            topics.for_each(|topic| state.produce(topic));
        }
        state.request_timeout = request_timeout;
        if caller.language == Language::Node {
            state.settings = Some(settings.clone());
        }
    }

    /// Notes that the client sends to a topic.
    pub(super) fn sends_to(&self, topic: &TopicName) {
        self.state.lock().produce(topic.clone());
    }

    /// Returns where commands go if the client sends to a topic and reads them: its newest stream.
    fn producer_of(&self, topic: &TopicName) -> Option<Sender<Sent>> {
        if !self.state.lock().produces.contains(topic) {
            return None;
        }
        self.commands()
    }

    /// Returns where commands go: its newest stream.
    fn commands(&self) -> Option<Sender<Sent>> {
        self.state.lock().streams.iter().rev().find_map(|stream| stream.commands.upgrade())
    }

    /// Registers a telemetry stream, whose commands go to `commands`.
    pub(super) fn register(self: &Arc<Self>, commands: &Sender<Sent>) -> Registration {
        let mut state = self.state.lock();
        if state.streams.len() >= STREAMS_MAX {
            state.streams.remove(0).close.notify_one();
        }
        let number = state.streams_opened;
        let close = Arc::new(Notify::new());
        state.streams_opened += 1;
        state.streams.push(OpenStream {
            number,
            opened: Instant::now(),
            commands: commands.downgrade(),
            close: Arc::clone(&close),
        });
        Registration { session: Arc::clone(self), number, close }
    }

    /// Notes a receive or pull that begins to wait.
    pub(super) fn poll(self: &Arc<Self>) -> Result<Poll, Refusal> {
        let poll = Poll(Arc::clone(self));
        if self.polls.fetch_add(1, Ordering::Relaxed) >= POLLS_MAX {
            let text = format!("{POLLS_MAX} receives of this client are waiting already");
            return Err(Refusal::new(Code::TooManyRequests, text));
        }
        Ok(poll)
    }

    fn is_alive(&self) -> bool {
        let state = self.state.lock();
        !state.streams.is_empty() || state.seen.elapsed() < CLIENT_ALIVE
    }

    fn push_settings_soon(self: Arc<Self>) {
        let already_waiting = self.state.lock().push_at.replace(Instant::now() + PUSH_AFTER_ROUTE).is_some();
        if !already_waiting {
            tokio::spawn(self.push_settings());
        }
    }

    async fn push_settings(self: Arc<Self>) {
        loop {
            let due = self.state.lock().push_at.filter(|at| *at > Instant::now());
            let Some(at) = due else { break };
            tokio::time::sleep_until(at.into()).await;
        }
        let (settings, starting) = {
            let mut state = self.state.lock();
            state.push_at = None;
            let starting = state.streams.iter().filter(|stream| stream.opened.elapsed() < STARTUP_MAX);
            (
                state.settings.clone(),
                starting.filter_map(|stream| stream.commands.upgrade()).collect::<Vec<_>>(),
            )
        };
        let Some(settings) = settings else { return };
        for commands in starting {
            // A stream whose client reads nothing has settings enough waiting.
            let _ = commands.try_send(Ok(settings_command(settings.clone())));
        }
    }
}

/// Returns the command that tells a client its settings.
pub(super) fn settings_command(settings: Settings) -> TelemetryCommand {
    let status = super::proto::Status { code: Code::Ok.into(), message: String::new() };
    TelemetryCommand { status: Some(status), command: Some(Command::Settings(settings)) }
}

impl Registration {
    /// Returns the session that the stream belongs to.
    pub(super) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Resolves when the stream is to be ended by us.
    pub(super) async fn closed(&self) {
        self.close.notified().await;
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut state = self.session.state.lock();
        state.streams.retain(|stream| stream.number != self.number);
        state.seen = Instant::now();
    }
}

impl Drop for Poll {
    fn drop(&mut self) {
        self.0.polls.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;
    use tonic::Request;

    use super::*;

    #[test]
    fn a_client_survives_one_of_its_streams_and_not_its_good_bye() {
        let sessions = Sessions::default();
        let session = sessions.enter(&caller("a")).unwrap();
        let (sender, _receiver) = mpsc::channel(1);
        let first = session.register(&sender);
        let second = session.register(&sender);
        drop(first);
        assert_eq!(session.state.lock().streams.len(), 1);
        assert_eq!(session.meet(ClientType::Producer), ClientType::Producer);
        assert_eq!(sessions.client_type("a"), ClientType::Producer);
        sessions.leave("a");
        assert_eq!(sessions.client_type("a"), ClientType::Unspecified);
        drop(second);
    }

    #[test]
    fn clients_without_a_stream_are_forgotten_in_time_and_their_number_is_bounded() {
        let sessions = Sessions::default();
        for number in 0..CLIENTS_MAX {
            sessions.enter(&caller(&number.to_string())).unwrap();
        }
        assert!(sessions.enter(&caller("one too many")).is_err());
        let long_ago = Instant::now().checked_sub(CLIENT_ALIVE).expect("the machine is up for minutes");
        sessions.enter(&caller("5")).unwrap().state.lock().seen = long_ago;
        sessions.clients.lock().sweep(Duration::ZERO);
        assert_eq!(sessions.clients.lock().by_id.len(), CLIENTS_MAX - 1);
        sessions.enter(&caller("one more")).unwrap();
    }

    #[test]
    fn the_oldest_stream_of_a_client_gives_way() {
        let sessions = Sessions::default();
        let session = sessions.enter(&caller("a")).unwrap();
        let (sender, _receiver) = mpsc::channel(1);
        let streams: Vec<_> = (0..=STREAMS_MAX).map(|_| session.register(&sender)).collect();
        let closed = |stream: &Registration| {
            let mut closed = Box::pin(stream.close.notified());
            closed.as_mut().enable()
        };
        assert!(closed(&streams[0]));
        assert!(!closed(&streams[1]));
        assert_eq!(session.state.lock().streams.len(), STREAMS_MAX);
    }

    #[test]
    fn questions_that_a_producer_does_not_read_are_few_and_no_more_are_made() {
        let sessions = Sessions::default();
        let session = sessions.enter(&caller("a")).unwrap();
        let topic: TopicName = "t".parse().unwrap();
        session.sends_to(&topic);
        let (sender, mut receiver) = mpsc::channel(16);
        let _stream = session.register(&sender);
        let made = AtomicUsize::new(0);
        let tell = || {
            sessions.tell_producer(&topic, || {
                made.fetch_add(1, Ordering::Relaxed);
                TelemetryCommand::default()
            })
        };
        assert_eq!([tell(), tell(), tell()], [true, true, false]);
        assert_eq!(made.load(Ordering::Relaxed), 2);
        assert!(receiver.try_recv().is_ok());
        assert!(tell());
    }

    #[test]
    fn waiting_receives_of_a_client_are_bounded() {
        let sessions = Sessions::default();
        let session = sessions.enter(&caller("a")).unwrap();
        let polls: Vec<_> = (0..POLLS_MAX).map(|_| session.poll().unwrap()).collect();
        assert!(session.poll().is_err());
        drop(polls);
        assert!(session.poll().is_ok());
    }

    fn caller(client: &str) -> Caller {
        let mut request = Request::new(());
        request.metadata_mut().insert("x-mq-client-id", client.parse().unwrap());
        Caller::of(&request)
    }
}
