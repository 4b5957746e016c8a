//! Messages that nobody is to see at once, or ever: delayed, recalled, and sent in transactions.

use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow, ensure};

use super::{
    checks::Done,
    feature::{Feature, Known},
    run::{Run, compare},
};

/// Messages that a client sends. What becomes of message n is a matter of n modulo [`KINDS`]: `clients/README.md`.
const MESSAGES: usize = 50;
const KINDS: usize = 5;

const DELAYED: usize = 0;
const RECALLED: usize = 1;
const COMMITTED: usize = 2;
const ROLLED_BACK: usize = 3;
const ASKED: usize = 4;

/// How long delayed messages stay hidden at least. Their delay is three seconds, of which a client that counts in whole
/// seconds cuts off up to one, and what it does between choosing the time and sending another.
const DELAY_MIN_MS: usize = 1000;

/// How long messages stay hidden at least about which the broker asks: it does so six seconds after it has them.
const ASKED_MIN_MS: usize = 6000;

/// What a client sent, and what came of it: how often each message was received, is stored, and is stored as one that
/// was hidden before, by its number.
struct Seen {
    recalled: usize,
    received: BTreeMap<usize, usize>,
    stored: BTreeMap<usize, usize>,
    delayed: BTreeMap<usize, usize>,
    asked: BTreeMap<usize, usize>,
}

pub(super) fn all(run: &Run<'_>) -> Vec<Done> {
    let can_recall = !matches!(Feature::Recall.known(run.client.name), Some(Known::NotOffered(_)));
    let seen = seen(run);
    let seen = seen.as_ref().map_err(|error| format!("{error:#}"));
    let judged = |judge: &dyn Fn(&Seen) -> Result<()>| match &seen {
        Ok(seen) => judge(seen),
        Err(error) => Err(anyhow!("{error}")),
    };
    let delayed = judged(&|seen| {
        seen.are_visible(&[DELAYED], |_| true)?;
        let expected = numbers(&[DELAYED], |_| true);
        compare(&of_kinds(&seen.delayed, &[DELAYED]), &expected).context("hidden before")
    });
    let recalled = judged(&|seen| {
        let expected = MESSAGES / KINDS;
        ensure!(seen.recalled == expected, "{} messages were recalled, not {expected}", seen.recalled);
        seen.are_visible(&[RECALLED], |_| false)
    });
    let transactions = judged(&|seen| {
        ensure!(can_recall || seen.recalled == 0, "the client is said not to recall, and it does");
        // A client that does not recall rolls back instead.
        let kinds = [COMMITTED, ROLLED_BACK, ASKED, RECALLED];
        let kinds = if can_recall { &kinds[..3] } else { &kinds };
        seen.are_visible(kinds, is_committed)?;
        let expected = numbers(&[ASKED], is_committed);
        compare(&of_kinds(&seen.asked, &[ASKED]), &expected).context("hidden before")
    });
    let mut done = vec![(Feature::Delayed, delayed), (Feature::Transactions, transactions)];
    if can_recall {
        done.push((Feature::Recall, recalled));
    }
    done
}

fn is_committed(n: usize) -> bool {
    match n % KINDS {
        COMMITTED => true,
        ASKED => n.is_multiple_of(2),
        _ => false,
    }
}

/// Sends, and receives until nothing more comes. By then all has been due or asked about for long: the program ends
/// after the last question, which comes twice as late as the last delayed message.
fn seen(run: &Run<'_>) -> Result<Seen> {
    let (topic, group) = (run.named("later"), run.named("later-readers"));
    let report = run.send_pending(&topic, MESSAGES).context("the producer")?;
    let expected = (0..MESSAGES).filter(|n| n % KINDS == DELAYED || is_committed(*n)).count().to_string();
    let consumed = run.consume("receive", &topic, &group, &["--tags", "*", "--expect", &expected])?;
    let stored = run.stored(&topic)?;
    let hidden = |min_ms: usize| {
        run.stored_where(&topic, &format!("sys.store_time - sys.born_time >= {min_ms}"))
            .context("hidden before")
    };
    let (delayed, asked) = (hidden(DELAY_MIN_MS)?, hidden(ASKED_MIN_MS)?);
    Ok(Seen { recalled: report.recalled, received: consumed.times(), stored, delayed, asked })
}

impl Seen {
    /// Checks that of some kinds exactly the messages that `wanted` is true for were received and are stored, each
    /// once.
    fn are_visible(&self, kinds: &[usize], wanted: impl Fn(usize) -> bool) -> Result<()> {
        let expected = numbers(kinds, wanted);
        compare(&of_kinds(&self.received, kinds), &expected).context("received")?;
        compare(&of_kinds(&self.stored, kinds), &expected).context("stored")
    }
}

fn numbers(kinds: &[usize], wanted: impl Fn(usize) -> bool) -> BTreeMap<usize, usize> {
    (0..MESSAGES).filter(|n| kinds.contains(&(n % KINDS)) && wanted(*n)).map(|n| (n, 1)).collect()
}

fn of_kinds(times: &BTreeMap<usize, usize>, kinds: &[usize]) -> BTreeMap<usize, usize> {
    times.iter().filter(|(n, _)| kinds.contains(&(*n % KINDS))).map(|(n, times)| (*n, *times)).collect()
}
