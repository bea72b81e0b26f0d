//! The CLI's end of the socket.
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::message::{Envelope, Reply, Request};

/// The daemon answers at once; a rule set of any size compiles in less.
const ANSWER_S: u64 = 30;

/// Why there is no view.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The socket could not be opened, or the daemon went away.
    #[error("no gateway answers at {}: {error}{}", .path.display(), remedy(.error))]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// It was asked, and may yet do it.
    #[error(
        "the gateway at {} has not answered for {ANSWER_S} s; what was asked may still be done: look at what is in force before asking again", .path.display()
    )]
    Silent {
        /// The socket.
        path: PathBuf,
    },
    /// The daemon said no.
    #[error("{0}")]
    Refused(String),
    /// The answer is not of this release's shape.
    #[error("the daemon's answer is not understood: {0}; use the CLI of the daemon's release")]
    Answer(#[from] serde_json::Error),
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            "\n  to mend it: start it with `gateway run --config FILE`, or name its socket with --socket"
        }
        io::ErrorKind::PermissionDenied => "\n  to mend it: become root",
        _ => "",
    }
}

/// A connection to the daemon.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    path: PathBuf,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`].
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let unreachable = |error| ClientError::Unreachable {
            path: path.to_owned(),
            error,
        };
        let stream = UnixStream::connect(path).map_err(unreachable)?;
        stream
            .set_read_timeout(Some(Duration::from_secs(ANSWER_S)))
            .map_err(unreachable)?;
        Ok(Self {
            stream: BufReader::new(stream),
            path: path.to_owned(),
        })
    }

    /// Asks, and waits for the view.
    ///
    /// # Errors
    /// As [`ClientError`] says.
    pub fn call(&mut self, request: &Request) -> Result<serde_json::Value, ClientError> {
        let mut line = serde_json::to_vec(&Envelope::new(request))?;
        line.push(b'\n');
        let answer = self.exchange(&line);
        let answer = answer.map_err(|error| self.no_answer(error))?;
        match serde_json::from_slice::<Envelope<Reply>>(&answer)?.message {
            Reply::Ok(view) => Ok(view),
            Reply::Error(words) => Err(ClientError::Refused(words)),
        }
    }

    fn no_answer(&self, error: io::Error) -> ClientError {
        let path = self.path.clone();
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::Silent { path },
            _ => ClientError::Unreachable { path, error },
        }
    }

    /// Hands on each line that the daemon sends from now on, until it ends.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] when the daemon is gone, or what `on_line` returns.
    pub fn follow(self, mut on_line: impl FnMut(&str) -> Result<(), ClientError>) -> Result<(), ClientError> {
        self.follow_until(|line| on_line(line).map(ControlFlow::Continue))
    }

    /// The same until `on_line` says that it was the last.
    ///
    /// # Errors
    /// As [`Client::follow`].
    pub fn follow_until(
        mut self,
        mut on_line: impl FnMut(&str) -> Result<ControlFlow<()>, ClientError>,
    ) -> Result<(), ClientError> {
        let path = self.path.clone();
        let unreachable = |error| ClientError::Unreachable {
            path: path.clone(),
            error,
        };
        // Nothing may happen for hours.
        self.stream
            .get_ref()
            .set_read_timeout(None)
            .map_err(unreachable)?;
        let mut line = String::new();
        loop {
            line.clear();
            match self.stream.read_line(&mut line) {
                Ok(0) => return Err(unreachable(io::ErrorKind::UnexpectedEof.into())),
                Ok(_) if on_line(line.trim_end())?.is_break() => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(unreachable(error)),
            }
        }
    }

    fn exchange(&mut self, line: &[u8]) -> io::Result<Vec<u8>> {
        // A daemon that refuses this user answers and hangs up before it reads: its answer says more than the error.
        let written = self.stream.get_mut().write_all(line);
        let mut answer = Vec::new();
        let read = self.stream.by_ref().read_until(b'\n', &mut answer);
        if answer.is_empty() {
            written?;
            read?;
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A rule set that is loaded late is loaded all the same.
    #[test]
    fn a_daemon_that_is_slow_is_not_one_that_is_not_there() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("gateway.sock");
        let _daemon = std::os::unix::net::UnixListener::bind(&path).expect("bound");
        let mut client = Client::connect(&path).expect("connected");
        let limit = Some(Duration::from_millis(1));
        client.stream.get_ref().set_read_timeout(limit).expect("set");
        let error = client.call(&Request::Drops).expect_err("no answer").to_string();
        assert!(error.contains("may still be done"), "{error}");
    }
}
