//! What a client may ask for. Every bound of the broker stands here, with its unit.

use std::{ops::RangeInclusive, time::Duration};

/// Characters of a topic's name.
pub const TOPIC_NAME_CHARS_MAX: usize = 127;
/// Characters of a group's name.
pub const GROUP_NAME_CHARS_MAX: usize = 120;
/// Characters of a namespace.
pub const NAMESPACE_CHARS_MAX: usize = 64;
/// Bytes of a body as stored.
pub const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// User properties of a message.
pub const PROPERTIES_MAX: usize = 128;
/// UTF-8 bytes of all property names and values, tag and keys of a message.
pub const PROPERTIES_BYTES_MAX: usize = 16 * 1024;
/// Bytes of all messages of one publish call.
pub const BATCH_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Messages of one publish call.
pub const BATCH_MESSAGES_MAX: usize = 65_536;
/// UTF-8 bytes of a message group.
pub const MESSAGE_GROUP_BYTES_MAX: usize = 63;
/// UTF-8 bytes of a message id.
pub const MESSAGE_ID_BYTES_MAX: usize = 255;
/// Queues of a topic.
pub const QUEUES_MAX: u32 = 1024;
/// Topics of a broker.
pub const TOPICS_MAX: usize = 100_000;
/// Groups of a broker.
pub const GROUPS_MAX: usize = 100_000;
/// Messages of one receive.
pub const RECEIVE_MESSAGES_MAX: usize = 32;
/// The longest long poll.
pub const POLL_MAX: Duration = Duration::from_secs(20);
/// Receives of one group that wait on one topic with one selector.
pub const POLLS_MAX: usize = 16_384;
/// Pulls of messages that wait for one queue.
pub const PULLS_WAITING_MAX: usize = 1024;
/// Bytes of bodies behind which a receive, or a pull of messages, takes no further message.
pub const RECEIVE_BYTES_TARGET: usize = 32 << 20;
/// Bytes of messages that wait for readers who asked for them; then no further ones are read.
pub const ANSWERS_BYTES_MAX: usize = 512 << 20;
/// The same of one reader.
pub const ANSWERS_SHARE_BYTES_MAX: usize = 64 << 20;
/// UTF-8 bytes of a client's name, and of the name of a receive.
pub const CLIENT_BYTES_MAX: usize = 255;
/// UTF-8 bytes of each further text of a message: host, producer group, trace context.
pub const FIELD_BYTES_MAX: usize = 4096;
/// The longest lease.
pub const LEASE_MAX: Duration = Duration::from_secs(12 * 60 * 60);
/// The shortest lease, unless the group allows less.
pub const LEASE_MIN: Duration = Duration::from_secs(10);
/// The priority factor of a group in which every receive looks at the highest priority first, in percent.
pub const PRIORITY_FACTOR_MAX: u8 = 100;
/// UTF-8 bytes of the name of a lite topic.
pub const LITE_TOPIC_BYTES_MAX: usize = 64;
/// Lite topics that one client of a group may subscribe to, by default.
pub const LITE_QUOTA_DEFAULT: u32 = 1200;
/// The most that a group may allow.
pub const LITE_QUOTA_MAX: u32 = 10_000;
/// So many lite topics more a client may name before it is refused: it keeps count by itself.
pub const LITE_QUOTA_TOLERANCE: usize = 300;
/// Lite topics that the clients of a broker may subscribe to, those of each client counted.
pub const LITE_SUBSCRIPTIONS_MAX: usize = 1 << 20;
/// Lite topics in which one group may stand somewhere, whether or not a client subscribes to them.
pub const LITE_POSITIONS_MAX: usize = 1 << 17;
/// Blocks of rows that are looked at, for all lite topics of one call together, to find where so many messages before
/// the first that is not done begin.
pub const LITE_TAIL_BLOCKS_MAX: usize = 4096;
/// Rows of one queue that a group which reads lite topics may have leased or waiting for redelivery.
pub const LITE_OPEN_ROWS_MAX: usize = 16_384;
/// Selectors that one group may hold on one topic at a time.
pub const SELECTORS_MAX: usize = 8;
/// Rows of one queue that a group may have leased or waiting for redelivery; then the queue waits.
pub const OPEN_ROWS_MAX: usize = 4096;
/// Rows that wait for the receives of one selector on one queue after they were judged with those of all groups.
pub const READY_ROWS_MAX: usize = 1024;
/// How long a row waits for a live selector that matches it before it is dropped and counted.
pub const ORPHAN_AFTER: Duration = Duration::from_secs(120);
/// How long a renewed lease lives at most.
pub const LEASE_RENEWED_MAX: Duration = Duration::from_secs(3 * 60 * 60);
/// How long a renewed lease outlives its client, and how long a message waits that did not reach its receiver.
pub const LEASE_OF_GONE: Duration = Duration::from_secs(1);
/// How long a client is taken to be alive after its last sign of life.
pub const CLIENT_ALIVE: Duration = Duration::from_secs(120);

/// How far ahead a delivery time may lie.
pub const DELAY_MAX: Duration = Duration::from_secs(40 * 24 * 60 * 60);
/// How long after a half message its producer is asked about it, unless the message says otherwise.
pub const TRANSACTION_CHECK_FIRST: Duration = Duration::from_secs(6);
/// The longest time that a message may say otherwise.
pub const TRANSACTION_RECOVERY_MAX: Duration = Duration::from_secs(60 * 60);
/// How long after a question about a transaction the next one follows.
pub const TRANSACTION_CHECK_INTERVAL: Duration = Duration::from_secs(30);
/// Questions about a transaction, counted since the start of the broker; then it is given up.
pub const TRANSACTION_CHECKS_MAX: u32 = 15;
/// How old a half message becomes before it is given up, whoever could be asked about it.
pub const HALF_KEPT_MAX: Duration = Duration::from_secs(72 * 60 * 60);

