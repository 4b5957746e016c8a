//! The real binary and the real protocols, as a user meets them: one module per behaviour.

mod flight;
mod rocketmq;
