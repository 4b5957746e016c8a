//! Receipt handles: by these a member says which delivery it speaks of.
//!
//! A handle names group, topic, queue, offset and lease, is signed with the key of the data directory, and
//! so survives a restart. It is 66 characters of base64url.
//!
//! ```text
//! version u8 │ group u32 │ topic u32 │ queue u32 │ offset u64 │ lease u64 │ epoch u32 │ tag [16]
//! ```

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use weir_storage::{Epoch, GroupId, QueueId, QueueOffset, TopicId};

use crate::{error::HandleFault, signing::Signer};

const VERSION: u8 = 1;
const PURPOSE: &str = "receipt handle";
/// Characters of the longest text that may be a handle.
const TEXT_LEN_MAX: usize = 128;

/// One delivery of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Handle {
    pub(crate) group: GroupId,
    pub(crate) topic: TopicId,
    pub(crate) queue: QueueId,
    pub(crate) offset: QueueOffset,
    pub(crate) lease: u64,
    pub(crate) epoch: Epoch,
}

impl Handle {
    pub(crate) fn encode(&self, signer: &Signer) -> String {
        let mut bytes = Vec::with_capacity(33);
        bytes.push(VERSION);
        bytes.extend(self.group.0.to_le_bytes());
        bytes.extend(self.topic.0.to_le_bytes());
        bytes.extend(self.queue.0.to_le_bytes());
        bytes.extend(self.offset.0.to_le_bytes());
        bytes.extend(self.lease.to_le_bytes());
        bytes.extend(self.epoch.0.to_le_bytes());
        URL_SAFE_NO_PAD.encode(signer.sign(PURPOSE, &bytes))
    }

    pub(crate) fn decode(text: &str, signer: &Signer) -> Result<Self, HandleFault> {
        if text.len() > TEXT_LEN_MAX {
            return Err(HandleFault::Forged);
        }
        let signed = URL_SAFE_NO_PAD.decode(text).map_err(|_| HandleFault::Forged)?;
        let bytes = signer.verify(PURPOSE, &signed).ok_or(HandleFault::Forged)?;
        Self::read(bytes).ok_or(HandleFault::Forged)
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first()?;
        if *version != VERSION {
            return None;
        }
        let (group, rest) = rest.split_first_chunk()?;
        let (topic, rest) = rest.split_first_chunk()?;
        let (queue, rest) = rest.split_first_chunk()?;
        let (offset, rest) = rest.split_first_chunk()?;
        let (lease, rest) = rest.split_first_chunk()?;
        let (epoch, rest) = rest.split_first_chunk()?;
        rest.is_empty().then(|| Self {
            group: GroupId(u32::from_le_bytes(*group)),
            topic: TopicId(u32::from_le_bytes(*topic)),
            queue: QueueId(u32::from_le_bytes(*queue)),
            offset: QueueOffset(u64::from_le_bytes(*offset)),
            lease: u64::from_le_bytes(*lease),
            epoch: Epoch(u32::from_le_bytes(*epoch)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_survives_its_text_and_no_other_text_is_one() {
        let signer = Signer::new([1; 32]);
        let handle = Handle {
            group: GroupId(3),
            topic: TopicId(u32::MAX),
            queue: QueueId(7),
            offset: QueueOffset(1 << 40),
            lease: u64::MAX,
            epoch: Epoch(2),
        };
        let text = handle.encode(&signer);
        assert_eq!(text.len(), 66);
        assert_eq!(Handle::decode(&text, &signer), Ok(handle));
        let other = handle.encode(&Signer::new([2; 32]));
        for wrong in
            ["", "x", &text[1..], &format!("{text}A"), &"A".repeat(66), &"A".repeat(1 << 20), &other, "ü"]
        {
            assert_eq!(Handle::decode(wrong, &signer), Err(HandleFault::Forged));
        }
    }
}
