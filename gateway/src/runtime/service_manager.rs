//! What a service manager hears of the daemon, if one has started it (sd_notify(3)): that it serves, that its control task
//! still comes round, that it stops.
//!
//! Without the second a control task that hangs would go unnoticed: SAs would carry traffic on that nobody rekeys, revokes
//! or expires. A service manager with a watchdog ends such a process, nothing passes, and another one begins.

use sd_notify::NotifyState;

/// Tells the service manager; does nothing where there is none.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServiceManager {
    wants_signs_of_life: bool,
}

impl ServiceManager {
    /// The one that has started this process, by its environment.
    pub(super) fn of_environment() -> Self {
        Self {
            wants_signs_of_life: sd_notify::watchdog_enabled().is_some(),
        }
    }

    /// IKE, API and data plane serve.
    pub(super) fn ready(self) {
        tell(&[NotifyState::Ready]);
    }

    /// The control task has come round; to be told each second.
    pub(super) fn alive(self) {
        if self.wants_signs_of_life {
            tell(&[NotifyState::Watchdog]);
        }
    }

    /// The daemon ends in order.
    pub(super) fn stopping(self, reason: &str) {
        tell(&[NotifyState::Stopping, NotifyState::Status(reason)]);
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager was not told {states:?}");
    }
}
