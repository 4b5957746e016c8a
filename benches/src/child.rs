//! Programs beside the benchmark: on a core of their own, at rest while others are measured, ended with it.

use std::{
    ffi::OsStr,
    fs,
    process::{Child, Command},
    time::Duration,
};

use anyhow::{Context, Result};
use rustix::{
    process::{Pid, Signal, kill_process},
    thread::{CpuSet, sched_setaffinity},
};

/// The unit of times in `/proc/stat` and `/proc/<process>/stat`, in milliseconds.
const TICK_MS: u64 = 10;

/// Puts the calling thread, and the threads that it makes from now on, on one core.
///
/// # Errors
///
/// If the machine does not have it.
pub fn pin(core: usize) -> Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores).with_context(|| format!("cannot run on core {core} alone"))
}

/// Returns a command that runs `program` on one core, and kills it when the calling thread ends, however that comes.
pub(crate) fn pinned(core: usize, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", &core.to_string(), "setpriv", "--pdeathsig", "KILL"]).arg(program);
    command
}

/// Stops a child: its threads get no core until it is [resumed](resume).
///
/// # Errors
///
/// If it has ended.
pub(crate) fn pause(child: &Child) -> Result<()> {
    kill_process(Pid::from_child(child), Signal::STOP).context("cannot stop a process")
}

/// Lets a child go on.
///
/// # Errors
///
/// If it has ended.
pub(crate) fn resume(child: &Child) -> Result<()> {
    kill_process(Pid::from_child(child), Signal::CONT).context("cannot let a process go on")
}

/// Returns how long a process has had a core, all its threads together and those that have ended.
///
/// # Errors
///
/// If the system does not say.
pub fn cpu_time(process: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name of the program, in parentheses, may hold blanks.
    let (_, fields) = stat.rsplit_once(')').context("stat has a name in it")?;
    let fields: Vec<_> = fields.split_whitespace().collect();
    let ticks = |field: usize| -> Result<u64> { Ok(fields.get(field).context("stat is short")?.parse()?) };
    Ok(Duration::from_millis((ticks(11)? + ticks(12)?) * TICK_MS))
}

/// Returns how long the cores of the machine were at work, all together.
///
/// # Errors
///
/// If the system does not say.
pub fn busy_time() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    let fields = stat.lines().next().context("stat is empty")?.split_whitespace().skip(1);
    let ticks = fields.map(str::parse).collect::<Result<Vec<u64>, _>>()?;
    // User, nice, system, idle, waiting for the disk, interrupts of both kinds, taken by the host.
    let [user, nice, system, _, _, hard, soft, stolen, ..] = ticks[..] else {
        anyhow::bail!("stat is short");
    };
    Ok(Duration::from_millis((user + nice + system + hard + soft + stolen) * TICK_MS))
}
