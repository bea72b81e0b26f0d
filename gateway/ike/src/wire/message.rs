//! The payloads of one message, looked up by what they are.

use super::{
    Payload, WireError, auth::Authentication, id::Identification, ke::KeyExchange, nonce::Nonce,
    notify::Notify, puzzle::PuzzleSolution, sa::SecurityAssociation, ts::TrafficSelectors,
};

/// All payloads of a message, in order; the encrypted ones opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message(pub Vec<Payload>);

/// Picks the first payload of a kind.
macro_rules! first {
    ($(#[$doc:meta] $name:ident: $variant:ident -> $kind:ty;)*) => {
        $(
            #[$doc]
            pub fn $name(&self) -> Option<&$kind> {
                self.0.iter().find_map(|payload| match payload {
                    Payload::$variant(found) => Some(found),
                    _ => None,
                })
            }
        )*
    };
}

impl Message {
    /// Parses a chain, see [`Payload::parse_chain`].
    ///
    /// # Errors
    /// The first fault.
    pub fn parse(first: u8, bytes: &[u8]) -> Result<Self, WireError> {
        Payload::parse_chain(first, bytes).map(Self)
    }

    first! {
        /// The proposals.
        sa: Sa -> SecurityAssociation;
        /// The public value.
        ke: Ke -> KeyExchange;
        /// The nonce.
        nonce: Nonce -> Nonce;
        /// The initiator's identity.
        id_i: IdI -> Identification;
        /// The responder's identity.
        id_r: IdR -> Identification;
        /// The proof of identity.
        auth: Auth -> Authentication;
        /// The initiator's traffic.
        ts_i: TsI -> TrafficSelectors;
        /// The responder's traffic.
        ts_r: TsR -> TrafficSelectors;
        /// The solution of a puzzle.
        puzzle_solution: PuzzleSolution -> PuzzleSolution;
    }

    /// All notifications.
    pub fn notifies(&self) -> impl Iterator<Item = &Notify> {
        self.0.iter().filter_map(|payload| match payload {
            Payload::Notify(notify) => Some(notify),
            _ => None,
        })
    }

    /// The first notification of a kind.
    pub fn notify(&self, kind: u16) -> Option<&Notify> {
        self.notifies().find(|notify| notify.kind == kind)
    }

    /// The first notification that is an error.
    pub fn error(&self) -> Option<&Notify> {
        self.notifies().find(|notify| notify.is_error())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::notify::kind, *};

    #[test]
    fn finds_by_kind() {
        let message = Message(vec![
            Payload::Notify(Notify::new(kind::INITIAL_CONTACT, [])),
            Payload::Notify(Notify::new(kind::TS_UNACCEPTABLE, [])),
            Payload::Nonce(Nonce(vec![1; 16])),
        ]);
        assert_eq!(
            message.error().map(|notify| notify.kind),
            Some(kind::TS_UNACCEPTABLE)
        );
        assert!(message.notify(kind::INITIAL_CONTACT).is_some());
        assert!(message.nonce().is_some() && message.sa().is_none());
    }
}
