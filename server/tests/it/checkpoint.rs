//! `weir storage checkpoint` on the real binary: a copy made under load is served, and has what the original has.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use crate::cli::{Served, refused, run};

/// Lines of messages with the numbers from `first` on.
fn lines(first: u64, count: u64) -> String {
    (first..first + count)
        .map(|number| {
            format!("{{\"properties\":{{\"number\":{number}}},\"body\":\"body {number}\",\"tag\":\"t\"}}\n")
        })
        .collect()
}

/// Returns the numbers and bodies of all messages of a topic, in order of their numbers.
fn all(broker: &Served) -> Vec<(u64, String)> {
    let sql = "SELECT number, CAST(body AS VARCHAR) AS body FROM t ORDER BY number";
    let rows = broker.json(&["query", sql]);
    let rows = rows.as_array().unwrap().iter();
    rows.map(|row| (row["number"].as_u64().unwrap(), row["body"].as_str().unwrap().to_owned())).collect()
}

#[test]
fn a_copy_made_under_load_is_served_with_everything_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let broker = Served::start(&dir.path().join("data"));
    broker.json(&["topic", "create", "t", "--queues", "2"]);
    assert_eq!(broker.run_with_input(&["produce", "t"], &lines(0, 500)).code, 0);
    let ran = broker.run(&["consume", "t", "--group", "g", "--limit", "200", "--json"]);
    assert_eq!(ran.out.lines().count(), 200, "{}", ran.err);
    let stop = AtomicBool::new(false);
    let copy = path("copy");
    thread::scope(|scope| {
        let producer = scope.spawn(|| {
            let mut next = 500;
            while !stop.load(Ordering::Acquire) {
                assert_eq!(broker.run_with_input(&["produce", "t"], &lines(next, 50)).code, 0);
                next += 50;
            }
            next
        });
        thread::sleep(Duration::from_millis(300));
        let copied = broker.run(&["storage", "checkpoint", &copy, "--json"]);
        stop.store(true, Ordering::Release);
        assert_eq!(copied.code, 0, "{}", copied.err);
        let copied: serde_json::Value = serde_json::from_str(&copied.out).unwrap();
        assert_eq!(copied["target"], copy.as_str());
        assert!(copied["files"].as_u64().unwrap() >= 6 && copied["copied_bytes"].as_u64().unwrap() > 0);
        producer.join().unwrap();
    });
    refused(&broker.run(&["storage", "checkpoint", &copy]), 4, "exists already");
    refused(&broker.run(&["storage", "checkpoint", &path("data/copy")]), 4, "lies in the data directory");
    refused(&broker.run(&["storage", "checkpoint", "/etc/copy"]), 4, "checkpoint-dir");
    refused(&broker.run(&["storage", "checkpoint", &path("no/copy")]), 4, "cannot be used");
    refused(&run(&["storage", "checkpoint", &path("b"), "--data", &path("data")], ""), 1, "is in use by");
    assert!(!fs::exists(path("b")).unwrap());

    assert_eq!(run(&["storage", "verify", &copy], "").code, 0);
    let restored = Served::start(copy.as_ref());
    let (original, copied) = (all(&broker), all(&restored));
    assert!(copied.len() >= 500 && copied.len() <= original.len());
    assert_eq!(copied, original[..copied.len()]);
    assert!(copied.iter().all(|(number, body)| *body == format!("body {number}")));
    // The group goes on where it was: 200 are acknowledged.
    let consume = ["consume", "t", "--group", "g", "--json", "--wait", "200ms"];
    assert_eq!(restored.run(&consume).out.lines().count(), copied.len() - 200);
    restored.stop();
    broker.stop();

    // Of a broker that has stopped, the copy is the same; a crash before that is put right first.
    let ran = run(&["storage", "checkpoint", &path("b"), "--data", &path("data")], "");
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.contains("linked") && ran.out.contains("copied"), "{}", ran.out);
    let restored = Served::start(path("b").as_ref());
    assert_eq!(all(&restored), original);
    restored.stop();
    refused(&run(&["storage", "checkpoint", &path("c"), "--data", &path("none")], ""), 3, "none");
    fs::create_dir(path("empty")).unwrap();
    refused(&run(&["storage", "checkpoint", &path("c"), "--data", &path("empty")], ""), 3, "FORMAT");
}

#[test]
fn a_copy_goes_where_the_configuration_says() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::create_dir(path("copies")).unwrap();
    fs::write(path("weir.toml"), "[storage]\ncheckpoint-dir = \"copies\"\n").unwrap();
    let words = ["--listen", "127.0.0.1:0", "--config", &path("weir.toml")];
    let broker = Served::start_with(&dir.path().join("data"), &words);
    refused(&broker.run(&["storage", "checkpoint", &path("copy")]), 4, "copies, where this broker");
    refused(&broker.run(&["storage", "checkpoint", &path("copies/../copy")]), 4, "copies, where this broker");
    assert_eq!(broker.run(&["storage", "checkpoint", &path("copies/a")]).code, 0);
    broker.stop();
}
