//! `weir trace`: what became of a message.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::{
    Failure, Global,
    output::{count, counted, field, grouped, list, print_json, print_line, size, time},
};
use crate::status::Exit;

/// Shows what became of a message in each group, up to its acknowledgement.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  weir trace 0193b2f0c8d57e4f --topic orders\n  weir trace order-17 --key\n  \
                        weir trace 0:17 --topic orders\nWhat the group journal no longer holds is shown as not known; \
                        docs/tracing.md says what is kept for how long."
)]
pub(crate) struct TraceArgs {
    /// The message: its id, or, with --topic, QUEUE:OFFSET.
    message: String,
    /// MESSAGE is a key: shows all messages that have it, the newest first.
    #[arg(long)]
    key: bool,
    /// Looks in this topic only, and for messages that are pending for it. Default: all topics.
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// How many messages to show, the newest ones; at most 100.
    #[arg(long, value_name = "N", default_value_t = 10)]
    limit: usize,
    /// How long to look for it, how long to read the group journal, and how long to ask selectors.
    #[arg(long, value_name = "TIME", default_value = "10s")]
    within: humantime::Duration,
}

pub(crate) async fn run(args: TraceArgs, global: &Global) -> Result<(), Failure> {
    let name = if args.key { "key" } else { "message" };
    let body = json!({
        name: args.message, "topic": args.topic, "limit": args.limit, "within_ms": ms(*args.within),
    });
    let answer = global.connect().await?.action("TraceMessage", &body).await?;
    let messages = list(&answer, "messages");
    if messages.is_empty() {
        return Err(Failure::new(Exit::Failed, not_found_yet(&answer["searched"])));
    }
    if global.json {
        return print_json(&answer);
    }
    let mut lines = Lines::default();
    for message in messages {
        lines.message(message, true);
        lines.add("");
    }
    lines.reach(&answer);
    print_line(lines.text.trim_end())
}

fn not_found_yet(searched: &Value) -> String {
    if searched["complete"] == true {
        return format!(
            "not found, but {} could not be read, and may hold it",
            counted(count(searched, "unreadable"), "block or record"),
        );
    }
    format!("not found in time: {}", looked_at(searched))
}

fn looked_at(searched: &Value) -> String {
    format!(
        "of {} messages the newest {} were looked at{}; give it more with --within, or name its topic with --topic",
        grouped(count(searched, "of")),
        grouped(count(searched, "messages")),
        match searched["back_to_ms"].as_i64() {
            Some(back_to_ms) => format!(", back to {}", time(back_to_ms)),
            None => String::new(),
        },
    )
}

/// Text, line by line.
#[derive(Debug, Default)]
struct Lines {
    text: String,
    indent: usize,
}

impl Lines {
    fn add(&mut self, line: &str) {
        if !line.is_empty() {
            self.text.extend(std::iter::repeat_n(' ', self.indent));
            self.text.push_str(line);
        }
        self.text.push('\n');
    }

