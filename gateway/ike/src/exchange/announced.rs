//! What the other side says in IKE_SA_INIT that it can do, as far as what follows depends on it.

use std::net::IpAddr;

use crate::{
    redirect,
    wire::{Message, notify::kind},
};

/// Said by the other side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Announced {
    /// IKE_AUTH may do without a Child SA (RFC 6023).
    pub(crate) childless: bool,
    /// It has a post-quantum preshared key, perhaps for us (RFC 8784).
    pub(crate) ppk: bool,
    /// It can be sent to another gateway (RFC 5685).
    pub(crate) redirect: bool,
    /// The gateway that sent it to us.
    pub(crate) redirected_from: Option<IpAddr>,
}

impl Announced {
    pub(crate) fn in_message(message: &Message) -> Self {
        let said = |kind| message.notify(kind).is_some();
        Self {
            childless: said(kind::CHILDLESS_IKEV2_SUPPORTED),
            ppk: said(kind::USE_PPK),
            redirect: redirect::is_supported(message),
            redirected_from: redirect::redirected_from(message),
        }
    }
}
