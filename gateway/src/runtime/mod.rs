//! The daemon: sockets, clock and signals around the IKE endpoint and the data plane.
//!
//! One task, the [`controller`], owns all state and takes what comes in turn: datagrams, deadlines, API calls, the tick
//! of the data plane. What IKE puts out is applied in order, so that an SA stands before the message that tells the peer.
mod authorizer;
mod clock;
mod controller;
mod engine;
mod events;
mod prepare;
mod requests;
mod sockets;
mod xdp;

pub use controller::Controller;
pub use engine::{Engine, Happening, SaTraffic, Tables};
pub use prepare::{Prepared, assignments_path, prepare};
pub use sockets::{Datagram, Sockets};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::api::server::Server;
use crate::dataplane::Dataplane;

/// Only root may use the API.
const API_UID: u32 = 0;
/// Datagrams that wait for the controller; more are dropped, as a socket buffer would.
const DATAGRAMS_MAX: usize = 1024;
/// API calls that wait for the controller.
const CALLS_MAX: usize = 16;

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// What could not be set up; nothing is left behind then.
pub fn run(prepared: Prepared) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(serve(prepared))
}

async fn serve(prepared: Prepared) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let socket = prepared.config.socket.clone();
    let server =
        Server::bind(&socket, API_UID).with_context(|| format!("API socket {}", socket.display()))?;
    prepare::make_state_dir(&prepared.config)?;
    let dataplane = Dataplane::start(&xdp::dataplane_config(&prepared.config)?).context("data plane")?;
    let engine = xdp::XdpEngine::new(dataplane).await?;
    let (datagrams, incoming) = mpsc::channel(DATAGRAMS_MAX);
    let sockets = Sockets::bind(&prepared.config, &datagrams).context("IKE sockets")?;
    let (calls, requests) = mpsc::channel(CALLS_MAX);
    let mut controller = Controller::new(prepared, engine, sockets).await?;
    tokio::spawn(server.run(calls));
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    };
    controller.run(incoming, requests, stop).await;
    controller.close().await;
    Ok(())
}
