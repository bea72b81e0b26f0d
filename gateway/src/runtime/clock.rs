//! The clocks, read at the edge only.
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use gateway_ike::Time;

/// Time as IKE wants it, counted from the daemon's start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    start: Instant,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    pub(super) fn now(self) -> Time {
        let mono_ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let unix_s = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        Time { mono_ms, unix_s }
    }

    /// Milliseconds since 1970, for people.
    pub(super) fn unix_ms(self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn instant(self, mono_ms: u64) -> tokio::time::Instant {
        (self.start + Duration::from_millis(mono_ms)).into()
    }

    pub(super) fn uptime_s(self) -> u64 {
        self.start.elapsed().as_secs()
    }
}