    fn named(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.add(&format!("  {name:<12}{value}"));
        }
    }

    fn message(&mut self, message: &Value, is_whole: bool) {
        let of = |name: &str| shown(&field(message, name));
        match of("message_id").as_str() {
            "" => self.add("message without an id"),
            id => self.add(&format!("message {id}")),
        }
        self.named("place", &place(message));
        self.named("stored", &moment(message, "store_time_ms"));
        if is_whole {
            self.facts(message);
        }
        self.pending(&message["pending"]);
        if message["dead_letter_of"].is_object() {
            let from = &message["dead_letter_of"];
            let place = place(from);
            let deliveries = plural(count(from, "attempts"), "delivery", "deliveries");
            self.named("dead letter", &format!("of {place}, after {deliveries}"));
        }
        let groups = list(message, "groups");
        let left_out = count(message, "groups_left_out");
        if groups.is_empty() && left_out == 0 && message["queue"].is_u64() {
            self.named("groups", "none reads the topic");
        }
        for group in groups {
            self.group(group);
        }
        if left_out > 0 {
            let more = counted(left_out, "more group");
            self.add(&format!("  and {more} that read the topic; ask for fewer messages to see them"));
        }
    }

    fn facts(&mut self, message: &Value) {
        let of = |name: &str| shown(&field(message, name));
        let mut born = moment(message, "born_time_ms");
        for (word, name) in [("on", "born_host"), ("by producer group", "producer_group")] {
            if !of(name).is_empty() {
                born = format!("{born} {word} {}", of(name)).trim_start().to_owned();
            }
        }
        self.named("born", &born);
        self.named("type", &of("message_type"));
        self.named("tag", &of("tag"));
        self.named("keys", &texts(message, "keys"));
        self.named("properties", &texts(message, "properties"));
        self.named("line", &of("message_group"));
        self.named("priority", &of("priority"));
        self.named("trace", &of("trace_context"));
        let (body, record) = (count(message, "body_bytes"), count(message, "record_bytes"));
        self.named("size", &format!("body {}, in the log {}", size(body), size(record)));
    }

    fn pending(&mut self, pending: &Value) {
        if !pending.is_object() {
            return;
        }
        let is_delayed = field(pending, "kind") == "delayed";
        let done = match moment(pending, "done_ms") {
            done if done.is_empty() => "at a time that the journal no longer holds".to_owned(),
            done => format!("at {done}"),
        };
        let became = match field(pending, "state").as_str() {
            "waits" => "not visible yet".to_owned(),
            "released" => format!("visible since {}", moment(pending, "done_ms")),
            "ended" if is_delayed => {
                format!("recalled, or its topic is gone, or ended since it was delivered; {done}")
            }
            "ended" => format!("rolled back or given up, or ended since it was committed; {done}"),
            _ => format!("done {done}; whether it became visible is not known"),
        };
        let due = match (is_delayed, moment(pending, "due_ms")) {
            (_, due) if due.is_empty() => String::new(),
            (true, due) => format!(", due at {due}"),
            (false, due) => format!(", its producer is asked from {due} on"),
        };
        let sent = match moment(pending, "stored_ms") {
            sent if sent.is_empty() => String::new(),
            sent => format!("sent at {sent}"),
        };
        self.named(
            if is_delayed { "delayed" } else { "transaction" },
            format!("{sent}{due}").trim_start_matches(", "),
        );
        self.named("", &became);
    }

    fn group(&mut self, group: &Value) {
        self.add(&format!("  group {}: {}", field(group, "group"), state(group)));
        self.indent += 4;
        for selector in list(group, "selectors") {
            let text = match field(selector, "kind").as_str() {
                "all" => "every message".to_owned(),
                _ => shown(&field(selector, "text")),
            };
            let (start, cursor) = (count(selector, "start"), count(selector, "cursor"));
            let live = if selector["live"] == true { "" } else { ", nobody receives with it" };
            self.add(&format!(
                "selector {text}: {}, has judged offsets {start} to {cursor}{live}",
                field(selector, "truth").replace('_', " ")
            ));
        }
        if count(group, "events_left_out") > 0 {
            self.add(&format!("({} before)", counted(count(group, "events_left_out"), "event")));
        }
        for event in list(group, "events") {
            self.add(&format!("{}  {}", moment(event, "at_ms"), happened(event)));
        }
        if group["dead_letter"].is_object() {
            self.add("its copy in the dead-letter topic:");
            self.message(&group["dead_letter"], false);
        }
        self.indent -= 4;
    }

    /// Says what the answer is made of.
    fn reach(&mut self, answer: &Value) {
        let (searched, journal) = (&answer["searched"], &answer["journal"]);
        if answer["more"] == true {
            self.add("There are more, older ones; --limit shows up to 100.");
        } else if searched["complete"] != true {
            self.add(&format!("Time ran out: {}", looked_at(searched)));
        }
        if count(searched, "unreadable") > 0 {
            let lost = counted(count(searched, "unreadable"), "block or record");
            self.add(&format!("{lost} could not be read, and may hold others."));
        }
        match journal["begins_ms"].as_i64() {
            Some(begins_ms) => self.add(&format!(
                "The group journal tells what happened since {}; what was done before is not known any more.",
                time(begins_ms)
            )),
            None => self.add("The group journal holds everything since the data directory was made."),
        }
        if journal["complete"] != true {
            self.add("It was not read to its end: give it more time with --within.");
        }
        if count(journal, "damaged") > 0 {
            self.add("Part of it is damaged: some of what happened may be missing.");
        }
    }
}

