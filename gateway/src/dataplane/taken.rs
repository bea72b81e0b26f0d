//! What one gateway has at a time, of those that run on a host: the second one is told so, and takes nothing away.
//!
//! Both are the kernel's to keep, and end with the process however it ends: what a killed daemon left is free.

use std::fs::{File, TryLockError};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

use super::error::DataplaneError;

/// The name of a link, in this network namespace.
#[derive(Debug)]
pub(crate) struct TakenName {
    _held: UnixDatagram,
}

impl TakenName {
    /// An abstract Unix socket of that name is its mark: it belongs to the network namespace, as the link does.
    ///
    /// # Errors
    /// Who has it, and what to do.
    pub(crate) fn take(name: &str) -> Result<Self, String> {
        let bound = SocketAddr::from_abstract_name(format!("gateway/{name}"))
            .and_then(|address| UnixDatagram::bind_addr(&address));
        match bound {
            Ok(held) => Ok(Self { _held: held }),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(format!(
                "another gateway has it in this network namespace (abstract socket @gateway/{name})\n  \
                 to mend it: stop that one, or run each in a network namespace of its own"
            )),
            Err(error) => Err(format!("abstract socket @gateway/{name}: {error}")),
        }
    }
}

/// The folder of pins. They hold programs on interfaces; who has the folder swaps its own into them.
#[derive(Debug)]
pub(crate) struct TakenFolder {
    _locked: File,
}

impl TakenFolder {
    /// Takes a folder that is there.
    ///
    /// # Errors
    /// [`DataplaneError::PinsTaken`], or it cannot be opened.
    pub(crate) fn take(folder: &Path) -> Result<Self, DataplaneError> {
        let fault = |source| DataplaneError::System {
            path: folder.to_owned(),
            source,
        };
        let opened = File::open(folder).map_err(fault)?;
        match opened.try_lock() {
            Ok(()) => Ok(Self { _locked: opened }),
            Err(TryLockError::WouldBlock) => Err(DataplaneError::PinsTaken {
                path: folder.to_owned(),
            }),
            Err(TryLockError::Error(error)) => Err(fault(error)),
        }
    }
}
