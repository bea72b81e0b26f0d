//! Loading the object and attaching its programs so that they outlive this process.
//!
//! **Architecture invariant:** every program is attached through a link that is pinned. A daemon that is killed leaves
//! its programs in place, whose redirects then find no socket and drop. The next daemon swaps its own programs into the
//! same links, so that there is no moment without one.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use aya::maps::ProgramArray;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::{XdpLink, XdpLinkId};
use aya::programs::{ProgramError, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use gateway_common::abi::geometry::Geometry;
use gateway_common::abi::map;
use log::Log;

use super::error::DataplaneError;
use super::object::{EBPF, program};
use super::tables::prepare;
use super::taken::TakenFolder;

/// How a program runs on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// In the driver.
    Native,
    /// In the kernel's generic receive path: slower, for drivers without XDP.
    Generic,
}

impl AttachMode {
    /// Name for people and machines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            AttachMode::Native => "native",
            AttachMode::Generic => "generic",
        }
    }

    const fn xdp(self) -> XdpMode {
        match self {
            AttachMode::Native => XdpMode::Driver,
            AttachMode::Generic => XdpMode::Skb,
        }
    }
}

/// The object in the kernel, and the pins of its links.
pub(crate) struct Loaded {
    pub(crate) ebpf: Ebpf,
    /// Log lines of the programs, if they are asked for.
    log: Mutex<EbpfLogger<&'static dyn Log>>,
    directory: PathBuf,
    _directory_taken: TakenFolder,
    pins: Vec<PathBuf>,
}

impl Loaded {
    /// Loads programs and maps; attaches nothing.
    ///
    /// # Errors
    /// Another gateway has the folder; or what the verifier or the kernel refuses.
    pub(crate) fn load(directory: &Path, geometry: &Geometry) -> Result<Self, DataplaneError> {
        let directory_taken = TakenFolder::take(directory)?;
        let level = log_level();
        let mut loader = EbpfLoader::new();
        loader.override_global(aya_log::LEVEL, &level, true);
        prepare(&mut loader, geometry);
        let mut ebpf = loader.load(EBPF)?;
        let missing = |error: aya_log::Error| DataplaneError::Missing(format!("log ring: {error}"));
        let log = EbpfLogger::init(&mut ebpf).map_err(missing)?;
        let mut loaded = Self {
            ebpf,
            log: Mutex::new(log),
            directory: directory.to_owned(),
            _directory_taken: directory_taken,
            pins: Vec::new(),
        };
        let wanted = [program::WAN, program::TRACE].into_iter();
        let wanted: Vec<_> = wanted.chain(program::STAGES).collect();
        for name in &wanted {
            loaded.program(name)?;
        }
        load_programs(&mut loaded.ebpf, &wanted)
            .map_err(|(program, source)| DataplaneError::Program { program, source })?;
        fill_stages(&mut loaded.ebpf)?;
        fill_tracer(&mut loaded.ebpf)?;
        Ok(loaded)
    }

