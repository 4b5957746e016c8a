//! Compiles the protocol definitions to Rust, without protoc, and notes the commit of release builds.

use std::{env, error::Error, process::Command};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    println!("cargo::rerun-if-changed=build.rs");
    // A development build would be built anew after each commit for this alone.
    if env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        note_commit();
    }
    let descriptors = protox::compile(["proto/rocketmq.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .emit_rerun_if_changed(false)
        .bytes(".apache.rocketmq.v2.Message.body")
        .btree_map(".")
        .codec_path("crate::rocketmq::codec::BoundedCodec")
        .compile_fds(descriptors)?;
    Ok(())
}

/// Sets `WEIR_COMMIT`, where there is a repository and a git to ask.
fn note_commit() {
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return };
    println!("cargo::rustc-env=WEIR_COMMIT={commit}");
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={log}");
    }
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}
