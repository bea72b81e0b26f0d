//! Certificates, authorities, revocation lists and shared keys that change while the daemon runs.
//!
//! A revocation list may have tens of megabytes, and takes a second to read: files are read on another thread. What was in
//! force stays so until they are; then every established IKE SA is measured by the new ones, those that came meanwhile too.
//! One is read after the other, so that of two contents of a file the later one stays.
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use gateway_ike::pki::trust::{TrustAnchors, TrustError};
use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;

use super::controller::Controller;
use super::credentials::{Credentials, readable_trust};
use super::done::Done;
use super::engine::Engine;
use crate::api::caller::Caller;
use crate::api::message::{Reply, Request};
use crate::api::server::Call;
use crate::api::view;
use crate::config::Config;
use crate::core::journal::Notice;

/// Seconds between two looks at the files of authorities and revocation lists.
const LOOK_EVERY_S: u32 = 3;

/// Seconds after which files that were refused are read again, though they are the same ones: there was no memory or file descriptor
/// left, the clock was wrong, a list's time has come, or a site's chain has shown since whose list it is.
const AGAIN_AFTER_S: u32 = 60;

/// Sees that files were replaced.
pub(super) struct Watch {
    files: Vec<PathBuf>,
    /// What the files were when they were read last.
    loaded: Vec<Stamp>,
    last_look: Vec<Stamp>,
    /// Why that was not taken over, if so.
    refused: Option<Refused>,
    seconds: u32,
    /// Ends that were told already: what, of whom, when, whether it is over.
    told: BTreeSet<(What, String, Option<i64>, bool)>,
}

struct Refused {
    reason: String,
    again_in_s: u32,
}

/// Files that are being read.
#[derive(Default)]
pub(super) struct Reading {
    under_way: bool,
    /// Asked for while others were read: what these say may be older than what is asked for.
    asked: Vec<oneshot::Sender<Reply>>,
}

/// What files say.
pub(super) enum FilesRead {
    /// Authorities and revocation lists, of which one has changed, and what is wrong with files of lists.
    Changed(anyhow::Result<(TrustAnchors, Vec<anyhow::Error>)>),
    /// All, and who is to be told.
    All(Box<anyhow::Result<Credentials>>, Vec<oneshot::Sender<Reply>>),
}

/// What comes to an end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    RevocationList,
    OwnCertificate,
    Authority,
}

/// What tells one content of a file from the next; `None` while it is not there.
pub(super) type Stamp = Option<(u64, u64, i64, i64)>;

/// The files that are watched: authorities and revocation lists.
pub(super) fn watched(config: &Config) -> Vec<PathBuf> {
    config.ike.ca.iter().chain(&config.ike.crl).cloned().collect()
}

impl Watch {
    /// `loaded`: what the files were before they were read.
    pub(super) fn new(config: &Config, loaded: Vec<Stamp>) -> Self {
        Self {
            last_look: loaded.clone(),
            files: watched(config),
            loaded,
            refused: None,
            seconds: 0,
            told: BTreeSet::new(),
        }
    }

    /// A look; true when files are to be read: they have changed since they were last, or were refused a while ago. And they
    /// stood still since the last look: one that is being written is left alone.
    fn is_due(&mut self) -> bool {
        let now = stamps(&self.files);
        let still = now == self.last_look;
        let changed = now != self.loaded;
        let again = self.refused.as_mut().is_some_and(|refused| {
            refused.again_in_s = refused.again_in_s.saturating_sub(LOOK_EVERY_S);
            refused.again_in_s == 0
        });
        if still && changed {
            // What is wrong with the new ones is told, be it the same.
            self.refused = None;
            self.loaded.clone_from(&now);
        }
        self.last_look = now;
        still && (changed || again)
    }