/// Where a message lies.
fn place(message: &Value) -> String {
    let topic = match field(message, "topic").as_str() {
        "" => "a topic that is deleted".to_owned(),
        topic => format!("topic {}", shown(topic)),
    };
    let mut place = match message["queue"].as_u64() {
        Some(queue) => format!("{topic}, queue {queue}, offset {}", count(message, "offset")),
        None => format!("for {topic}, not in it"),
    };
    if let Some(position) = message["log_position"].as_u64() {
        place = format!("{place}, log position {position}");
    }
    place
}

/// What became of a message in a group, in words.
fn state(group: &Value) -> String {
    let attempt = || count(group, "attempt").max(count(group, "attempts"));
    let since_horizon = |certain: &Value| match certain.as_bool() {
        Some(true) => "",
        _ => "; an earlier selector may have taken it before the journal begins",
    };
    match field(group, "state").as_str() {
        "not_selected" => format!("not selected{}", since_horizon(&group["certain"])),
        "waits" => match count(group, "behind") {
            0 => "waits, next to be judged".to_owned(),
            behind => format!("waits behind {} that are not judged yet", counted(behind, "message")),
        },
        "leased" => {
            let client = match field(group, "client").as_str() {
                "" => "a member whose name is not written down".to_owned(),
                client => shown(client),
            };
            format!("leased to {client} until {}, delivery {}", moment(group, "until_ms"), attempt())
        }
        "waits_for_redelivery" => {
            let until = match moment(group, "until_ms") {
                until if until.is_empty() => "now".to_owned(),
                until => format!("at {until}"),
            };
            format!("to be delivered again {until}, after {}", plural(attempt(), "delivery", "deliveries"))
        }
        "waits_in_line" => "not delivered yet, in the line of its message group".to_owned(),
        "moves_to_dead_letter" => {
            format!(
                "on its way to the dead-letter topic, after {}",
                plural(attempt(), "delivery", "deliveries")
            )
        }
        "acknowledged" => format!("acknowledged at {}", moment(group, "at_ms")),
        "dead_lettered" => format!("dead-lettered at {}", moment(group, "at_ms")),
        "passed" => match moment(group, "at_ms") {
            at if at.is_empty() => "passed: the group was put to an offset behind it".to_owned(),
            at => format!("passed: the group was put to an offset behind it at {at}"),
        },
        "done_before_journal" => {
            "delivered and done before the journal begins; how and when is not known any more".to_owned()
        }
        "before_selectors" => {
            let known = match group["certain"].as_bool() {
                Some(true) => "it was not delivered",
                _ => "what was done with it before the journal begins is not known",
            };
            format!("before offset {}, where its selectors begin; {known}", count(group, "start"))
        }
        _ => format!("not known: {}", field(group, "why")),
    }
}

