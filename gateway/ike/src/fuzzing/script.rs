//! What a fuzzer's octets mean: every string of octets is a script.

/// Opcode of [`Step::DeliverAll`].
pub(super) const DELIVER_ALL: u8 = 2;
/// Opcode of [`Step::Tamper`].
pub(super) const TAMPER: u8 = 10;
const OPCODES: u8 = 15;
/// Longest string of octets within a script.
const BYTES_MAX: usize = 300;

/// One step.
pub(super) enum Step {
    /// The datagram that was sent first arrives.
    DeliverFirst,
    /// The one sent last arrives.
    DeliverLast,
    /// All arrive, and all that is sent in answer.
    DeliverAll,
    /// The first is lost.
    Lose,
    /// The first will arrive twice.
    Repeat,
    /// One that was sent some time ago is sent again.
    Replay(usize),
    /// The first is altered.
    Alter { at: usize, change: u8 },
    /// The first is cut.
    Cut(usize),
    /// Time passes; what is due is done.
    Wait(u64),
    /// A command to one side.
    Command { side: usize, kind: u8 },
    /// The next message that is sealed is altered before.
    Tamper(Vec<Edit>),
    /// A datagram out of thin air.
    Inject { to: usize, bytes: Vec<u8> },
    /// A packet arrives on a Child SA.
    Traffic(usize),
    /// A side forgets everything.
    Crash(usize),
    /// The site's source port, as the center sees it, is another.
    Move(u8),
}

/// One change to payloads in clear.
pub(super) enum Edit {
    /// An octet is changed.
    Alter { at: usize, change: u8 },
    /// Octets come in.
    Insert { at: usize, bytes: Vec<u8> },
    /// Octets go.
    Remove { at: usize, count: usize },
    /// The first payload is said to be of another type.
    First(u8),
    /// All is replaced.
    Replace(Vec<u8>),
}

pub(super) struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn octet(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or(0)
    }

    fn offset(&mut self) -> usize {
        usize::from(u16::from_be_bytes([self.octet(), self.octet()]))
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = self.offset().min(BYTES_MAX).min(self.0.len());
        let (bytes, rest) = self.0.split_at(length);
        self.0 = rest;
        bytes.to_vec()
    }

    fn side(&mut self) -> usize {
        usize::from(self.octet() & 1)
    }

    pub(super) fn next_step(&mut self) -> Option<Step> {
        let opcode = *self.0.split_off_first()? % OPCODES;
        Some(match opcode {
            0 => Step::DeliverFirst,
            1 => Step::DeliverLast,
            DELIVER_ALL => Step::DeliverAll,
            3 => Step::Lose,
            4 => Step::Repeat,
            5 => Step::Replay(self.offset()),
            6 => Step::Alter {
                at: self.offset(),
                change: self.octet(),
            },
            7 => Step::Cut(self.offset()),
            // A tenth of a second to two hours: retransmissions, rekeys and ends of life come into reach.
            8 => Step::Wait(100 * u64::from(self.octet()).pow(2)),
            9 => Step::Command {
                side: self.side(),
                kind: self.octet(),
            },
            TAMPER => {
                let count = 1 + self.octet() % 3;
                Step::Tamper((0..count).map(|_| self.edit()).collect())
            }
            11 => Step::Inject {
                to: self.side(),
                bytes: self.bytes(),
            },
            12 => Step::Traffic(self.side()),
            13 => Step::Crash(self.side()),
            _ => Step::Move(self.octet()),
        })
    }

    fn edit(&mut self) -> Edit {
        match self.octet() % 5 {
            0 => Edit::Alter {
                at: self.offset(),
                change: self.octet(),
            },
            1 => Edit::Insert {
                at: self.offset(),
                bytes: self.bytes(),
            },
            2 => Edit::Remove {
                at: self.offset(),
                count: usize::from(self.octet()),
            },
            3 => Edit::First(self.octet()),
            _ => Edit::Replace(self.bytes()),
        }
    }
}

/// Changes one octet, if there is one.
pub(super) fn alter(bytes: &mut [u8], at: usize, change: u8) {
    let length = bytes.len().max(1);
    if let Some(octet) = bytes.get_mut(at % length) {
        *octet ^= change;
    }
}

pub(super) fn apply(edit: Edit, first: &mut u8, bytes: &mut Vec<u8>) {
    match edit {
        Edit::Alter { at, change } => alter(bytes, at, change),
        Edit::Insert { at, bytes: new } => {
            let at = at.min(bytes.len());
            bytes.splice(at..at, new);
        }
        Edit::Remove { at, count } => {
            let at = at.min(bytes.len());
            let end = at.saturating_add(count).min(bytes.len());
            bytes.drain(at..end);
        }
        Edit::First(kind) => *first = kind,
        Edit::Replace(new) => *bytes = new,
    }
}