    /// What was read is not taken over; true when the reason is a new one.
    fn refuse(&mut self, reason: &str) -> bool {
        let before = self.refused.replace(Refused {
            reason: reason.to_owned(),
            again_in_s: AGAIN_AFTER_S,
        });
        before.is_none_or(|before| before.reason != reason)
    }
}

pub(super) fn stamps(files: &[PathBuf]) -> Vec<Stamp> {
    let stamp = |file: &PathBuf| {
        let metadata = std::fs::metadata(file).ok()?;
        let (size, inode) = (metadata.size(), metadata.ino());
        Some((size, inode, metadata.mtime(), metadata.mtime_nsec()))
    };
    files.iter().map(stamp).collect()
}

impl<E: Engine> Controller<E> {
    /// Looks at the files now and then, and at the time that revocation lists have left.
    pub(super) fn next_second_of_files(&mut self) {
        self.watch.seconds += 1;
        if self.watch.seconds < LOOK_EVERY_S {
            return;
        }
        self.watch.seconds = 0;
        // A change that is not looked at now is there the next time.
        if !self.reading.under_way && self.watch.is_due() {
            let config = Arc::clone(&self.config);
            self.read(move || FilesRead::Changed(readable_trust(&config)));
        }
        self.tell_what_ends();
    }

    /// Reads everything again. If anything is wrong, all stays as it is. Tells what came of it.
    pub(super) fn reload(&mut self, reply: oneshot::Sender<Reply>) {
        self.reading.asked.push(reply);
        self.read_what_is_asked();
    }

    fn read_what_is_asked(&mut self) {
        if self.reading.under_way || self.reading.asked.is_empty() {
            return;
        }
        let asked = std::mem::take(&mut self.reading.asked);
        let config = Arc::clone(&self.config);
        self.read(move || FilesRead::All(Box::new(Credentials::read(&config)), asked));
    }

    fn read(&mut self, files: impl FnOnce() -> FilesRead + Send + 'static) {
        self.reading.under_way = true;
        let done = self.done.clone();
        spawn_blocking(move || {
            // Nobody is there any more when the daemon has ended.
            let _ = done.send(Done::Read(files()));
        });
    }

    /// Puts in force what was read.
    pub(super) fn handle_read(&mut self, read: FilesRead) {
        self.reading.under_way = false;
        match read {
            FilesRead::Changed(trust) => {
                let because = "a file changed";
                let (trust, faults) = match trust {
                    Ok((trust, unread)) => {
                        let (right, faults) = self.without_what_is_wrong(trust, &unread);
                        (Some(right), faults)
                    }
                    Err(error) => (None, format!("{error:#}")),
                };
                let is_news = match faults.is_empty() {
                    true => {
                        self.watch.refused = None;
                        true
                    }
                    // Read again with the same outcome, all that is right is in force already.
                    false => self.watch.refuse(&faults),
                };
                if is_news && !faults.is_empty() {
                    self.record_refusal(because, &faults);
                }
                if let Some(trust) = trust.filter(|_| is_news) {
                    self.set_trust(trust, because);
                }
            }
            FilesRead::All(credentials, asked) => {
                let read = credentials.and_then(|read| {
                    for list in read.trust.revocation_lists() {
                        read.trust.check_signer(list)?;
                    }
                    let trust = self.nothing_forgotten(read.trust)?;
                    Ok(Credentials { trust, ..read })
                });
                let read = self.recorded(read, "reload");
                let reloaded = read.map(|credentials| self.take_over_credentials(credentials));
                for reply in asked {
                    // The client may have gone; that is its affair.
                    let _ = reply.send(match &reloaded {
                        Ok(view) => Reply::view(view),
                        Err(reason) => Reply::Error(reason.clone()),
                    });
                }
            }
        }
        self.read_what_is_asked();
    }

    /// Records why something cannot be taken over.
    fn recorded<T>(&mut self, read: anyhow::Result<T>, because: &'static str) -> Result<T, String> {
        read.map_err(|error| {
            let reason = format!("{error:#}");
            self.record_refusal(because, &reason);
            reason
        })
    }