    /// Hands log lines of the programs on to the daemon's log.
    pub(crate) fn flush_log(&self) {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).flush();
    }

    /// Attaches a program to an interface, in the driver if it can, and pins the link.
    ///
    /// # Errors
    /// [`DataplaneError::Attach`], [`DataplaneError::Pin`].
    pub(crate) fn attach(
        &mut self,
        name: &'static str,
        interface: &str,
        index: u32,
    ) -> Result<AttachMode, DataplaneError> {
        for mode in [AttachMode::Native, AttachMode::Generic] {
            let path = self.pin_path(interface, index, mode);
            if path.exists() && self.take_over(name, &path) {
                tracing::info!(
                    interface,
                    mode = mode.name(),
                    "took over the link of an earlier run"
                );
                self.pins.push(path);
                return Ok(mode);
            }
        }
        let native = match self.attach_as(name, interface, index, AttachMode::Native)? {
            Ok(()) => return Ok(AttachMode::Native),
            Err(reason) => reason,
        };
        match self.attach_as(name, interface, index, AttachMode::Generic)? {
            Ok(()) => {
                tracing::warn!(
                    interface,
                    reason = %native,
                    "the driver does not run XDP: attached in generic mode, which is several times slower"
                );
                Ok(AttachMode::Generic)
            }
            Err(generic) => Err(DataplaneError::Attach {
                interface: interface.to_owned(),
                native,
                generic,
            }),
        }
    }

    /// Removes pins of interfaces that are gone. Called once everything is attached.
    pub(crate) fn forget_others(&self) {
        let ours: HashSet<&PathBuf> = self.pins.iter().collect();
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if !ours.contains(&path) && is_pin(&path) {
                // A pin that stays is a link to an interface that is gone: harmless.
                let _ = fs::remove_file(&path);
            }
        }
    }

    /// Removes the pins; the links go with this process.
    pub(crate) fn unpin(&self) {
        for path in &self.pins {
            if let Err(error) = fs::remove_file(path) {
                tracing::warn!(path = %path.display(), %error, "pin stays behind");
            }
        }
    }

    fn program(&mut self, name: &'static str) -> Result<&mut Xdp, DataplaneError> {
        let missing = || DataplaneError::Missing(format!("program `{name}`"));
        let program = self.ebpf.program_mut(name).ok_or_else(missing)?;
        program.try_into().map_err(|source| DataplaneError::Program {
            program: name,
            source,
        })
    }

    /// Swaps our program into a pinned link, in one step. Not if the link's interface is gone.
    fn take_over(&mut self, name: &'static str, path: &Path) -> bool {
        let Ok(pinned) = PinnedLink::from_pin(path) else {
            return false;
        };
        let taken = XdpLink::try_from(FdLink::from(pinned))
            .map_err(|error| reason(&error))
            .and_then(|link| {
                let xdp = self.program(name).map_err(|error| reason(&error))?;
                let id = xdp.attach_to_link(link).map_err(|error| reason(&error))?;
                // The pin keeps the link; the descriptor may close.
                xdp.take_link(id).map(drop).map_err(|error| reason(&error))
            });
        if let Err(reason) = &taken {
            tracing::debug!(path = %path.display(), %reason, "pinned link is of no use");
            // A stale pin must not block the new one.
            let _ = fs::remove_file(path);
        }
        taken.is_ok()
    }

    /// The inner result says why the kernel does not attach in this mode.
    fn attach_as(
        &mut self,
        name: &'static str,
        interface: &str,
        index: u32,
        mode: AttachMode,
    ) -> Result<Result<(), String>, DataplaneError> {
        let path = self.pin_path(interface, index, mode);
        let xdp = self.program(name)?;
        let id: XdpLinkId = match xdp.attach_to_if_index(index, mode.xdp()) {
            Ok(id) => id,
            Err(error) => return Ok(Err(reason(&error))),
        };
        let fault = |reason: String| DataplaneError::Pin {
            interface: interface.to_owned(),
            path: path.clone(),
            reason,
        };
        let link = xdp.take_link(id).map_err(|error| fault(error.to_string()))?;
        let link = FdLink::try_from(link).map_err(|error| fault(error.to_string()))?;
        // The pin keeps the link; the descriptor may close.
        link.pin(&path).map_err(|error| fault(error.to_string()))?;
        self.pins.push(path);
        Ok(Ok(()))
    }

    fn pin_path(&self, interface: &str, index: u32, mode: AttachMode) -> PathBuf {
        let name = format!("link-{interface}-{index}-{}", mode.name());
        self.directory.join(bpffs_name(&name))
    }
}

