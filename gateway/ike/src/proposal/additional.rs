//! Additional key exchanges (RFC 9370): transform types 6 to 12, each of which stands for one more exchange that is
//! made after the first.

use crate::{
    crypto::kem::Kem,
    wire::sa::{Proposal, Transform, transform_type},
};

/// How many there may be.
const SLOTS: usize = (transform_type::ADDITIONAL_LAST - transform_type::ADDITIONAL_FIRST) as usize + 1;

/// The mechanism of each of the seven types; most often of none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AdditionalKeyExchanges([Option<Kem>; SLOTS]);

/// The types that the peer offers with NONE among the choices and that we do not use: the answer says NONE for each
/// (RFC 9370 section 2.2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Declined([bool; SLOTS]);

impl AdditionalKeyExchanges {
    /// Without any.
    pub const NONE: Self = Self([None; SLOTS]);

    /// One additional exchange, in the first place.
    pub fn one(kem: Kem) -> Self {
        let mut this = Self::NONE;
        if let Some(first) = this.0.first_mut() {
            *first = Some(kem);
        }
        this
    }

    /// Sets the mechanism of place `number`, which counts from 1; false if there is no such place, or it is taken, or
    /// the mechanism is used in another. RFC 9370 section 2.2.1 asks that no mechanism be used twice.
    pub fn set(&mut self, number: usize, kem: Kem) -> bool {
        let fresh = !self.0.contains(&Some(kem));
        let slot = number.checked_sub(1).and_then(|index| self.0.get_mut(index));
        match slot {
            Some(slot @ None) if fresh => {
                *slot = Some(kem);
                true
            }
            _ => false,
        }
    }

    /// True without any.
    pub fn is_empty(&self) -> bool {
        *self == Self::NONE
    }

    /// The mechanisms, in the order in which the exchanges are made.
    pub fn methods(&self) -> impl Iterator<Item = Kem> + use<> {
        self.0.into_iter().flatten()
    }

    /// Place and mechanism of each; places count from 1.
    pub fn numbered(&self) -> impl Iterator<Item = (usize, Kem)> + use<> {
        (1..).zip(self.0).filter_map(|(number, kem)| Some((number, kem?)))
    }

    fn by_type(self) -> impl Iterator<Item = (u8, Option<Kem>)> {
        (transform_type::ADDITIONAL_FIRST..).zip(self.0)
    }

    pub(crate) fn transforms(self) -> impl Iterator<Item = Transform> {
        self.by_type()
            .filter_map(|(kind, kem)| Some(Transform::new(kind, kem?.id())))
    }

    /// Whether the offer has each of these, and can do without what is more; `None` if not.
    pub(crate) fn select(self, offered: &Proposal) -> Option<Declined> {
        let mut declined = Declined::default();
        for ((kind, own), declined) in self.by_type().zip(&mut declined.0) {
            let offers = |id| offered.transforms.contains(&Transform::new(kind, id));
            match own {
                Some(kem) if offers(kem.id()) => {}
                Some(_) => return None,
                None if offered.of_kind(kind).next().is_none() => {}
                None if offers(0) => *declined = true,
                None => return None,
            }
        }
        Some(declined)
    }
}

impl Declined {
    pub(crate) fn transforms(self) -> impl Iterator<Item = Transform> {
        let declined = (transform_type::ADDITIONAL_FIRST..).zip(self.0);
        declined
            .filter(|(_, declined)| *declined)
            .map(|(kind, _)| Transform::new(kind, 0))
    }

    pub(crate) fn is_empty(self) -> bool {
        self == Self::default()
    }
}