/// What an event was, in words.
fn happened(event: &Value) -> String {
    match field(event, "event").as_str() {
        "leased" => {
            let mut text = format!("delivery {}", count(event, "attempt"));
            if !field(event, "client").is_empty() {
                text = format!("{text} to {}", shown(&field(event, "client")));
            }
            text = format!("{text}, leased until {}", moment(event, "until_ms"));
            match count(event, "renewals") {
                0 => text,
                renewals => format!("{text}, renewed {}", plural(renewals, "time", "times")),
            }
        }
        "lined_up" => "not delivered yet, in the line of its message group".to_owned(),
        "put_off" => format!("put off until {}", moment(event, "until_ms")),
        "was_open" => {
            let how = if event["leased"] == true { "leased" } else { "waiting" };
            let (attempt, until) = (count(event, "attempt"), moment(event, "until_ms"));
            format!("{how} until {until} after delivery {attempt}, as the journal begins")
        }
        "acknowledged" => "acknowledged".to_owned(),
        "dead_lettered" => "moved to the dead-letter topic".to_owned(),
        "reset" => format!("group put to offset {}", count(event, "to")),
        other => other.to_owned(),
    }
}

/// Returns a time that a field holds; an empty text if it holds none.
fn moment(value: &Value, name: &str) -> String {
    value.get(name).and_then(Value::as_i64).map(time).unwrap_or_default()
}

fn texts(value: &Value, name: &str) -> String {
    let texts = list(value, name).iter().filter_map(Value::as_str).map(shown);
    let shown = texts.collect::<Vec<_>>().join(", ");
    match count(value, &format!("{name}_left_out")) {
        0 => shown,
        more => format!("{shown}, and {} more", grouped(more)),
    }
}

/// Returns what others have written with its control characters visible, so that it cannot steer the terminal.
fn shown(text: &str) -> String {
    let visible = |character: char| match character.is_control() {
        true => character.escape_default().to_string(),
        false => character.to_string(),
    };
    text.chars().map(visible).collect()
}

fn plural(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", grouped(number), if number == 1 { one } else { many })
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_producers_write_cannot_steer_the_terminal() {
        assert_eq!(shown("a\u{1b}[2Jü\n"), "a\\u{1b}[2Jü\\n");
        let message =
            json!({ "message_id": "\u{1b}c", "topic": "t", "queue": 0, "offset": 1, "keys": ["\r"] });
        let mut lines = Lines::default();
        lines.message(&message, true);
        assert!(!lines.text.chars().any(|one| one.is_control() && one != '\n'), "{:?}", lines.text);
    }

    #[test]
    fn what_is_not_known_is_said_to_be_unknown() {
        let group = |state: Value| super::state(&state);
        assert_eq!(group(json!({ "state": "not_selected", "certain": true })), "not selected");
        assert!(group(json!({ "state": "not_selected", "certain": false })).contains("may have taken it"));
        assert!(group(json!({ "state": "done_before_journal" })).contains("not known any more"));
        assert!(
            group(json!({ "state": "leased", "attempt": 2, "until_ms": 0 })).contains("not written down")
        );
        assert!(group(json!({ "state": "unknown", "why": "of this" })).ends_with("not known: of this"));
    }

    #[test]
    fn what_is_left_out_is_counted() {
        let message = |left_out: u64| {
            let mut lines = Lines::default();
            let message = json!({
                "topic": "t", "queue": 0, "offset": 1, "groups": [], "groups_left_out": left_out, "keys": ["a"],
                "keys_left_out": left_out,
            });
            lines.message(&message, true);
            lines.text
        };
        assert!(message(0).contains("none reads the topic") && !message(0).contains("more"));
        let some = message(3);
        assert!(!some.contains("none reads") && some.contains("and 3 more groups"), "{some}");
        assert!(some.contains("a, and 3 more\n"), "{some}");
    }

    #[test]
    fn what_cannot_be_read_is_not_taken_for_time_that_ran_out() {
        let damaged = json!({ "complete": true, "unreadable": 1, "of": 5, "messages": 5 });
        assert!(not_found_yet(&damaged).contains("1 block or record could not be read"));
        let late = json!({ "complete": false, "unreadable": 1, "of": 5, "messages": 2 });
        assert!(not_found_yet(&late).starts_with("not found in time: of 5 messages the newest 2"));
    }
}
