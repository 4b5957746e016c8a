//! The official RocketMQ clients do everything that they offer. Each feature of each client is a check with a name,
//! and a cell of `docs/clients.md`.

mod checks;
mod feature;
mod lite;
mod pending;
mod restart;
mod run;
mod table;

use std::{
    path::Path,
    sync::{Mutex, PoisonError},
    thread,
};

use anyhow::{Context, Result};
use weir_sql_tests::toolchain::Program;

use self::{
    feature::{Feature, Known},
    run::Run,
};
use crate::{Checked, Outcome, broker::Weir};

/// How many clients are at work at a time. More would wait for each other on a machine with two cores.
const AT_ONCE: usize = 3;

/// A client, by its release.
#[derive(Debug)]
struct Client {
    /// Names topics, groups and checks.
    name: &'static str,
    /// What the table calls it, before its version.
    label: &'static str,
    toolchain: &'static str,
    /// Whether it refuses a certificate for which no authority that it trusts vouches.
    verifies: bool,
    prepare: fn() -> Result<Option<Program>>,
}

/// All of them, the slowest first.
static CLIENTS: [Client; 6] = [
    Client {
        name: "java-newest",
        label: "Java",
        toolchain: "a JDK with Maven",
        verifies: false,
        prepare: || Program::java("java", "newest"),
    },
    Client {
        name: "java-oldest",
        label: "Java",
        toolchain: "a JDK with Maven",
        verifies: false,
        prepare: || Program::java("java", "oldest"),
    },
    Client { name: "go", label: "Go", toolchain: "Go", verifies: false, prepare: || Program::go("go") },
    Client {
        name: "python",
        label: "Python",
        toolchain: "Python",
        verifies: true,
        prepare: || Program::python("python"),
    },
    Client {
        name: "node",
        label: "Node",
        toolchain: "Node with npm",
        verifies: true,
        prepare: || Program::node("node"),
    },
    Client {
        name: "rust",
        label: "Rust",
        toolchain: "cargo",
        verifies: true,
        prepare: || Program::rust("rust"),
    },
];

/// What a client does: one column of the table.
struct Column {
    client: &'static Client,
    version: String,
    cells: Vec<(Feature, Outcome)>,
}

/// Checks all clients, or `only` one, and that `docs/clients.md` says what came out; `write` writes it instead.
pub(crate) fn check(weir: &Path, only: Option<&str>, write: bool) -> Result<Vec<Checked>> {
    let home = tempfile::tempdir().context("cannot create a directory")?;
    let (broker, certificate) = Weir::start_with_tls(weir, &home.path().join("data"))?;
    let columns = each(&CLIENTS, |client| {
        if only.is_some_and(|only| only != client.name) {
            return Err(Outcome::Skipped("another one was asked for".to_owned()));
        }
        column(client, weir, &broker.endpoint, home.path(), &certificate)
            .unwrap_or_else(|error| Err(Outcome::Failed(format!("{error:#}"))))
    });
    broker.stop()?;
    let mut checked = Vec::new();
    let mut complete = Vec::new();
    for (client, column) in CLIENTS.iter().zip(columns) {
        match column {
            Ok(column) => complete.push(column),
            Err(outcome) => checked.push((format!("rocketmq-{}", client.name), outcome)),
        }
    }
    let table = match complete.len() == CLIENTS.len() {
        true => table::check(&complete, write),
        false => Outcome::Skipped("not all clients have run".to_owned()),
    };
    for Column { client, version, cells } in complete {
        let name = |feature: Feature| format!("rocketmq-{} {version}: {}", client.name, feature.name());
        checked.extend(cells.into_iter().map(|(feature, outcome)| (name(feature), outcome)));
    }
    checked.push(("docs/clients.md".to_owned(), table));
    Ok(checked)
}

/// Does everything with one client; or tells what became of it when it cannot run.
fn column(
    client: &'static Client,
    weir: &Path,
    endpoint: &str,
    home: &Path,
    certificate: &Path,
) -> Result<Result<Column, Outcome>> {
    let Some(program) = (client.prepare)()? else {
        return Ok(Err(Outcome::Skipped(format!("{} is not on this machine", client.toolchain))));
    };
    let home = home.join(client.name);
    std::fs::create_dir(&home).context("cannot create a directory")?;
    let closing = Mutex::default();
    let run = Run { client, program, weir, endpoint, home: &home, closing: &closing };
    let version = run.version()?;
    let mut done = thread::scope(|scope| {
        let restart = scope.spawn(|| restart::goes_on(&run));
        let mut done = checks::all(&run, certificate);
        done.push((Feature::Restart, restart.join().expect("checks do not panic")));
        done
    });
    let closed = run.close();
    let pushed = done.iter_mut().find(|(feature, _)| *feature == Feature::Push);
    if let Some((_, result @ Ok(()))) = pushed {
        *result = closed;
    }
    let cells = Feature::ALL.into_iter().map(|feature| {
        let result = done.iter_mut().find(|(done, _)| *done == feature);
        let result = result.map(|(_, result)| std::mem::replace(result, Ok(())));
        (feature, outcome(feature.known(client.name), result))
    });
    let cells = cells.collect();
    Ok(Ok(Column { client, version, cells }))
}

/// Returns what a result means for a client of which something is known.
fn outcome(known: Option<Known>, result: Option<Result<()>>) -> Outcome {
    match (known, result) {
        (Some(Known::NotOffered(why)), None) => Outcome::Known(why),
        (Some(Known::NotOffered(_)), Some(_)) => {
            Outcome::Failed("the client is said not to offer this, and a check of it exists".to_owned())
        }
        (Some(Known::Defect(why)), Some(Err(_))) => Outcome::Known(why),
        (Some(Known::Defect(_)), Some(Ok(()))) => {
            Outcome::Failed("works, although the client is said to have a defect".to_owned())
        }
        (Some(Known::Note(_)) | None, Some(Ok(()))) => Outcome::Passed,
        (Some(Known::Note(_)) | None, Some(Err(error))) => Outcome::Failed(format!("{error:#}")),
        (Some(Known::Defect(_) | Known::Note(_)) | None, None) => {
            Outcome::Failed("there is no check of this".to_owned())
        }
    }
}

/// Acts on each item, [`AT_ONCE`] at a time, and returns the answers in their order.
fn each<'a, T: Sync, R: Send>(items: &'a [T], act: impl Fn(&'a T) -> R + Sync) -> Vec<R> {
    let waiting = Mutex::new(items.iter().enumerate());
    let answers = Mutex::new(Vec::new());
    let work = || {
        loop {
            let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((place, item)) = next else { return };
            let answer = act(item);
            answers.lock().unwrap_or_else(PoisonError::into_inner).push((place, answer));
        }
    };
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(work);
        }
    });
    let mut answers = answers.into_inner().unwrap_or_else(PoisonError::into_inner);
    answers.sort_by_key(|(place, _)| *place);
    answers.into_iter().map(|(_, answer)| answer).collect()
}