/// Loads these programs, as many at a time as there are processors: it is the verifier that takes the time, and it works on
/// each by itself. A name that the object does not have is passed over.
///
/// # Errors
/// Of those that the verifier refuses, the first in the order of `names`; the others may be loaded, and none is attached.
pub fn load_programs<'a>(ebpf: &mut Ebpf, names: &[&'a str]) -> Result<(), (&'a str, ProgramError)> {
    let place = |name: &str| names.iter().position(|wanted| *wanted == name);
    let mut waiting: Vec<_> = ebpf
        .programs_mut()
        .filter_map(|(name, program)| Some((place(name)?, program)))
        .collect();
    // Taken from the end.
    waiting.sort_by_key(|(place, _)| Reverse(*place));
    let threads = thread::available_parallelism()
        .map_or(1, NonZero::get)
        .min(waiting.len());
    let (waiting, refused) = (Mutex::new(waiting), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((place, program)) = locked(&waiting).pop() {
                    let loaded = <&mut Xdp>::try_from(program).and_then(Xdp::load);
                    if let Err(error) = loaded {
                        locked(&refused).push((place, error));
                    }
                }
            });
        }
    });
    let refused = refused.into_inner().unwrap_or_else(PoisonError::into_inner);
    match refused.into_iter().min_by_key(|(place, _)| *place) {
        None => Ok(()),
        Some((place, error)) => Err((names[place], error)),
    }
}

fn locked<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets `clear` hand a packet to its stages, which are loaded. The kernel forgets them when this process ends: packets
/// without a flow are dropped then.
///
/// # Errors
/// The object is of another build.
pub fn fill_stages(ebpf: &mut Ebpf) -> Result<(), DataplaneError> {
    for (number, name) in (0..).zip(program::STAGES) {
        fill_place(ebpf, map::STAGES, number, name)?;
    }
    Ok(())
}

/// Puts a program into an array of programs.
fn fill_place(
    ebpf: &mut Ebpf,
    array: &'static str,
    place: u32,
    name: &'static str,
) -> Result<(), DataplaneError> {
    let missing = |what: String| DataplaneError::Missing(what);
    let xdp: Result<&mut Xdp, _> = ebpf
        .program_mut(name)
        .ok_or_else(|| missing(format!("program `{name}`")))?
        .try_into();
    let program =
        xdp.and_then(|xdp| Ok(xdp.fd()?.try_clone()?))
            .map_err(|source| DataplaneError::Program {
                program: name,
                source,
            })?;
    let map = ebpf
        .map_mut(array)
        .ok_or_else(|| missing(format!("map {array}")))?;
    let mut programs = ProgramArray::try_from(map).map_err(DataplaneError::map(array))?;
    let set = programs.set(place, &program, 0);
    set.map_err(DataplaneError::map(array))
}

/// Lets programs tell of packets that are traced, by the program for it, which is loaded.
///
/// # Errors
/// The object is of another build.
pub fn fill_tracer(ebpf: &mut Ebpf) -> Result<(), DataplaneError> {
    fill_place(ebpf, map::TRACER, 0, program::TRACE)
}

/// What the programs log: every drop if the daemon's log lets `gateway_ebpf` through at `trace`, else nothing. Off, it
/// is a constant to the verifier, which leaves the code out.
fn log_level() -> u8 {
    const OFF: u8 = 0;
    if tracing::enabled!(target: "gateway_ebpf", tracing::Level::TRACE) {
        aya_log::Level::Trace as u8
    } else {
        OFF
    }
}

/// A name that a BPF file system takes: it has no dots, as VLAN interfaces and gateways do. No interface has a colon.
pub(crate) fn bpffs_name(name: &str) -> String {
    name.replace(['.', '/'], ":")
}

fn is_pin(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with("link-"))
}

/// An error with its cause: aya's own words do not name the system's.
fn reason(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", reason(source)),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel refuses to make anything whose name has a dot on a BPF file system.
    #[test]
    fn vlan_interfaces_and_gateways_with_dots_have_names_that_bpffs_takes() {
        let names = [
            "link-eth0.100-7-native",
            "link-eth0-100-7-native",
            "gateway-gw.example",
        ];
        let taken = names.map(bpffs_name);
        assert!(taken.iter().all(|name| !name.contains(['.', '/'])));
        assert_eq!(taken.iter().collect::<HashSet<_>>().len(), 3, "each its own");
    }
}
