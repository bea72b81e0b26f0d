//! The lab: two sites, a gateway and a center in network namespaces of this machine.
//!
//! [`Lab::up`] builds what `topology` draws; dropping the [`Lab`], a signal, or `cargo xtask lab down` takes it away.

pub mod center;
pub mod gateway;
pub mod internet;
pub mod line;
pub mod pki;
pub mod service;
pub mod state;
pub mod strongswan;
pub mod tap;
pub mod topology;

mod netns;
mod wiring;

use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Once;

use anyhow::{Context, Result, bail};
use nix::fcntl::Flock;
use nix::unistd::geteuid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::paths;
use gateway::Gateway;
use pki::{Auth, Pki};
use strongswan::{Connection, Release, StrongSwan};
use topology::{Node, Options, STATE, Site};

/// A lab that is up. It is taken down when dropped, unless kept.
#[derive(Debug)]
pub struct Lab {
    options: Options,
    pki: Pki,
    keep: bool,
    _lock: Flock<File>,
}

impl Lab {
    /// Builds the lab, clearing away what an earlier run may have left.
    ///
    /// # Errors
    /// When not root, when another run is using the lab, or when a program of the set-up is missing; what was built so
    /// far is taken down again.
    pub fn up(options: Options) -> Result<Self> {
        if !geteuid().is_root() {
            bail!("the lab needs root: it makes network namespaces");
        }
        let lock = state::lock()?;
        take_down_on_signals();
        take_down().context("clearing an earlier lab")?;
        fs::create_dir_all(STATE).context(STATE)?;
        let lab = Self {
            pki: Pki::ready()?,
            options,
            keep: false,
            _lock: lock,
        };
        // From here on `lab` is dropped, and the lab taken down, if a step fails.
        let changing = state::changing();
        wiring::build(&lab.options)?;
        drop(changing);
        center::start()?;
        if lab.options.internet {
            internet::start()?;
        }
        Ok(lab)
    }

    /// Leaves the lab up when this value is dropped.
    pub fn keep(mut self) {
        self.keep = true;
    }

    /// How this lab was built.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The lab's certificates.
    #[must_use]
    pub fn pki(&self) -> &Pki {
        &self.pki
    }

    /// Starts a site's strongSwan with the lab's usual connection.
    pub fn start_site(&self, site: Site, auth: Auth) -> Result<StrongSwan> {
        self.start_site_with(site, &Connection::of_site(site, auth, &self.options))
    }

    /// Starts a site's strongSwan, of the release that this lab was asked for, with a connection of the caller's.
    pub fn start_site_with(&self, site: Site, connection: &Connection) -> Result<StrongSwan> {
        self.start_router(site, self.options.release, connection)
    }

    /// Starts a site's strongSwan, of this release, with a connection of the caller's.
    pub fn start_router(&self, site: Site, release: Release, connection: &Connection) -> Result<StrongSwan> {
        StrongSwan::start(site.router(), release, &self.pki, connection)
    }

    /// Starts the gateway under test and waits until it answers.
    ///
    /// # Errors
    /// When it is not built or does not start, with what it printed.
    pub fn start_gateway(&self, config: &gateway::Config) -> Result<Gateway> {
        self.start_gateway_program(paths::built_program("gateway")?, config)
    }

    /// Starts this build of the gateway.
    ///
    /// # Errors
    /// When it does not start, with what it printed.
    pub fn start_gateway_program(&self, program: PathBuf, config: &gateway::Config) -> Result<Gateway> {
        Gateway::start(program, &self.pki, config)
    }

    /// Starts strongSwan in the gateway's place, for one site: it has no way to tell equal LANs apart.
    pub fn start_strongswan_gateway(&self, site: Site, auth: Auth) -> Result<StrongSwan> {
        self.start_strongswan_gateway_with(&Connection::of_gateway(site, auth))
    }

    /// Starts strongSwan in the gateway's place with a connection of the caller's.
    pub fn start_strongswan_gateway_with(&self, connection: &Connection) -> Result<StrongSwan> {
        if !self.options.kernel_forwards_in_gateway {
            bail!("strongSwan as gateway needs a lab with kernel_forwards_in_gateway");
        }
        StrongSwan::start(Node::Gateway, Release::default(), &self.pki, connection)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _changing = state::changing();
        if !self.keep
            && let Err(error) = take_down()
        {
            eprintln!("the lab could not be taken down: {error:#}");
        }
    }
}

/// Takes down whatever of a lab there is; does nothing when there is none.
///
/// # Errors
/// When another run is using it, or the kernel refuses.
pub fn down() -> Result<()> {
    let _lock = state::lock()?;
    take_down()
}

/// What of the lab exists, for people.
#[must_use]
pub fn status() -> String {
    let namespaces = wiring::namespaces();
    if namespaces.is_empty() {
        return "the lab is down\n".to_owned();
    }
    let mut text = format!("namespaces: {}\n", namespaces.join(" "));
    for process in state::processes() {
        let state = if process.is_running() { "running" } else { "ended" };
        text += &format!("{:<16} pid {:<8} {state}\n", process.name, process.pid);
    }
    text
}

fn take_down() -> Result<()> {
    state::clear()?;
    wiring::remove()
}

/// On Ctrl-C and the like the lab goes before the process does.
fn take_down_on_signals() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let Ok(mut signals) = Signals::new([SIGINT, SIGTERM, SIGHUP]) else {
            return;
        };
        std::thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                eprintln!("interrupted: taking the lab down");
                // Never released: what the run would start next waits until the process has ended.
                let _changing = state::changing();
                if let Err(error) = take_down() {
                    eprintln!("{error:#}");
                }
                std::process::exit(128 + signal);
            }
        });
    });
}
