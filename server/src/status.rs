//! Every error of ours becomes a status of each protocol here, in one `match` per protocol.
