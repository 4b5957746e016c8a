//! `weir group`: consumer groups, how they retry, and where they stand.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use weir_filter::Dialect;

use super::{
    Failure, Global,
    output::{
        confirm, count, dialect, field, grouped, length, list, number_cell, print_json, print_line, progress,
        table, time,
    },
};
use crate::{
    flight::{client::Client, command::Moment},
    status::Exit,
};

/// What to do with consumer groups.
#[derive(Debug, Subcommand)]
pub(crate) enum GroupCommand {
    /// Creates a group. Groups that consumers name are also created by themselves.
    Create {
        /// Its name.
        group: String,
        #[command(flatten)]
        settings: Settings,
    },
    /// Lists all groups.
    List,
    /// Shows a group: its settings, members, selectors, and how far it has come.
    Describe {
        /// Its name.
        group: String,
        /// How long to count the messages that wait for it; 0s not to count them.
        #[arg(long, value_name = "TIME", default_value = "10s")]
        within: humantime::Duration,
    },
    /// Changes the settings of a group; what is not named stays.
    Alter {
        /// Its name.
        group: String,
        #[command(flatten)]
        settings: Settings,
    },
    /// Moves a group to another place in a topic.
    Reset {
        /// Its name.
        group: String,
        /// The topic.
        topic: String,
        /// Where to: earliest, latest, a time such as 2026-11-01T00:00:00Z, or QUEUE:OFFSET.
        #[arg(long, value_name = "PLACE", value_parser = place)]
        to: Value,
        /// Does not ask.
        #[arg(long, short)]
        yes: bool,
    },
    /// Deletes a group with all that it remembers.
    Delete {
        /// Its name.
        group: String,
        /// Does not ask.
        #[arg(long, short)]
        yes: bool,
    },
}

/// How a group delivers.
#[derive(Debug, Args)]
pub(crate) struct Settings {
    /// How often a message is delivered before it goes to the dead-letter topic. Default: 17.
    #[arg(long, value_name = "N")]
    max_attempts: Option<u32>,
    /// The shortest lease that members may ask for. Default: 10s.
    #[arg(long, value_name = "TIME")]
    lease_min: Option<humantime::Duration>,
    /// Where the group begins in a topic that it has not read before. Default: earliest.
    #[arg(long)]
    start: Option<Start>,
    /// Whether the messages of a message group are delivered one after the other, and no later one while an earlier
    /// one is in the hands of a member or waits. Default: false.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    fifo: Option<bool>,
    /// The language of its selectors: sql92, rocketmq or jms. Default: that of each topic.
    #[arg(long, value_name = "DIALECT")]
    dialect: Option<Dialect>,
    /// Of a hundred receives on a topic of type priority, how many look at the highest priority first; the others begin
    /// at each in turn. Default: 100.
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    priority_factor: Option<u8>,
    /// The topic of type lite whose lite topics the group reads, each client those that it subscribes to. Such a group is
    /// FIFO and reads nothing else. Fixed when the group is made.
    #[arg(long, value_name = "TOPIC")]
    lite_topic: Option<String>,
    /// Whether a lite topic is one client's at a time: who subscribes to it takes it from the one before. Fixed when the
    /// group is made. Default: false.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    lite_exclusive: Option<bool>,
    /// Whether each client reads all lite topics, whether it subscribes to them or not. Fixed when the group is made.
    /// Default: false.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", conflicts_with = "lite_exclusive")]
    lite_wildcard: Option<bool>,
    /// How many lite topics each client may subscribe to. Default: 1200.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    lite_quota: Option<u32>,
    /// Waits after failed deliveries, such as 1s,10s,5m; the last one again and again.
    #[arg(long, value_name = "TIMES", value_delimiter = ',', conflicts_with_all = ["retry_initial", "retry_max", "retry_multiplier"])]
    retry: Vec<humantime::Duration>,
    /// The wait after the first failed delivery. Default: 5s.
    #[arg(long, value_name = "TIME")]
    retry_initial: Option<humantime::Duration>,
    /// The longest wait after a failed delivery. Default: 2h.
    #[arg(long, value_name = "TIME")]
    retry_max: Option<humantime::Duration>,
    /// How much longer each wait is than the one before. Default: 2.
    #[arg(long, value_name = "FACTOR")]
    retry_multiplier: Option<f64>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Start {
    Earliest,
    Latest,
}

const RETRY_INITIAL: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_secs(2 * 60 * 60);
const RETRY_MULTIPLIER: f64 = 2.0;

impl Settings {
    /// Returns the body of an action on `group` with these settings.
    fn body(&self, group: &str) -> Value {
        let mut body = json!({ "group": group });
        if let Some(attempts) = self.max_attempts {
            body["max_attempts"] = attempts.into();
        }
        if let Some(lease) = self.lease_min {
            body["lease_min_ms"] = ms(*lease).into();
        }
        if let Some(start) = self.start {
            body["start"] = match start {
                Start::Earliest => "earliest".into(),
                Start::Latest => "latest".into(),
            };
        }
        if let Some(fifo) = self.fifo {
            body["fifo"] = fifo.into();
        }
        if let Some(dialect) = self.dialect {
            body["dialect"] = dialect.name().into();
        }
        if let Some(factor) = self.priority_factor {
            body["priority_factor"] = factor.into();
        }
        if !self.retry.is_empty() {
            let waits: Vec<u64> = self.retry.iter().map(|wait| ms(**wait)).collect();
            body["retry"] = json!({ "customized_ms": waits });
        }
        if self.retry_initial.is_some() || self.retry_max.is_some() || self.retry_multiplier.is_some() {
            body["retry"] = json!({ "exponential": {
                "initial_ms": ms(self.retry_initial.map_or(RETRY_INITIAL, |wait| *wait)),
                "max_ms": ms(self.retry_max.map_or(RETRY_MAX, |wait| *wait)),
                "multiplier": self.retry_multiplier.unwrap_or(RETRY_MULTIPLIER),
            }});
        }
        body
    }

