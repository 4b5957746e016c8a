//! Compiles the protocol definitions to Rust, without protoc.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(["proto/rocketmq.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .emit_rerun_if_changed(false)
        .bytes(".apache.rocketmq.v2.Message.body")
        .btree_map(".")
        .codec_path("crate::rocketmq::codec::BoundedCodec")
        .compile_fds(descriptors)?;
    Ok(())
}
