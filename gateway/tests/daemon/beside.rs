//! What takes long is done beside the control task, which serves all others meanwhile.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use gateway::api::message::{Reply, Request};
use nix::fcntl::OFlag;

use crate::credentials::certified;
use crate::node::{Held, Options, awaited, pair, until};
use crate::up;

/// Regression: a list of a million flows was read, sorted and written by the control task, and IKE waited for it.
#[test]
fn who_lists_flows_holds_nobody_up_and_few_lists_are_made_at_a_time() {
    let (center, site) = pair(Options::default());
    let held = Arc::new(Held::default());
    let gate = held.gate.lock().expect("no panic");
    center.engine().held = Some(Arc::clone(&held));
    let list = Request::FlowsList {
        site: None,
        limit: 10,
    };
    let answers: Vec<_> = (0..4).map(|_| center.send(list.clone())).collect();
    let begun = || held.readers.load(Ordering::SeqCst);
    until(|| (begun() == 2).then_some(()), || "no list is read".into());
    // All others are served meanwhile.
    assert_eq!(center.ask(Request::Status)["sites_known"], 1);
    up(&site);
    assert_eq!(begun(), 2, "further ones wait");
    // Who has gone is not waited for: its list is not made.
    let mut answers = answers.into_iter();
    let [first, second, third, gone] = std::array::from_fn(|_| answers.next().expect("four"));
    drop(gone);
    drop(gate);
    for answer in [first, second, third] {
        match awaited(answer).expect("an answer") {
            Reply::Ok(view) => assert_eq!(view["total"], 0),
            Reply::Error(words) => panic!("{words}"),
        }
    }
    assert_eq!(begun(), 3);
}

/// Regression: a list of tens of megabytes was read by the control task, and IKE waited for it.
#[test]
fn who_reads_a_list_holds_nobody_up_and_what_is_read_last_stays() {
    let folder = tempfile::tempdir().expect("folder");
    let (root, serial, options) = certified(folder.path());
    let (center, site) = pair(options);
    let crl = folder.path().join("ca.crl");
    let lists = [root.crl(&[], 2, false), root.crl(&[&serial], 3, false)];
    // Its content comes when the test likes.
    std::fs::remove_file(&crl).expect("removed");
    let made = std::process::Command::new("mkfifo").arg(&crl).status();
    assert!(made.expect("mkfifo").success());
    let first = center.send(Request::Reload);
    // The kernel refuses a writer where nobody reads, and this one would not wait for the reader in vain.
    let no_reader_is_an_error = OFlag::O_NONBLOCK.bits();
    let open = || {
        let mut options = File::options();
        options
            .write(true)
            .custom_flags(no_reader_is_an_error)
            .open(&crl)
            .ok()
    };
    let mut pipe = until(open, || "nobody reads the list".to_owned());
    // It is being read, and another one is there by now. All others are served, by what is in force.
    let new = folder.path().join("new");
    std::fs::write(&new, lists[1].der()).expect("written");
    std::fs::rename(&new, &crl).expect("renamed");
    let second = center.send(Request::Reload);
    up(&site);
    assert_eq!(center.ask(Request::Status)["sites_known"], 1);
    pipe.write_all(lists[0].der()).expect("written");
    drop(pipe);
    let revoked = |answer: tokio::sync::oneshot::Receiver<Reply>| match awaited(answer) {
        Ok(Reply::Ok(view)) => view["revocation_lists"][0]["revoked"].clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(revoked(first), 0);
    // Who asked meanwhile is told of what was read since, and that stays.
    assert_eq!(revoked(second), 1);
    until(
        || center.engine().installed.is_empty().then_some(()),
        || "the revoked site keeps what it built while the list was read".to_owned(),
    );
}

/// Regression: the control task made a line of each of 60,000 SAs, and IKE waited for it.
#[test]
fn all_sas_are_listed_in_parts() {
    let (center, site) = pair(Options::default());
    up(&site);
    let answers: Vec<_> = (0..3).map(|_| center.send(Request::SaList)).collect();
    for answer in answers {
        match awaited(answer).expect("an answer") {
            Reply::Ok(view) => assert_eq!(view.as_array().map(Vec::len), Some(1)),
            Reply::Error(words) => panic!("{words}"),
        }
    }
}
