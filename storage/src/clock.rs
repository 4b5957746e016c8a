//! The clock as a trait, so that tests can turn it.

use std::{
    fmt,
    sync::atomic::{AtomicI64, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;

/// Wall time, and time that never goes back.
pub trait Clock: fmt::Debug + Send + Sync {
    /// Returns the wall time in milliseconds since 1970, UTC. It may jump.
    fn wall_ms(&self) -> i64;

    /// Returns the time since some fixed moment of this process. It never goes back.
    fn monotonic(&self) -> Duration;

    /// Calls `turned` whenever time has passed that nobody could have slept through.
    ///
    /// Only a clock that is turned by hand does that; who waits for a moment then looks again.
    fn on_turn(&self, turned: Box<dyn Fn() + Send + Sync>) {
        drop(turned);
    }
}

/// The clock of the machine.
#[derive(Debug)]
pub struct MachineClock {
    start: Instant,
}

impl Default for MachineClock {
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for MachineClock {
    #[expect(clippy::disallowed_methods, reason = "this is where the wall clock is meant to be read")]
    fn wall_ms(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// A clock that stands still until it is turned.
pub struct VirtualClock {
    start_ms: i64,
    elapsed_ms: AtomicI64,
    turned: Mutex<Vec<Box<dyn Fn() + Send + Sync>>>,
}

impl VirtualClock {
    /// Returns a clock whose wall time is `wall_ms` milliseconds since 1970.
    pub const fn new(wall_ms: i64) -> Self {
        Self { start_ms: wall_ms, elapsed_ms: AtomicI64::new(0), turned: Mutex::new(Vec::new()) }
    }

    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        let by = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.elapsed_ms.fetch_add(by, Ordering::SeqCst);
        for turned in self.turned.lock().iter() {
            turned();
        }
    }
}

impl fmt::Debug for VirtualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VirtualClock({} ms)", self.wall_ms())
    }
}

impl Clock for VirtualClock {
    fn wall_ms(&self) -> i64 {
        self.start_ms.saturating_add(self.elapsed_ms.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.elapsed_ms.load(Ordering::SeqCst).unsigned_abs())
    }

    fn on_turn(&self, turned: Box<dyn Fn() + Send + Sync>) {
        self.turned.lock().push(turned);
    }
}
