//! What other threads have done for the control task, which goes on meanwhile.
use tokio::sync::mpsc;

use super::compiling::RulesCompiled;
use super::controller::Controller;
use super::engine::Engine;
use super::rejudging::Judged;
use super::reload::FilesRead;

/// What was done.
pub(super) enum Done {
    /// All flows were gone through.
    Judged(Judged),
    /// A rule set was compiled.
    Compiled(Box<RulesCompiled>),
    /// Files of certificates, lists and keys were read.
    Read(FilesRead),
}

/// Where it is told. What is under way is bounded by who begins it: one of each.
pub(super) type Sender = mpsc::UnboundedSender<Done>;
/// Where it is heard.
pub(super) type Receiver = mpsc::UnboundedReceiver<Done>;

impl<E: Engine> Controller<E> {
    pub(super) async fn handle_done(&mut self, done: Done) {
        match done {
            Done::Judged(judged) => self.handle_judged(judged),
            Done::Compiled(compiled) => self.handle_compiled(*compiled),
            Done::Read(read) => self.handle_read(read),
        }
        self.drain().await;
    }
}
