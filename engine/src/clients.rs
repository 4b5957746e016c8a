//! Which clients are alive.

use std::{sync::Arc, time::Duration};

use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::limits::CLIENT_ALIVE;

/// The last sign of life of each client.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    last: HashMap<Arc<str>, Duration>,
    /// At this number the silent ones are swept out, so that invented names do not pile up.
    sweep_at: usize,
}

impl Clients {
    pub(crate) fn saw(&self, client: &str, now: Duration) {
        let mut seen = self.seen.lock();
        if let Some(last) = seen.last.get_mut(client) {
            *last = now;
            return;
        }
        if seen.last.len() >= seen.sweep_at {
            seen.last.retain(|_, last| now.saturating_sub(*last) <= CLIENT_ALIVE);
            seen.sweep_at = (2 * seen.last.len()).max(1024);
        }
        seen.last.insert(client.into(), now);
    }

    pub(crate) fn gone(&self, client: &str) {
        self.seen.lock().last.remove(client);
    }

    pub(crate) fn is_alive(&self, client: &str, now: Duration) -> bool {
        self.seen.lock().last.get(client).is_some_and(|last| now.saturating_sub(*last) <= CLIENT_ALIVE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_lives_two_minutes_after_its_last_sign() {
        let clients = Clients::default();
        let at = Duration::from_secs;
        assert!(!clients.is_alive("c", at(0)));
        clients.saw("c", at(10));
        assert!(clients.is_alive("c", at(130)));
        assert!(!clients.is_alive("c", at(131)));
        clients.saw("c", at(200));
        clients.gone("c");
        assert!(!clients.is_alive("c", at(200)));
    }
}
