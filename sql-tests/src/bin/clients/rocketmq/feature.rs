//! The features that are checked: the rows of the table; and what is known of clients.

/// A feature: a row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Feature {
    Normal,
    Fifo,
    Simple,
    Push,
    Sql,
    Tags,
    Delayed,
    Recall,
    Transactions,
    LiteSimple,
    LitePush,
    FifoRetry,
    SimpleDead,
    PushDead,
    FifoDead,
    Restart,
    Plaintext,
    Tls,
}

/// What is known of a feature of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// The client does not have it.
    NotOffered(&'static str),
    /// It does not work, because of the client. The check runs, and must fail.
    Defect(&'static str),
    /// It works, in a way that a user should know.
    Note(&'static str),
}

impl Known {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::NotOffered(text) | Self::Defect(text) | Self::Note(text) => text,
        }
    }
}

impl Feature {
    pub(super) const ALL: [Self; 18] = [
        Self::Normal,
        Self::Fifo,
        Self::Simple,
        Self::Push,
        Self::Sql,
        Self::Tags,
        Self::Delayed,
        Self::Recall,
        Self::Transactions,
        Self::LiteSimple,
        Self::LitePush,
        Self::FifoRetry,
        Self::SimpleDead,
        Self::PushDead,
        Self::FifoDead,
        Self::Restart,
        Self::Plaintext,
        Self::Tls,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Normal => "producer, NORMAL messages",
            Self::Fifo => "producer, FIFO messages",
            Self::Simple => "simple consumer",
            Self::Push => "push consumer",
            Self::Sql => "SQL filter",
            Self::Tags => "TAG filter",
            Self::Delayed => "delayed messages",
            Self::Recall => "recall of delayed messages",
            Self::Transactions => "transactional messages",
            Self::LiteSimple => "lite topics, simple consumer",
            Self::LitePush => "lite topics, push consumer",
            Self::FifoRetry => "order of FIFO messages that fail",
            Self::SimpleDead => "dead letters of a simple consumer",
            Self::PushDead => "dead letters of a push consumer",
            Self::FifoDead => "dead letters of a FIFO push consumer",
            Self::Restart => "crash of the broker",
            Self::Plaintext => "without TLS",
            Self::Tls => "with TLS",
        }
    }

    /// What the check does, for the page.
    pub(super) fn about(self) -> &'static str {
        match self {
            Self::Normal => "300 messages with body, tag, key and properties are sent; SQL finds them all",
            Self::Fifo => {
                "messages of 7 message groups are sent; a FIFO group of a simple consumer receives them in order \
                 within each"
            }
            Self::Simple => "receives all of them, each once and as it was sent, and acknowledges them",
            Self::Push => "the same",
            Self::Sql => {
                "each kind of consumer receives what a selector with strings, numbers and NULL is true for"
            }
            Self::Tags => "each kind of consumer receives what has one of two of the three tags",
            Self::Delayed => {
                "messages are sent with a delivery time three seconds ahead; all are received, each once and as it was \
                 sent, and the store times say that none became visible at once"
            }
            Self::Recall => "messages with such a delivery time are recalled; none of them is ever visible",
            Self::Transactions => {
                "messages are sent in transactions that are committed, rolled back, or left to the broker's question \
                 and then committed or rolled back; what was committed is received, each once, and nothing else is ever \
                 visible; the store times of what was asked about are behind the question"
            }
            Self::LiteSimple => {
                "messages of 6 lite topics are sent; a consumer that subscribes to three of them gets what was sent from then \
                 on, each once and in order within each, and another one goes on with what was sent while there was none"
            }
            Self::LitePush => "the same with a push consumer, whose listener fails for some messages",
            Self::FifoRetry => {
                "FIFO messages are received by a push consumer whose listener fails for some of them: they are tried \
                 again before the next one of their message group comes"
            }
            Self::SimpleDead => {
                "gives some messages back at once (ChangeInvisibleDuration), comes to the limit of attempts, and \
                 finds them in `%DLQ%<group>`"
            }
            Self::PushDead => "the listener fails for some messages until they are in `%DLQ%<group>`",
            Self::FifoDead => "the same in a FIFO group, where the client forwards them",
            Self::Restart => {
                "a producer and each kind of consumer are at work while the broker is killed and starts again at the \
                 same address; they go on by themselves, all is sent and received, and what a simple consumer has \
                 acknowledged does not come again"
            }
            Self::Plaintext => "sends and receives on a port that takes both",
            Self::Tls => {
                "the same with TLS; the broker's certificate is self-signed, and clients that verify it refuse it until \
                 they are told to trust it"
            }
        }
    }

    /// Returns what is known of the feature of a client.
    pub(super) fn known(self, client: &str) -> Option<Known> {
        const TRUSTS_ANYONE: Known = Known::Note("accepts every certificate; there is no setting");
        const ROOTS: Known = Known::Note(
            "verifies the certificate; authorities other than those of the system are named by the variable \
             `GRPC_DEFAULT_SSL_ROOTS_FILE_PATH`",
        );
        Some(match (self, client) {
            (Self::Tls, "java-newest" | "java-oldest") => TRUSTS_ANYONE,
            (Self::Tls, "go") => Known::Note("accepts every certificate; a `tls.Config` cannot be handed in"),
            (Self::Tls, "python" | "node") => ROOTS,
            (Self::Tls, "rust") => Known::Defect("the client installs no TLS configuration"),
            (Self::FifoRetry, "go") => Known::Note(
                "the client goes on with the next message of a message group though the listener has failed for one; \
                 the broker gives it one of each message group at a time",
            ),
            (Self::LiteSimple | Self::LitePush, "java-oldest" | "rust") => {
                Known::NotOffered("the client has no lite topics")
            }
            (Self::LiteSimple, "java-newest" | "go" | "node") => {
                Known::NotOffered("the client has no simple consumer for lite topics")
            }
            (Self::Recall, "java-oldest" | "rust") => Known::NotOffered("the client has no RecallMessage"),
            (Self::Push | Self::FifoRetry | Self::PushDead | Self::FifoDead, "rust") => {
                Known::NotOffered("the client has no push consumer")
            }
            (Self::SimpleDead, "rust") => Known::Note(
                "the client has no ChangeInvisibleDuration; what it does not acknowledge comes again when its lease \
                 has ended",
            ),
            _ => return None,
        })
    }
}