/// UTF-8 bytes of a SQL statement.
pub const SQL_BYTES_MAX: usize = 64 * 1024;
/// Tokens of a SQL statement, blanks and comments not counted.
pub const SQL_TOKENS_MAX: usize = 8192;
/// How deep parentheses, subqueries and the like may nest in a SQL statement.
pub const SQL_DEPTH_MAX: usize = 64;
/// How deep `CAST(` and its like, square and curly brackets may nest in a SQL statement.
pub const SQL_COSTLY_DEPTH_MAX: usize = 6;
/// Parameters of a SQL statement.
pub const SQL_PARAMETERS_MAX: usize = 1024;
/// Operators, function calls and SELECTs of a SQL statement, a common table expression counted as often as it
/// is named. The time of planning grows with the square of it.
pub const SQL_OPERATORS_MAX: usize = 512;
/// The same when the planner has written out what names stand for, some of it twice.
pub const SQL_PLAN_OPERATORS_MAX: usize = 2048;
/// Tables of a SQL statement, a common table expression counted as often as it is named.
pub const SQL_TABLES_MAX: usize = 64;
/// Columns of all tables that a SQL statement names.
pub const SQL_COLUMNS_MAX: usize = 32_768;
/// Columns of all tables that a SQL statement names, times the `*` of its select lists. The time of planning
/// grows with the square of it. One `*` over the widest topic is less.
pub const SQL_STAR_COLUMNS_MAX: usize = 5000;
/// Grouping sets of a GROUP BY; each row is taken once for each of them.
pub const SQL_GROUPING_SETS_MAX: usize = 256;
/// UTF-8 bytes of a pattern (LIKE, regular expressions, formats of times) in a SQL statement.
pub const SQL_PATTERN_BYTES_MAX: usize = 1024;
/// UTF-8 bytes that `||` or `concat` makes of the rows of one batch, up to 8,192.
pub const SQL_CONCAT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes of what is kept for counting what waits for groups: the matches of blocks, and whose they are.
pub const COUNTED_BYTES_MAX: usize = 16 << 20;
/// Counts of what waits for groups that are under way.
pub const COUNTS_MAX: usize = 4;
/// How long rows are judged to explain, try or compare selectors.
pub const EXAMINE_TIME_MAX: Duration = Duration::from_secs(30);
/// Messages that one trace tells of.
pub const TRACE_MESSAGES_MAX: usize = 100;
/// How long a message to be traced is looked for, and how long the group journal is read for it.
pub const TRACE_TIME_MAX: Duration = Duration::from_secs(10 * 60);
/// Bytes of the id or key of a message to be traced.
pub const TRACE_NAME_BYTES_MAX: usize = 16 * 1024;
/// Groups of all messages of a trace together that it tells of.
pub const TRACE_GROUPS_MAX: usize = 2000;
/// Events of one message in one group that a trace tells of, the newest.
pub const TRACE_EVENTS_OF_GROUP_MAX: usize = 100;
/// Events that a trace keeps in all, beside the last of each message in each group.
pub const TRACE_EVENTS_MAX: usize = 20_000;
/// Keys, and names of properties, of a message that a trace tells.
pub const TRACE_LIST_MAX: usize = 64;
/// About how many bytes a trace tells; what groups have to say beyond that is left out, and counted.
pub const TRACE_ANSWER_BYTES_MAX: usize = 16 << 20;
/// Characters of a selector that a trace tells.
pub const TRACE_SELECTOR_CHARS_MAX: usize = 1000;
/// How long a SQL statement may be planned.
pub const SQL_PLAN_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a SQL query may take, its reading by the client included.
pub const QUERY_TIME_MAX: Duration = Duration::from_secs(10 * 60);
/// How long a SQL query waits for its turn.
pub const QUERY_WAIT_MAX: Duration = Duration::from_secs(30);

/// Accounts that a broker lets in.
pub const ACCOUNTS_MAX: usize = 10_000;
/// Bytes of the name of an account.
pub const ACCOUNT_NAME_BYTES_MAX: usize = 128;
/// Bytes of the secret of an account.
pub const ACCOUNT_SECRET_BYTES: RangeInclusive<usize> = 8..=1024;

/// Queues of a topic whose creator names no number.
pub const QUEUES_DEFAULT: u32 = 4;
/// How long rows are retained by default.
pub const RETENTION_DEFAULT: Duration = Duration::from_secs(72 * 60 * 60);
/// How much longer rows are retained that a group still needs, by default.
pub const RETENTION_HOLD_DEFAULT: Duration = Duration::from_secs(24 * 60 * 60);
/// Rows end before their time while more than this share of the disk is in use, in percent.
pub const RETENTION_DISK_PERCENT_DEFAULT: u8 = 90;
/// How often a message is delivered before it goes to the dead-letter topic: once, and 16 times more.
pub const ATTEMPTS_DEFAULT: u32 = 17;
/// A lease whose client names no length.
pub const LEASE_DEFAULT: Duration = Duration::from_secs(60);
