//! The demonstration: a broker, real data, and what can be done with it.
