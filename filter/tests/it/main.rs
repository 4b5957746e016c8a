//! The behaviour of selectors, a module per question.

mod grammar;
mod hostile;
mod pruning;
mod random;
mod truth;