    fn record_refusal(&mut self, because: &'static str, reason: &str) {
        self.record(Notice::CredentialsRefused { because, reason });
    }

    fn take_over_credentials(&mut self, credentials: Credentials) -> view::Reloaded {
        let Credentials {
            credential,
            trust,
            shared_keys,
            ppks,
            stamps,
        } = credentials;
        self.watch.loaded = stamps;
        self.watch.refused = None;
        self.endpoint.set_credential(credential);
        self.endpoint.set_ppks(ppks);
        self.endpoint.set_shared_keys(self.clock.now(), shared_keys);
        let view = self.set_trust(trust, "reload");
        let source = &self.config.source;
        let configuration_changed = source.has_changed().then(|| source.file().to_owned());
        if let Some(file) = &configuration_changed {
            tracing::warn!(file = %file.display(), "the configuration has changed since the start; that takes a restart");
        }
        view::Reloaded {
            configuration_changed,
            ..view
        }
    }

    /// What was revoked stays so: lists are not followed backwards. That an authority has lists for other certificates than
    /// before nobody but the operator can know, who asks for it here.
    fn nothing_forgotten(&self, trust: TrustAnchors) -> anyhow::Result<TrustAnchors> {
        let faults = trust.faults_beside(self.endpoint.trust(), self.clock.now().unix_s);
        for fault in faults {
            match fault {
                TrustError::OtherScope { issuer } => {
                    tracing::warn!(%issuer, "lists for other certificates than before take the place of a revocation list");
                }
                other => return Err(other.into()),
            }
        }
        Ok(trust)
    }

    /// What is wrong with the list of one issuer, or with its file, leaves those of others alone: they are followed, and what was
    /// in force of that one stays. Nobody waits for an answer here who could mend it. And what is wrong.
    fn without_what_is_wrong(
        &self,
        mut trust: TrustAnchors,
        unread: &[anyhow::Error],
    ) -> (TrustAnchors, String) {
        let before = self.endpoint.trust();
        let faults = trust.keep_what_was_known_to(before, self.clock.now().unix_s);
        if !unread.is_empty() {
            trust.keep_lists_without_successor(before);
        }
        let unread = unread.iter().map(|fault| format!("{fault:#}"));
        let faults: Vec<_> = unread.chain(faults.iter().map(ToString::to_string)).collect();
        (trust, faults.join("\n"))
    }

    /// What is wrong with the revocation lists of the start. They are in use all the same: what they say is unknown then, and the
    /// peers of their issuers alone are refused.
    pub(super) fn tell_wrong_lists(&mut self) {
        let (trust, now_s) = (self.endpoint.trust(), self.clock.now().unix_s);
        let faults: Vec<_> = trust.wrong_lists(now_s).iter().map(ToString::to_string).collect();
        for fault in faults {
            self.record_refusal("start", &fault);
        }
    }

    fn set_trust(&mut self, trust: TrustAnchors, because: &str) -> view::Reloaded {
        let view = reloaded(&trust);
        let before = self.endpoint.set_trust(self.clock.now(), trust);
        spawn_blocking(move || drop(before));
        self.record(Notice::CredentialsLoaded {
            because,
            authorities: &view.authorities,
            lists: &view.revocation_lists,
        });
        self.tell_what_ends();
        view
    }

    /// Says once when a list or certificate is about to end, and once when it is over.
    pub(super) fn tell_what_ends(&mut self) {
        for end in self.what_ends() {
            if !self.watch.told.insert(end.clone()) {
                continue;
            }
            let (what, of, at, expired) = end;
            let at = at.map_or_else(|| "an unknown time".to_owned(), time);
            self.record(match what {
                What::RevocationList => Notice::RevocationListEnds {
                    issuer: &of,
                    next_update: &at,
                    expired,
                },
                What::OwnCertificate | What::Authority => Notice::CertificateEnds {
                    whose: if what == What::Authority {
                        "authority"
                    } else {
                        "gateway"
                    },
                    subject: &of,
                    not_after: &at,
                    expired,
                },
            });
        }
    }