    /// Returns whether something is given of how the group reads lite topics that is fixed when it is made.
    fn has_fixed_of_lite(&self) -> bool {
        self.lite_topic.is_some() || self.lite_exclusive.is_some() || self.lite_wildcard.is_some()
    }

    /// Adds which lite topics a group that is made reads.
    fn add_lite(&self, body: &mut Value) -> Result<(), Failure> {
        let Some(topic) = &self.lite_topic else {
            return match self.has_fixed_of_lite() || self.lite_quota.is_some() {
                true => {
                    let text = "--lite-exclusive, --lite-wildcard and --lite-quota need --lite-topic";
                    Err(Failure::new(Exit::Usage, text))
                }
                false => Ok(()),
            };
        };
        body["lite"] = json!({ "topic": topic });
        if let Some(exclusive) = self.lite_exclusive {
            body["lite"]["exclusive"] = exclusive.into();
        }
        if let Some(wildcard) = self.lite_wildcard {
            body["lite"]["wildcard"] = wildcard.into();
        }
        if let Some(quota) = self.lite_quota {
            body["lite"]["quota"] = quota.into();
        }
        Ok(())
    }
}

pub(crate) async fn run(command: GroupCommand, global: &Global) -> Result<(), Failure> {
    match command {
        GroupCommand::Create { group, settings } => {
            let mut body = settings.body(&group);
            settings.add_lite(&mut body)?;
            change("CreateGroup", &body, "created", global).await
        }
        GroupCommand::List => show_list(global).await,
        GroupCommand::Describe { group, within } => describe(&group, *within, global).await,
        GroupCommand::Alter { group, settings } => {
            let mut body = settings.body(&group);
            if settings.has_fixed_of_lite() {
                let text = "what lite topics a group reads, and whether one client has them at a time or each has all, is fixed when it is made";
                return Err(Failure::new(Exit::Usage, text));
            }
            if let Some(quota) = settings.lite_quota {
                body["lite_quota"] = quota.into();
            }
            if body.as_object().is_some_and(|body| body.len() == 1) {
                return Err(Failure::new(Exit::Usage, "nothing to change; see weir group alter --help"));
            }
            change("AlterGroup", &body, "changed", global).await
        }
        GroupCommand::Reset { group, topic, to, yes } => reset(&group, &topic, &to, yes, global).await,
        GroupCommand::Delete { group, yes } => delete(&group, yes, global).await,
    }
}

async fn change(action: &str, body: &Value, done: &str, global: &Global) -> Result<(), Failure> {
    let answer = global.connect().await?.action(action, body).await?;
    if global.json {
        return print_json(&answer);
    }
    print_line(&format!("{done} group {}\n{}", field(body, "group"), settings(&answer)))
}

async fn show_list(global: &Global) -> Result<(), Failure> {
    let answer = global.connect().await?.action("ListGroups", &json!({})).await?;
    if global.json {
        return print_json(&answer);
    }
    let groups = list(&answer, "groups");
    if groups.is_empty() {
        return print_line("no groups; the first consumer that names one creates it");
    }
    let mut shown = table(["group", "members", "topics", "start", "created"]);
    for group in groups {
        let topics: Vec<String> = list(group, "topics").iter().map(|topic| field(topic, "topic")).collect();
        shown.add_row(vec![
            field(group, "name").into(),
            number_cell(list(group, "members").len() as u64),
            topics.join(", ").into(),
            group.get("spec").map(|spec| field(spec, "start")).unwrap_or_default().into(),
            created(group).into(),
        ]);
    }
    print_line(&shown.to_string())
}

async fn describe(group: &str, within: Duration, global: &Global) -> Result<(), Failure> {
    let client = global.connect().await?;
    let mut answer = client.action("DescribeGroup", &json!({ "group": group })).await?;
    if !within.is_zero() {
        add_waiting(&mut answer, &count_waiting(&client, group, within).await?);
    }
    if global.json {
        return print_json(&answer);
    }
    print_line(&format!("group {}\n{}", field(&answer, "name"), settings(&answer)))?;
    let members: Vec<String> =
        list(&answer, "members").iter().filter_map(|m| m.as_str().map(str::to_owned)).collect();
    let members = if members.is_empty() { "none alive".to_owned() } else { members.join(", ") };
    print_line(&format!("  members       {members}"))?;
    for topic in list(&answer, "topics") {
        show_topic(topic)?;
    }
    Ok(())
}

/// Has the broker count what waits for a group. A bar shows how far it has come.
async fn count_waiting(client: &Client, group: &str, within: Duration) -> Result<Value, Failure> {
    let bar = progress(Some(0), "counted");
    let shown = bar.clone();
    let mut watch = move |told: &Value| {
        shown.set_length(count(told, "total"));
        shown.set_position(count(told, "done"));
    };
    let body = json!({ "group": group, "within_ms": ms(within) });
    let counted = client.watched_action("CountWaiting", &body, &mut watch).await.map_err(Failure::from);
    bar.finish_and_clear();
    counted
}

/// Puts counts beside what is told of queues. The group may have begun to read a topic in between.
fn add_waiting(group: &mut Value, counted: &Value) {
    let topics = group.get_mut("topics").and_then(Value::as_array_mut);
    for topic in topics.into_iter().flatten() {
        let same = |other: &&Value| field(other, "topic") == field(topic, "topic");
        let Some(waiting) = list(counted, "topics").iter().find(same) else { continue };
        let waiting = list(waiting, "queues");
        let queues = topic.get_mut("queues").and_then(Value::as_array_mut);
        for queue in queues.into_iter().flatten() {
            let number = count(queue, "queue");
            let Some(waiting) = waiting.iter().find(|other| count(other, "queue") == number) else {
                continue;
            };
            queue["to_deliver"] = (count(waiting, "undelivered") + count(waiting, "open")).into();
            queue["to_deliver_complete"] = waiting.get("complete").cloned().unwrap_or_default();
        }
    }
}

/// Returns how many messages wait, as far as that was counted.
fn to_deliver(queue: &Value) -> String {
    match (queue.get("to_deliver"), queue.get("to_deliver_complete").and_then(Value::as_bool)) {
        (None, _) => "-".to_owned(),
        (Some(_), Some(true)) => grouped(count(queue, "to_deliver")),
        (Some(_), _) => format!("at least {}", grouped(count(queue, "to_deliver"))),
    }
}

fn show_topic(topic: &Value) -> Result<(), Failure> {
    print_line(&format!("\non topic {}", field(topic, "topic")))?;
    if let Some(lite) = topic.get("lite") {
        print_line(&format!(
            "{} clients subscribe to {} lite topics; the group stands somewhere in {}",
            grouped(list(lite, "members").len() as u64),
            grouped(count(lite, "subscriptions")),
            grouped(count(lite, "positions"))
        ))?;
        match count(lite, "full_queues") {
            0 => {}
            full => print_line(&format!(
                "{} queues have as many messages leased or waiting for redelivery as they may: their other lite topics wait",
                grouped(full)
            ))?,
        }
    }
    let mut selectors = table(["selector", "kind", "members", "judged (queue: from..to)"]);
    for selector in list(topic, "selectors") {
        let judged: Vec<String> = list(selector, "queues")
            .iter()
            .map(|queue| {
                format!("{}: {}..{}", count(queue, "queue"), count(queue, "start"), count(queue, "cursor"))
            })
            .collect();
        selectors.add_row(vec![
            field(selector, "text").into(),
            field(selector, "kind").into(),
            number_cell(list(selector, "members").len() as u64),
            judged.join("\n").into(),
        ]);
    }
    print_line(&selectors.to_string())?;
    let mut queues = table([
        "queue",
        "committed",
        "end",
        "behind",
        "to deliver",
        "leased",
        "waiting",
        "dropped",
        "missed",
    ]);
    for queue in list(topic, "queues") {
        let (committed, end) = (count(queue, "committed"), count(queue, "end"));
        queues.add_row(vec![
            number_cell(count(queue, "queue")),
            number_cell(committed),
            number_cell(end),
            number_cell(end.saturating_sub(committed)),
            to_deliver(queue).into(),
            number_cell(count(queue, "leased")),
            number_cell(count(queue, "waiting")),
            number_cell(count(queue, "dropped_by_selector_change")),
            number_cell(count(queue, "missed")),
        ]);
    }
    print_line(&queues.to_string())
}

async fn reset(group: &str, topic: &str, to: &Value, yes: bool, global: &Global) -> Result<(), Failure> {
    let client = global.connect().await?;
    if !confirm(&format!("Move group {group} on topic {topic}? Messages may come again or be skipped."), yes)?
    {
        return Err(Failure::new(Exit::Failed, "not moved"));
    }
    let body = json!({ "group": group, "topic": topic, "to": to });
    let answer = client.action("ResetGroup", &body).await?;
    if global.json {
        print_json(&answer)
    } else {
        print_line(&format!("moved group {group} on topic {topic}"))
    }
}

async fn delete(group: &str, yes: bool, global: &Global) -> Result<(), Failure> {
    let client = global.connect().await?;
    if !confirm(&format!("Delete group {group} and forget what it has read?"), yes)? {
        return Err(Failure::new(Exit::Failed, "not deleted"));
    }
    let answer = client.action("DeleteGroup", &json!({ "group": group })).await?;
    if global.json { print_json(&answer) } else { print_line(&format!("deleted group {group}")) }
}

fn settings(group: &Value) -> String {
    let Some(spec) = group.get("spec") else { return String::new() };
    format!(
        "  created       {}\n  max attempts  {}\n  retry         {}\n  lease min     {}\n  start         {}\n  fifo          {}\n  dialect       {}",
        created(group),
        count(spec, "max_attempts"),
        retry(spec),
        length(count(spec, "lease_min_ms")),
        field(spec, "start"),
        field(spec, "fifo"),
        dialect(spec, "that of each topic"),
    ) + &match spec.get("priority_factor").and_then(Value::as_u64) {
        Some(factor) => format!("\n  priority      first in {factor} % of receives"),
        None => String::new(),
    } + &spec.get("lite").map(lite).unwrap_or_default()
}

fn lite(lite: &Value) -> String {
    let is = |name: &str| lite.get(name).and_then(Value::as_bool) == Some(true);
    let topic = field(lite, "topic");
    if is("wildcard") {
        return format!("\n  lite topics   all of {topic}");
    }
    let model = if is("exclusive") { "exclusive" } else { "shared" };
    let quota = grouped(count(lite, "quota"));
    format!("\n  lite topics   of {topic}, {model}, {quota} a client")
}

fn retry(spec: &Value) -> String {
    let Some(retry) = spec.get("retry") else { return String::new() };
    if let Some(exponential) = retry.get("exponential") {
        return format!(
            "{} × {} up to {}",
            length(count(exponential, "initial_ms")),
            field(exponential, "multiplier"),
            length(count(exponential, "max_ms"))
        );
    }
    let waits = list(retry, "customized_ms").iter().filter_map(Value::as_u64);
    waits.map(|wait| length(wait).to_string()).collect::<Vec<_>>().join(", ")
}

fn created(group: &Value) -> String {
    group.get("created_ms").and_then(Value::as_i64).map(time).unwrap_or_default()
}

/// Reads where to move a group.
fn place(text: &str) -> Result<Value, String> {
    if matches!(text, "earliest" | "latest") {
        return Ok(text.into());
    }
    let pair = text
        .split_once(':')
        .and_then(|(queue, offset)| Some((queue.parse::<u32>().ok()?, offset.parse::<u64>().ok()?)));
    if let Some((queue, offset)) = pair {
        return Ok(json!({ "offset": { "queue": queue, "offset": offset } }));
    }
    let Moment(ms) = text.parse().map_err(|_| {
        "write earliest, latest, a time such as 2026-11-01T00:00:00Z, or QUEUE:OFFSET".to_owned()
    })?;
    Ok(json!({ "timestamp": ms }))
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_words_times_or_offsets() {
        assert_eq!(place("earliest").unwrap(), json!("earliest"));
        assert_eq!(place("3:120").unwrap(), json!({ "offset": { "queue": 3, "offset": 120 } }));
        assert_eq!(place("1970-01-01T00:00:01Z").unwrap(), json!({ "timestamp": 1000 }));
        assert!(place("yesterday").is_err());
    }
}
