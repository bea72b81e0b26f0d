//! Who is at the other end of the socket.
use std::fs;

use nix::unistd::{Uid, User};
use tokio::net::unix::UCred;

/// The peer, as the kernel knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// Its user (`SO_PEERCRED`).
    pub uid: u32,
    /// Name of the user who logged in: the login uid of the audit subsystem, which `su` and `sudo` leave alone.
    pub login: Option<String>,
}

/// Login uid of a process that nobody logged in for (`AUDIT_UID_UNSET`).
const UNSET: u32 = u32::MAX;

impl Caller {
    /// In words: who logged in, if the kernel knows, and as which user the request was made.
    #[must_use]
    pub fn words(&self) -> String {
        let uid = self.uid;
        match &self.login {
            Some(login) => format!("{login} (uid {uid})"),
            None => format!("uid {uid}"),
        }
    }

    /// Asks the kernel, and the user database for the name.
    #[must_use]
    pub fn new(credentials: &UCred) -> Self {
        let login = credentials.pid().and_then(|pid| {
            let text = fs::read_to_string(format!("/proc/{pid}/loginuid")).ok()?;
            text.trim().parse().ok().filter(|uid| *uid != UNSET)
        });
        let name = |uid: u32| {
            let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
            user.map_or_else(|| format!("uid {uid}"), |user| user.name)
        };
        Self {
            uid: credentials.uid(),
            login: login.map(name),
        }
    }
}