    fn what_ends(&self) -> Vec<(What, String, Option<i64>, bool)> {
        const DAY_S: u64 = 86_400;
        let now = self.clock.now().unix_s;
        let has_ended = |at: i64, unix_s: u64| u64::try_from(at).unwrap_or(0) < unix_s;
        let lists = self.endpoint.trust().revocation_lists().iter();
        let lists = lists
            .filter(|list| list.is_expired(now.saturating_add(DAY_S)))
            .map(|list| {
                let (issuer, next) = (list.issuer().to_string(), list.next_update_unix_s());
                (What::RevocationList, issuer, next, list.is_expired(now))
            });
        let own = [(What::OwnCertificate, self.endpoint.credential().leaf())];
        let authorities = self
            .endpoint
            .trust()
            .certificates()
            .map(|one| (What::Authority, one));
        let certificates = own
            .into_iter()
            .chain(authorities)
            .map(|(what, one)| (what, one.subject().to_string(), one.not_after_unix_s()))
            .filter(|(.., end)| has_ended(*end, now.saturating_add(14 * DAY_S)))
            .map(|(what, subject, end)| (what, subject, Some(end), has_ended(end, now)));
        lists.chain(certificates).collect()
    }
}

fn time(unix_s: i64) -> String {
    super::inspect::time(unix_s)
}

fn reloaded(trust: &TrustAnchors) -> view::Reloaded {
    let lists = trust.revocation_lists().iter().map(|list| view::RevocationList {
        issuer: list.issuer().to_string(),
        this_update: time(list.this_update_unix_s()),
        next_update: list.next_update_unix_s().map(time),
        revoked: list.revoked(),
    });
    view::Reloaded {
        authorities: trust
            .certificates()
            .map(|one| one.subject().to_string())
            .collect(),
        revocation_lists: lists.collect(),
        configuration_changed: None,
    }
}

