//! Transaction ids and recall handles: they name a pending row and the topic that it is for, are signed with the key of
//! the data directory, and so survive a restart. Both are 60 characters of base64url.
//!
//! ```text
//! version u8 │ topic u32 │ pending topic u32 │ queue u32 │ offset u64 │ zeros [8] │ tag [16]
//! ```

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use weir_storage::{PendingRow, QueueId, QueueOffset, TopicId};

use crate::{error::HandleFault, signing::Signer};

const VERSION: u8 = 1;
/// Characters of the longest text that may be a handle.
const TEXT_LEN_MAX: usize = 128;

/// What a handle is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Transaction,
    Recall,
}

impl Purpose {
    const fn text(self) -> &'static str {
        match self {
            Self::Transaction => "transaction",
            Self::Recall => "recall",
        }
    }
}

/// A pending row, and the topic that it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PendingHandle {
    pub(super) topic: TopicId,
    pub(super) row: PendingRow,
}

impl PendingHandle {
    pub(super) fn encode(&self, purpose: Purpose, signer: &Signer) -> String {
        let mut bytes = Vec::with_capacity(29);
        bytes.push(VERSION);
        bytes.extend(self.topic.0.to_le_bytes());
        bytes.extend(self.row.topic.0.to_le_bytes());
        bytes.extend(self.row.queue.0.to_le_bytes());
        bytes.extend(self.row.offset.0.to_le_bytes());
        bytes.extend([0; 8]);
        URL_SAFE_NO_PAD.encode(signer.sign(purpose.text(), &bytes))
    }

    pub(super) fn decode(text: &str, purpose: Purpose, signer: &Signer) -> Result<Self, HandleFault> {
        if text.len() > TEXT_LEN_MAX {
            return Err(HandleFault::Forged);
        }
        let signed = URL_SAFE_NO_PAD.decode(text).map_err(|_| HandleFault::Forged)?;
        let bytes = signer.verify(purpose.text(), &signed).ok_or(HandleFault::Forged)?;
        Self::read(bytes).ok_or(HandleFault::Forged)
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first()?;
        if *version != VERSION {
            return None;
        }
        let (topic, rest) = rest.split_first_chunk()?;
        let (pending, rest) = rest.split_first_chunk()?;
        let (queue, rest) = rest.split_first_chunk()?;
        let (offset, rest) = rest.split_first_chunk()?;
        let row = PendingRow {
            topic: TopicId(u32::from_le_bytes(*pending)),
            queue: QueueId(u32::from_le_bytes(*queue)),
            offset: QueueOffset(u64::from_le_bytes(*offset)),
        };
        (rest == [0; 8]).then_some(Self { topic: TopicId(u32::from_le_bytes(*topic)), row })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_good_for_one_purpose_and_no_other_text_is_one() {
        let signer = Signer::new([1; 32]);
        let row = PendingRow { topic: TopicId(9), queue: QueueId(22), offset: QueueOffset(1 << 40) };
        let handle = PendingHandle { topic: TopicId(u32::MAX), row };
        let text = handle.encode(Purpose::Recall, &signer);
        assert_eq!(PendingHandle::decode(&text, Purpose::Recall, &signer), Ok(handle));
        assert_eq!(PendingHandle::decode(&text, Purpose::Transaction, &signer), Err(HandleFault::Forged));
        let other = handle.encode(Purpose::Recall, &Signer::new([2; 32]));
        for wrong in ["", "x", &text[1..], &format!("{text}A"), &"A".repeat(1 << 20), &other, "ü"] {
            assert_eq!(PendingHandle::decode(wrong, Purpose::Recall, &signer), Err(HandleFault::Forged));
        }
    }
}
