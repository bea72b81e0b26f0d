//! Alters the payloads of the next message that this thread seals, and keeps what they were.

use std::cell::RefCell;

use zeroize::Zeroize as _;

use super::script::{Edit, apply};
use crate::wire::ChainBuilder;

#[derive(Default)]
struct Tamper {
    armed: Vec<Edit>,
    seen: Vec<(u8, Vec<u8>)>,
}

thread_local! {
    static TAMPER: RefCell<Tamper> = RefCell::default();
}

/// The next message is altered so.
pub(super) fn arm(edits: Vec<Edit>) {
    TAMPER.with_borrow_mut(|tamper| tamper.armed = edits);
}

/// Forgets what was armed and seen.
pub(super) fn disarm() {
    TAMPER.with_borrow_mut(|tamper| *tamper = Tamper::default());
}

/// First type and octets of every chain sealed so far.
pub(super) fn seen() -> Vec<(u8, Vec<u8>)> {
    TAMPER.with_borrow(|tamper| tamper.seen.clone())
}

/// What is sealed in place of `chain`.
pub(crate) fn tampered(chain: ChainBuilder) -> ChainBuilder {
    let Ok((mut first, mut bytes)) = chain.finish() else {
        return ChainBuilder::new();
    };
    TAMPER.with_borrow_mut(|tamper| {
        tamper.seen.push((first, bytes.clone()));
        for edit in tamper.armed.drain(..) {
            apply(edit, &mut first, &mut bytes);
        }
    });
    let altered = ChainBuilder::from_raw(first, bytes.clone());
    bytes.zeroize();
    altered
}