/// Turns SIGHUP into the call that `gateway reload` makes.
pub(super) fn on_hangup(mut hangup: Signal, calls: mpsc::Sender<Call>) {
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            let (reply, answer) = oneshot::channel();
            let request = Request::Reload;
            if calls
                .send(Call {
                    request,
                    caller: Caller::default(),
                    reply,
                    lines: None,
                })
                .await
                .is_err()
            {
                return;
            }
            // Success and failure are in the log already.
            let _ = answer.await;
        }
    });
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use tokio::signal::unix::{SignalKind, signal};

    use super::*;

    #[tokio::test]
    async fn a_hangup_asks_for_what_the_verb_asks() {
        let (sender, mut calls) = mpsc::channel(1);
        on_hangup(signal(SignalKind::hangup()).expect("a handler"), sender);
        for _ in 0..2 {
            let hangup = format!("kill -HUP {}", std::process::id());
            let sent = std::process::Command::new("sh").args(["-c", &hangup]).status();
            assert!(sent.expect("a shell").success());
            let call = calls.recv().await.expect("a call");
            assert_eq!(call.request, Request::Reload);
            call.reply
                .send(crate::api::message::Reply::Error(String::new()))
                .expect("awaited");
        }
    }

    /// Attaching the programs takes a second: a list that is replaced meanwhile must be read.
    #[test]
    fn a_list_that_is_replaced_between_reading_and_watching_counts_as_changed() {
        let folder = tempfile::tempdir().expect("folder");
        let data = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("ike/tests/data");
        let (ca, new) = (folder.path().join("ca.crt"), folder.path().join("new"));
        let key = folder.path().join("own.key");
        std::fs::copy(data.join("rsa-leaf.pkcs8.key"), &key).expect("copied");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("mode");
        for copy in [&ca, &new] {
            std::fs::copy(data.join("ec-ca.crt"), copy).expect("copied");
        }
        let text = format!(
            "[gateway]\nname = \"test\"\n[[interface]]\nname = \"w\"\nrole = \"wan\"\n\
             [[interface]]\nname = \"c\"\nrole = \"core\"\n[ike]\ncertificate = \"rsa-leaf.crt\"\n\
             private_key = {key:?}\nca = {ca:?}\nidentity = \"gw.lab.test\"\n\
             [center]\nnetworks = [\"10.100.0.0/16\"]\n[[site]]\nname = \"s\"\nidentity = \"s.lab.test\"\n\
             networks = [\"192.168.1.0/24\"]\nnat_address = \"10.200.0.1\"\n"
        );
        let config = Config::parse("gateway.toml", &text, &data).expect("right");
        let credentials = Credentials::read(&config).expect("certificates and key");
        std::fs::rename(&new, &ca).expect("replaced");
        let mut watch = Watch::new(&config, credentials.stamps);
        assert!(!watch.is_due(), "it may still be written");
        assert!(watch.is_due());
        assert!(!watch.is_due(), "once");
    }

    fn watch(path: &std::path::Path) -> Watch {
        let files = vec![path.to_owned()];
        let loaded = stamps(&files);
        Watch {
            files,
            last_look: loaded.clone(),
            loaded,
            refused: None,
            seconds: 0,
            told: BTreeSet::new(),
        }
    }

    /// Regression: a list that could not be read once, as there was no memory, counted as read until its file changed again.
    #[test]
    fn what_was_refused_is_read_again_and_told_once() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("ca.crl");
        std::fs::write(&path, "one").expect("written");
        let mut watch = watch(&path);
        let looks_to_next = |watch: &mut Watch| (1..100).find(|_| watch.is_due());
        std::fs::write(&path, "another").expect("written");
        assert_eq!(looks_to_next(&mut watch), Some(2));
        assert!(watch.refuse("no memory"));
        let a_minute = usize::try_from(AGAIN_AFTER_S / LOOK_EVERY_S).expect("few");
        for (reason, is_news) in [
            ("no memory", false),
            ("no descriptor", true),
            ("no descriptor", false),
        ] {
            assert_eq!(looks_to_next(&mut watch), Some(a_minute));
            assert_eq!(watch.refuse(reason), is_news, "{reason}");
        }
        // Another file is read at once, and what is wrong with it told.
        std::fs::write(&path, "a third one").expect("written");
        assert_eq!(looks_to_next(&mut watch), Some(2));
        assert!(watch.refuse("no descriptor"));
        // One that is being written is not read for that a minute went by.
        for number in 0..2 * a_minute {
            std::fs::write(&path, "x".repeat(20 + number)).expect("written");
            assert!(!watch.is_due());
        }
        assert!(watch.is_due());
        assert_eq!(looks_to_next(&mut watch), None, "it was taken over");
    }

    #[test]
    fn a_file_counts_as_changed_once_it_stands_still() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("ca.crl");
        std::fs::write(&path, "one").expect("written");
        let mut watch = watch(&path);
        assert!(!watch.is_due());
        std::fs::write(&path, "half of a lo").expect("written");
        assert!(!watch.is_due(), "it may still be written");
        std::fs::write(&path, "half of a longer file").expect("written");
        assert!(!watch.is_due());
        assert!(watch.is_due());
        assert!(!watch.is_due(), "once");
        // Replaced by renaming, with the same size.
        let other = folder.path().join("new");
        std::fs::write(&other, "HALF of a longer file").expect("written");
        std::fs::rename(&other, &path).expect("renamed");
        assert!(!watch.is_due());
        assert!(watch.is_due());
        std::fs::remove_file(&path).expect("removed");
        assert!(!watch.is_due());
        assert!(
            watch.is_due(),
            "a file that is gone is told of, and what it said stays in force"
        );
    }
}
