//! What is told of selectors on retained rows, without moving any offset.

use weir_columns::Value;
use weir_engine::{
    Dialect, EngineError, ExplainedPart, Message, MessageName, QueueId, QueueOffset, Selector,
};
use weir_filter::Limits;

use crate::fixture::{Fixture, group, topic};

/// `n` counts from 0, `word` is `w` and a digit where `n` is even, and some bodies are long.
async fn filled(count: i64) -> Fixture {
    let weir = Fixture::new().await;
    weir.topic(2).await;
    for first in (0..count).step_by(500) {
        let message = |n: i64| {
            let text = |name: &str, value: String| (name.to_owned(), Value::Text(value));
            let mut properties = vec![text("n", n.to_string())];
            if n % 2 == 0 {
                properties.push(text("word", format!("w{}", n % 10)));
            }
            Message {
                message_id: format!("ID-{n}"),
                properties,
                body: format!("body {n} {}", "x".repeat(1000 * usize::from(n == 3))).into(),
                ..Message::default()
            }
        };
        weir.broker
            .publish(&topic("t"), (first..count.min(first + 500)).map(message).collect())
            .await
            .unwrap();
    }
    all_seen(&weir, count as u64).await;
    weir
}

/// Waits until `count` rows are visible.
async fn all_seen(weir: &Fixture, count: u64) {
    let seen = || weir.broker.topic(&topic("t")).unwrap().queues.iter().map(|queue| queue.end.0).sum::<u64>();
    while seen() < count {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

fn selector(text: &str) -> Selector {
    Selector::parse(text, Dialect::Sql92, &Limits::default()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_part_is_counted_for_itself() {
    let mut weir = filled(20_000).await;
    // So that rows lie in sealed blocks.
    weir.restart().await;
    all_seen(&weir, 20_000).await;
    let asked = selector("n < 1000 AND (word = 'w4' OR NOT word IS NULL)");
    let told = weir.broker.explain_selector(&topic("t"), &asked, true).await.unwrap();
    assert_eq!((told.rows, told.judged, told.complete), (20_000, 20_000, true));
    assert_eq!(told.columns, ["n", "word"]);
    let shown = |part: &ExplainedPart| (part.kind, part.text.clone(), part.matches, part.unknown);
    let whole = &told.whole;
    assert_eq!(shown(whole), ("and", asked.text().to_owned(), 500, 500));
    assert_eq!(shown(&whole.parts[0]), ("condition", "n < 1000".to_owned(), 1000, 0));
    let or = &whole.parts[1];
    assert_eq!((or.kind, or.matches, or.at), ("or", 10_000, 13));
    assert_eq!(shown(&or.parts[0]), ("condition", "word = 'w4'".to_owned(), 2000, 10_000));
    assert_eq!(shown(&or.parts[1]), ("not", "NOT word IS NULL".to_owned(), 10_000, 0));
    assert!(whole.ms_per_million.unwrap() > 0.0);
    // Less is judged to estimate, and it is about right.
    let estimated = weir.broker.explain_selector(&topic("t"), &asked, false).await.unwrap();
    assert!(estimated.complete && estimated.judged <= estimated.rows);
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_that_statistics_rule_out_are_counted() {
    let weir = filled(40_000).await;
    weir.broker.close().await.unwrap();
    let broker = weir_engine::Broker::open(weir.starting()).await.unwrap();
    let told = broker.explain_selector(&topic("t"), &selector("n < 10 OR n = -1"), true).await.unwrap();
    let [first, second] = &told.whole.parts[..] else { panic!("{told:?}") };
    assert!(told.blocks >= 2, "{told:?}");
    // Of the short block at the end of each queue nothing is kept.
    assert_eq!(second.ruled_out, told.blocks - 2);
    assert!(first.ruled_out > 0 && first.ruled_out < second.ruled_out, "{told:?}");
    assert_eq!((told.whole.ruled_out, told.whole.matches), (first.ruled_out, 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn matching_rows_are_shown_and_no_offset_moves() {
    let weir = filled(100).await;
    let told = weir.broker.try_selector(&topic("t"), &selector("n IN (3, 4, 99)"), 2).await.unwrap();
    assert_eq!(told.rows.len(), 2);
    assert!(!told.complete);
    let told = weir.broker.try_selector(&topic("t"), &selector("n IN (3, 4, 99)"), 10).await.unwrap();
    let mut shown: Vec<_> = told.rows.iter().map(|row| row.properties["n"].as_str()).collect();
    shown.sort_unstable();
    assert_eq!((shown, told.complete), (vec!["3", "4", "99"], true));
    let long = told.rows.iter().find(|row| row.message_id == "ID-3").unwrap();
    assert_eq!((long.body_bytes, long.body.len()), (1007, 512));
    // A group that begins now gets everything.
    assert_eq!(weir.receive("n = 3").await.len(), 1);
    assert_eq!(weir.broker.group(&group("g")).unwrap().topics[0].queues.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_judged_part_by_part() {
    let weir = filled(100).await;
    let asked = selector("n > 10 AND (word = 'w4' OR n = 3)");
    let told =
        weir.broker.why_selected(&topic("t"), &asked, &MessageName::Id("ID-3".to_owned())).await.unwrap();
    assert_eq!(told.row.message_id, "ID-3");
    let whole = &told.whole;
    assert_eq!((whole.kind, whole.truth), ("and", "false"));
    assert_eq!((whole.parts[0].truth, whole.parts[1].truth), ("false", "true"));
    let [word, n] = &whole.parts[1].parts[..] else { panic!("{told:?}") };
    assert_eq!((word.truth, &word.values["word"]), ("unknown", &None));
    assert_eq!((n.truth, n.values["n"].as_deref()), ("true", Some("'3'")));
    let place = MessageName::Place(told.row.queue, told.row.offset);
    let same = weir.broker.why_selected(&topic("t"), &asked, &place).await.unwrap();
    assert_eq!(same.row.message_id, "ID-3");
    for missing in ["ID-100", "it's", "0:5000", "7:0"] {
        let message: MessageName = missing.parse().unwrap();
        let error = weir.broker.why_selected(&topic("t"), &asked, &message).await.unwrap_err();
        assert!(matches!(error, EngineError::MessageNotFound { .. }), "{error}");
    }
    assert_eq!("1:7".parse(), Ok(MessageName::Place(QueueId(1), QueueOffset(7))));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_selectors_are_compared_row_by_row() {
    let weir = filled(1000).await;
    let told = weir
        .broker
        .diff_selectors(&topic("t"), &selector("n < 100"), &selector("n >= 90 AND n < 300"), 3)
        .await
        .unwrap();
    assert_eq!((told.rows, told.both, told.gained, told.lost), (1000, 10, 200, 90));
    assert!(told.complete);
    assert_eq!((told.gained_rows.len(), told.lost_rows.len()), (3, 3));
    for row in &told.gained_rows {
        assert!((100..300).contains(&row.properties["n"].parse::<i64>().unwrap()));
    }
    // What neither may match is not opened, and nothing is told of it.
    let told =
        weir.broker.diff_selectors(&topic("t"), &selector("n = -1"), &selector("n = -2"), 3).await.unwrap();
    assert_eq!((told.both, told.gained, told.lost, told.complete), (0, 0, 0, true));
}
