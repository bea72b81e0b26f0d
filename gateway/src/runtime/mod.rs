//! The daemon: sockets, clock and signals around the IKE endpoint and the data plane.
//!
//! One task, the [`controller`], owns all state and takes what comes in turn: datagrams, deadlines, API calls, the tick
//! of a second, what other threads have done for it. What IKE puts out is applied in order, so that an SA stands before the message that tells the peer.
mod asked;
mod authorizer;
mod clock;
mod compiling;
mod connections;
mod controller;
mod credentials;
mod done;
mod engine;
mod event_file;
mod events;
mod inspect;
mod interfaces;
mod journal;
mod ledger;
mod listing;
mod names;
mod nat;
pub mod nat_log;
mod prepare;
mod rejudging;
mod reload;
mod requests;
mod rules;
mod secret_file;
mod secrets;
mod service_manager;
mod sockets;
mod state_dir;
mod sweeper;
mod trace;
mod ways;
mod xdp;

pub use controller::Controller;
pub use credentials::Credentials;
pub use engine::{Engine, Happening, Reader, SaTraffic, Tables};
pub(crate) use nat::pool_view;
pub use prepare::{Prepared, assignments_path, prepare, read_assignments, stored_assignments};
pub use sockets::{Datagram, DatagramQueue, Sockets};

use std::path::Path;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{broadcast, mpsc};

use event_file::EventFile;
use state_dir::StateDir;
use xdp::Xdp;

use crate::api::server::Server;
use crate::config::Config;
use crate::core::journal::EventLine;
use crate::dataplane::{self, ServiceSockets};

/// Only root may use the API.
const API_UID: u32 = 0;
/// Datagrams that wait for the controller; more are dropped, as a socket buffer would, and counted.
const DATAGRAMS_MAX: usize = 1024;
/// Events that a subscriber may be behind; further ones are lost to it, and it is told how many.
const EVENTS_MAX: usize = 4096;
/// API calls that wait for the controller.
const CALLS_MAX: usize = 16;

/// Runs the gateway until a signal ends it. Whatever happens, nothing passes once this returns.
///
/// # Errors
/// If something is wrong with what the configuration names, or a part cannot start; what had started is undone.
pub fn run(config: Config) -> anyhow::Result<()> {
    // Before the first secret is read.
    dataplane::forbid_core_dumps()?;
    // One thread for the controller, its sockets, netlink and the API: they wait for each other, and waking another
    // thread for each datagram costs more than the cryptography of a handshake. The ESP workers have their own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("asynchronous runtime")?;
    // From here on a SIGHUP waits until it can be served; until then it would end the process.
    let hangup = {
        let _inside = runtime.enter();
        signal(SignalKind::hangup()).context("SIGHUP")?
    };
    // Before anything of it is read: another daemon may be about to change it.
    let _state_dir = StateDir::take(&config.state_dir)?;
    let prepared = prepare(config)?;
    let (events, _) = broadcast::channel(EVENTS_MAX);
    let path = prepared.config.events_file.as_deref();
    let open = |path: &Path| {
        event_file::write_to(path, events.subscribe()).with_context(|| path.display().to_string())
    };
    let event_file = path.map(open).transpose()?;
    let outcome = runtime.block_on(serve(prepared, events, hangup));
    // With it everybody ends who could tell of something.
    runtime.shutdown_background();
    event_file.into_iter().for_each(EventFile::finish);
    outcome
}

async fn serve(
    prepared: Prepared,
    events: broadcast::Sender<EventLine>,
    hangup: Signal,
) -> anyhow::Result<()> {
    let server = Server::bind(&prepared.config.socket, API_UID)
        .with_context(|| prepared.config.socket.display().to_string())?;
    let (queue, datagrams) = DatagramQueue::new(DATAGRAMS_MAX);
    let (call_sender, calls) = mpsc::channel(CALLS_MAX);
    // First of all that the kernel gives to one process only: where another gateway has the ports, its clear link, programs
    // and tunnels are left alone.
    let sockets = Sockets::bind(&prepared.config, queue.clone())?;
    let mut engine = Xdp::start(&prepared.config, queue).await?;
    let service = engine.take_service();
    let mut controller = Controller::new(prepared, engine, sockets, events.clone()).await?;
    if let Some(ServiceSockets { udp, tcp }) = service {
        controller.start_dns(crate::dns::server::Sockets { udp, tcp })?;
    }
    reload::on_hangup(hangup, call_sender.clone());
    let api = tokio::spawn(server.run(call_sender, events));
    let ended = controller.run(datagrams, calls, stop_signal()?).await;
    controller.close().await;
    // It ends by itself once the controller takes no more calls; its socket file goes with it.
    api.abort();
    let _ = api.await;
    ended
}

fn stop_signal() -> anyhow::Result<impl Future<Output = &'static str>> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}
