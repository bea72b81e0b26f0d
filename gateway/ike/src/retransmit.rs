//! When a request is sent again, and when the peer counts as gone (RFC 7296 sections 2.1 and 2.4).

/// How requests are repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetransmitPolicy {
    /// Wait before the first repetition; each further wait is twice the one before.
    pub initial_ms: u64,
    /// No wait is longer than this.
    pub longest_ms: u64,
    /// Repetitions before the peer counts as gone.
    pub repetitions_max: u32,
}

impl Default for RetransmitPolicy {
    /// 1, 2, 4, 8, 8, 8 s, and 8 s more for the last answer: 39 s in all.
    fn default() -> Self {
        Self {
            initial_ms: 1_000,
            longest_ms: 8_000,
            repetitions_max: 6,
        }
    }
}

/// The clock of one outstanding request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retransmission {
    policy: RetransmitPolicy,
    repetitions: u32,
    wait_ms: u64,
    /// When to act next, in the caller's monotonic milliseconds.
    pub due_ms: u64,
}

/// What to do when a request is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Not yet.
    Wait,
    /// Send the same bytes again.
    Repeat,
    /// Give up.
    GiveUp,
}

impl Retransmission {
    /// For a request sent at `now_ms`.
    pub fn start(policy: RetransmitPolicy, now_ms: u64) -> Self {
        let wait_ms = policy.initial_ms.max(1);
        Self {
            policy,
            repetitions: 0,
            wait_ms,
            due_ms: now_ms.saturating_add(wait_ms),
        }
    }

    /// How often the request was repeated.
    pub fn repetitions(&self) -> u32 {
        self.repetitions
    }

    /// Moves the clock; call once per due time.
    pub fn poll(&mut self, now_ms: u64) -> Due {
        if now_ms < self.due_ms {
            return Due::Wait;
        }
        if self.repetitions >= self.policy.repetitions_max {
            return Due::GiveUp;
        }
        self.repetitions += 1;
        self.wait_ms = self.wait_ms.saturating_mul(2).min(self.policy.longest_ms.max(1));
        self.due_ms = now_ms.saturating_add(self.wait_ms);
        Due::Repeat
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backs_off_then_gives_up() {
        let mut clock = Retransmission::start(RetransmitPolicy::default(), 500);
        assert_eq!(clock.poll(1_499), Due::Wait);
        let mut sent_at = Vec::new();
        let mut now = 500;
        loop {
            now = clock.due_ms.max(now);
            match clock.poll(now) {
                Due::Repeat => sent_at.push(now - 500),
                Due::GiveUp => break,
                Due::Wait => panic!("due at {now}"),
            }
        }
        assert_eq!(sent_at, [1_000, 3_000, 7_000, 15_000, 23_000, 31_000]);
        assert_eq!(now - 500, 39_000);
    }
}
