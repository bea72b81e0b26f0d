//! The daemon: sockets, clock and signals around the IKE endpoint and the data plane.
//!
//! One task, the [`controller`], owns all state and takes what comes in turn: datagrams, deadlines, API calls, the tick
//! of a second. What IKE puts out is applied in order, so that an SA stands before the message that tells the peer.
mod authorizer;
mod clock;
mod controller;
mod engine;
mod events;
mod prepare;
mod requests;
mod sockets;

pub use controller::Controller;
pub use engine::{Engine, SaTraffic, Tables};
pub use prepare::{Prepared, assignments_path, prepare};
pub use sockets::{Datagram, Sockets};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::api::server::Server;

/// Only root may use the API.
const API_UID: u32 = 0;
/// Datagrams that wait for the controller; more are dropped, as a socket buffer would.
const DATAGRAMS_MAX: usize = 1024;
/// API calls that wait for the controller.
const CALLS_MAX: usize = 16;

/// x
pub fn run(_: Prepared) -> anyhow::Result<()> {
    Ok(())
}
