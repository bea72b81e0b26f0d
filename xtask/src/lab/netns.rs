//! Doing things inside a namespace of the lab: programs by `nsenter`, our own sockets by a thread that moves there.

use std::fs::File;
use std::process::Command;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};

use super::topology::Node;

impl Node {
    /// A command that runs `program` in this namespace. `nsenter --net` and not `ip netns exec`, which would give it
    /// a mount namespace of its own and hide /sys/fs/bpf.
    #[must_use]
    pub fn command(self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.namespace_file().display()))
            .arg("--")
            .arg(program);
        command
    }

    /// Runs `work` on a thread that has moved into this namespace; sockets made there stay there.
    ///
    /// # Errors
    /// When the namespace is not there, or what `work` returns.
    pub fn enter<T: Send>(self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.move_thread()?;
                work()
            });
            thread
                .join()
                .unwrap_or_else(|_| Err(anyhow!("a thread in {self} panicked")))
        })
    }

    /// Moves the calling thread into this namespace, for good.
    ///
    /// # Errors
    /// When the namespace is not there or the caller is not root.
    pub fn move_thread(self) -> Result<()> {
        let path = self.namespace_file();
        let file = File::open(&path).with_context(|| format!("{}: is the lab up?", path.display()))?;
        setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("entering {}", self.namespace()))
    }
}
