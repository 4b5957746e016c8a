//! Receiving: redeliveries first, then the rows behind the cursor; or waiting for either.

use std::time::Duration;

use weir_filter::Selector;
use weir_storage::{QueueId, StoredMessage};

use crate::{
    broker::Broker,
    error::EngineError,
    name::{GroupName, TopicName},
};

/// What a member asks for.
#[derive(Clone, Debug)]
pub struct ReceiveRequest {
    /// The group.
    pub group: GroupName,
    /// The topic.
    pub topic: TopicName,
    /// One queue, or all of the topic.
    pub queue: Option<QueueId>,
    /// Which rows the member wants.
    pub selector: Selector,
    /// How many at most; 1 to 32.
    pub max_messages: usize,
    /// How long they are the member's.
    pub lease: LeaseTime,
    /// How long to wait for the first; at most 20 s.
    pub wait: Duration,
    /// Who asks: renewed leases live as long as this client does.
    pub client: String,
    /// Names this call, if the client retries it under the same name.
    pub attempt_id: Option<String>,
}

/// How long messages are their receiver's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseTime {
    /// So long; then they are delivered again.
    Fixed(Duration),
    /// 60 s, renewed while the client lives, 3 h at most.
    Renewed,
}

/// A message given to a member.
#[derive(Clone, Debug)]
pub struct Delivered {
    /// The message.
    pub message: StoredMessage,
    /// The number of this delivery to the group, from 1.
    pub attempt: u32,
    /// By this the member acknowledges it.
    pub handle: String,
    /// How long it is the member's.
    pub lease: Duration,
}

impl Broker {
    /// Returns the next messages for a member of a group, or none after `wait`.
    ///
    /// # Errors
    ///
    /// If there is no such topic, or the request breaks a limit.
    pub async fn receive(&self, request: ReceiveRequest) -> Result<Vec<Delivered>, EngineError> {
        todo!()
    }

    /// Marks messages as done for the group, and answers once that is durable by the topic's class.
    ///
    /// Returns one result a handle, in order. What is done already is done again without an error.
    pub async fn acknowledge(
        &self,
        group: &GroupName,
        topic: &TopicName,
        handles: &[String],
    ) -> Vec<Result<(), EngineError>> {
        todo!()
    }

    /// Delivers a message again after `after`, unless it is acknowledged by then; returns its new handle.
    ///
    /// # Errors
    ///
    /// If the handle is not valid, or `after` longer than 12 h.
    pub async fn change_invisible(
        &self,
        group: &GroupName,
        topic: &TopicName,
        handle: &str,
        after: Duration,
    ) -> Result<String, EngineError> {
        todo!()
    }

    /// Takes back messages that did not reach their receiver. Unknown handles are passed over.
    pub async fn give_back(&self, handles: &[String], after: Duration) {
        todo!()
    }

    /// Moves a message to the dead-letter topic of the group. What is done already is done again without an error.
    ///
    /// # Errors
    ///
    /// If the handle is not valid, or the copy cannot be stored.
    pub async fn forward_to_dead_letter(
        &self,
        group: &GroupName,
        topic: &TopicName,
        handle: &str,
    ) -> Result<(), EngineError> {
        todo!()
    }

    /// Notes a sign of life of a client.
    pub fn client_alive(&self, client: &str) {
        todo!()
    }

    /// Notes that a client is gone: its renewed leases end in a second, and it no longer holds a selector.
    pub fn client_gone(&self, client: &str) {
        todo!()
    }
}
