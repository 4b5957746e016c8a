//! Every bound of the log half, named with its unit, and how the bounds relate.

/// The largest record: message, properties, fields and header.
pub const RECORD_BYTES_MAX: u64 = 16 << 20;
/// The most that one call may append.
pub const BATCH_BYTES_MAX: u64 = 64 << 20;
/// When a frame holds so much, the appender closes it, even if more is waiting.
pub const FRAME_BYTES_TARGET: u64 = 1 << 20;
/// Publishers write what waits for the appender up to so many bytes of records themselves: some hundred messages, in less
/// than a millisecond.
pub const TURN_BYTES_MAX: u64 = 128 << 10;
/// When so much of the group journal waits for room on the disk, new entries are refused.
pub const JOURNAL_HELD_BYTES_MAX: u64 = 64 << 20;
/// The largest payload of a frame. Readers refuse longer ones before they allocate.
pub const FRAME_PAYLOAD_MAX: u64 = 160 << 20;
/// The longest message id.
pub const MESSAGE_ID_BYTES_MAX: usize = 255;
/// The longest name of a property, a namespace, a topic or a group.
pub const NAME_BYTES_MAX: usize = u16::MAX as usize;
/// The most properties of a message.
pub const PROPERTIES_MAX: usize = u16::MAX as usize;
/// The most queues of a topic.
pub const QUEUES_MAX: u32 = 65_536;
/// The largest JSON text of attributes.
pub const ATTRIBUTES_BYTES_MAX: usize = 1 << 20;

/// Bytes of the names of all properties of a topic whose kinds the catalogue keeps.
pub const PROPERTY_KINDS_BYTES_MAX: usize = 512 << 10;
/// The largest checkpoint file that a start reads.
pub const CHECKPOINT_BYTES_MAX: u64 = 1 << 30;

const _: () = assert!(TURN_BYTES_MAX <= FRAME_BYTES_TARGET, "one frame takes all of a turn");
const _: () = assert!(RECORD_BYTES_MAX <= BATCH_BYTES_MAX, "a batch of one record fits");
const _: () = assert!(
    2 * BATCH_BYTES_MAX + FRAME_BYTES_TARGET <= FRAME_PAYLOAD_MAX,
    "a frame below its target takes one more batch, with a topic record before every message"
);
const _: () = assert!(FRAME_PAYLOAD_MAX < u32::MAX as u64, "the payload's length has 32 bits");
