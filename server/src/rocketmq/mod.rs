//! The RocketMQ v2 gRPC protocol, one file per call.
