//! The program as an operator calls it: output, exit codes, messages.
#[path = "cli/rules.rs"]
mod rules;

use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn gateway(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gateway"));
    command
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples"))
        .env_remove("GATEWAY_SOCKET");
    command.args(arguments).output().expect("the program runs")
}

#[track_caller]
fn check(output: &Output, code: i32, stdout: &str, stderr: &str) {
    let said = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(output.status.code(), Some(code), "{said:?}");
    assert!(said.0.contains(stdout) && said.1.contains(stderr), "{said:?}");
}

#[test]
fn a_daemon_that_is_not_there_is_exit_code_3() {
    for verb in [
        &["status"][..],
        &["sa", "list"],
        &["flows", "list"],
        &["nat", "list"],
        &["drops"],
        &["rules", "show"],
    ] {
        let output = gateway(&[verb, &["--socket", "/nonexistent/gateway.sock"]].concat());
        check(&output, 3, "", "no gateway answers at /nonexistent/gateway.sock");
    }
}

/// Regression: `gateway ... | head` ended in a panic and exit code 101 when `head` had gone.
#[test]
fn a_reader_that_has_gone_ends_the_program_in_silence() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("rules.toml");
    // More than a pipe holds: it cannot be done with writing before nobody reads.
    let text: String = (0..10_000)
        .map(|number| rules::rule(&format!("r{number}"), "allow", ""))
        .collect();
    fs::write(&path, text).expect("written");
    let mut child = Command::new(env!("CARGO_BIN_EXE_gateway"))
        .args(["rules", "convert"])
        .arg(&path)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), said.as_ref()), (Some(141), ""));
}

/// Regression: it panicked. What could not be written is no success.
#[test]
fn a_full_disk_under_the_output_is_told() {
    let full = OpenOptions::new().write(true).open("/dev/full").expect("opened");
    let output = Command::new(env!("CARGO_BIN_EXE_gateway"))
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples"))
        .args(["rules", "check", "rules.json"])
        .stdout(full)
        .output()
        .expect("the program runs");
    check(&output, 1, "", "gateway: standard output: ");
}

#[test]
fn a_wrong_command_line_is_exit_code_2() {
    check(&gateway(&["sa", "rekey"]), 2, "", "--site");
    check(&gateway(&["frobnicate"]), 2, "", "frobnicate");
}

#[test]
fn run_check_names_what_is_missing() {
    check(
        &gateway(&["run", "--check", "--config", "gateway.toml"]),
        1,
        "",
        "gateway.crt: cannot be read",
    );
    check(
        &gateway(&["run", "--check", "--config", "absent.toml"]),
        1,
        "",
        "absent.toml: cannot be read",
    );
}

/// Regression: the last events of all sites were asked for, and those of the site picked from them.
#[test]
fn the_last_events_of_a_site_are_asked_for_as_such() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("gateway.sock");
    let listener = UnixListener::bind(&path).expect("bound");
    let daemon = std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("the program");
        let mut stream = BufReader::new(stream);
        let mut request = String::new();
        stream.read_line(&mut request).expect("a request");
        let answer =
            r#"{"version":1,"ok":{"newest":9,"events":[{"event":"site_up","site":"a","text":"up"}]}}"#;
        writeln!(stream.get_mut(), "{answer}").expect("read");
        request
    });
    let socket = path.to_str().expect("UTF-8");
    let output = gateway(&["--socket", socket, "events", "--site", "a", "--last", "3"]);
    let request = daemon.join().expect("no panic");
    check(&output, 0, "a  up", "");
    assert!(request.contains(r#""last":3,"site":"a"}"#), "{request}");
}

const CONFIG: &str = include_str!("../examples/gateway.toml");

/// A configuration with its state folder, in which a site with a port block is known.
fn with_blocks(plan: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("folder");
    let example =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/gateway.toml"));
    let text = example
        .expect("the example")
        .replacen("state_dir = \"/var/lib/gateway\"", "state_dir = \"state\"", 1)
        .replacen(
            "# mode = \"block\"",
            &format!("mode = \"block\"\nplan = \"{plan}\""),
            1,
        );
    std::fs::write(folder.path().join("gateway.toml"), text).expect("written");
    let state = folder.path().join("state");
    std::fs::create_dir(&state).expect("folder");
    let block = r#"{"address":"10.200.0.1","first_port":4096,"last_port":6143}"#;
    let sites = format!(
        r#"{{"names":{{"hospital-a":{{"site":1,"nat_address":"10.201.0.1"}},"a.clinic.example":{{"site":2,"blocks":[{block}]}}}}}}"#
    );
    std::fs::write(state.join("sites.json"), sites).expect("written");
    folder
}

#[test]
fn the_plan_of_a_configuration_is_printed_without_a_daemon() {
    let folder = with_blocks("deterministic");
    let config = folder.path().join("gateway.toml");
    let config = config.to_str().expect("UTF-8");
    let output = gateway(&["nat", "plan", "--config", config, "--site", "a.clinic.example"]);
    check(&output, 0, "31 blocks of 2048 ports each", "");
    check(&output, 0, "(1 + (N - 1) % 31) * 2048", "");
    check(&output, 0, "10.200.0.1:4096-6143", "");
    let output = gateway(&["nat", "plan", "--config", config, "--json"]);
    let view: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let pool = &view["pools"][0];
    let blocks = pool["blocks"].as_array().expect("blocks");
    assert_eq!(
        (blocks.len(), &pool["room"], &pool["taken"]),
        (254 * 31, &7_874.into(), &1.into())
    );
    assert_eq!(blocks[1]["name"], "a.clinic.example");
    assert_eq!(
        (&blocks[31]["site"], &blocks[31]["address"]),
        (&32.into(), &"10.200.0.2".into())
    );
    assert_eq!(blocks[31]["name"], serde_json::Value::Null);

    let folder = with_blocks("dynamic");
    let config = folder.path().join("gateway.toml");
    let output = gateway(&["nat", "plan", "--config", config.to_str().expect("UTF-8")]);
    check(
        &output,
        0,
        "a site has 1 to 4 of them as it needs them; 1 of 7874 taken",
        "",
    );
}

#[test]
fn who_had_a_port_is_answered_without_a_daemon() {
    let folder = with_blocks("dynamic");
    let state = folder.path().join("state");
    let log = state.join("nat-log");
    std::fs::create_dir(&log).expect("folder");
    let holding = |name: &str, site: u32| {
        format!(r#""site":{site},"name":"{name}","address":"10.200.0.1","first_port":2048,"last_port":4095"#)
    };
    let lines = [
        r#"{"sequence":1,"time":"2026-11-25T00:00:00Z","event":"file","held":0}"#.to_owned(),
        format!(
            r#"{{"sequence":2,"time":"2026-11-25T01:00:00Z","event":"assigned",{}}}"#,
            holding("a", 2)
        ),
        format!(
            r#"{{"sequence":3,"time":"2026-11-25T05:00:00Z","event":"released",{}}}"#,
            holding("a", 2)
        ),
        format!(
            r#"{{"sequence":4,"time":"2026-11-25T06:00:00Z","event":"assigned",{}}}"#,
            holding("b", 3)
        ),
        r#"{"sequence":5,"time":"2026-11-25T07:"#.to_owned(),
    ];
    std::fs::write(log.join("0000000001.jsonl"), lines.join("\n")).expect("written");
    let state = state.to_str().expect("UTF-8");
    let who = |of: &str, at: &str| gateway(&["nat", "who", of, "--at", at, "--state-dir", state, "--json"]);
    let names = |of: &str, at: &str| {
        let view: serde_json::Value = serde_json::from_slice(&who(of, at).stdout).expect("JSON");
        let answers = view["answers"].as_array().expect("answers").clone();
        answers
            .into_iter()
            .map(|answer| {
                (
                    answer["name"].as_str().expect("a name").to_owned(),
                    answer["certain"] == true,
                )
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(
        names("10.200.0.1:2048", "2026-11-25T10:30:00+09:00"),
        [("a".to_owned(), true)]
    );
    assert_eq!(names("10.200.0.1:4095", "2026-11-25T05:30:00Z"), []);
    assert_eq!(
        names("10.200.0.1", "2026-11-25T06:30:00Z"),
        [("b".to_owned(), true)]
    );
    assert_eq!(names("10.200.0.1:4096", "2026-11-25T06:30:00Z"), []);
    // Before the log begins, who has it now is all that is known.
    assert_eq!(
        names("10.200.0.1:5000", "2026-11-24T06:30:00Z"),
        [("a.clinic.example".to_owned(), false)]
    );
    let output = gateway(&["nat", "who", "10.200.0.1:2048", "--state-dir", state]);
    check(&output, 0, "10.200.0.1:2048-4095", "");
    let output = gateway(&[
        "nat",
        "who",
        "10.200.0.1:2048",
        "--at",
        "yesterday",
        "--state-dir",
        state,
    ]);
    check(&output, 1, "", "\"yesterday\" is no time; write it like");
    let output = gateway(&["nat", "who", "10.200.0.1", "--state-dir", "/nonexistent"]);
    check(&output, 1, "", "/nonexistent: there is no such folder");
    let output = gateway(&["--socket", "/nonexistent/socket", "nat", "who", "10.200.0.1"]);
    check(&output, 3, "", "name its folder with --state-dir");
}

/// The example's configuration in a folder of its own, where its state folder is too.
fn configured(folder: &Path) -> PathBuf {
    let text = include_str!("../examples/gateway.toml");
    let file = folder.join("gateway.toml");
    let state_dir = folder.join("state").display().to_string();
    fs::write(&file, text.replace("/var/lib/gateway", &state_dir)).expect("written");
    file
}

#[test]
fn a_state_folder_that_another_daemon_has_is_not_even_read() {
    let folder = tempfile::tempdir().expect("folder");
    let file = configured(folder.path());
    let state = folder.path().join("state");
    fs::create_dir(&state).expect("made");
    fs::write(state.join("sites.json"), "half a file").expect("written");
    let held = fs::File::open(&state).expect("opened");
    held.try_lock().expect("nobody has it");
    let run = || gateway(&["run", "--config", file.to_str().expect("UTF-8")]);
    check(&run(), 1, "", "another gateway has it");
    drop(held);
    check(&run(), 1, "", "gateway.crt: cannot be read");
}

/// What is to be told of the start goes to the log, which has to be there by then.
#[test]
fn the_log_is_there_before_anything_is_read() {
    let output = gateway(&["run", "--config", "gateway.toml", "--log", "gateway=loud"]);
    check(&output, 1, "", "error parsing level filter");
}

/// A daemon that waits for its certificate, which is a pipe; what is written to the other end is what it reads.
fn starting(folder: &Path) -> (Child, fs::File) {
    let file = configured(folder);
    fs::create_dir(folder.join("pki")).expect("made");
    let pipe = folder.join("pki/gateway.crt");
    let made = Command::new("mkfifo").arg(&pipe).status().expect("mkfifo");
    assert!(made.success());
    let daemon = Command::new(env!("CARGO_BIN_EXE_gateway"))
        .args(["run", "--config"])
        .arg(&file)
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        // It can be opened for writing once the daemon reads it.
        let mut options = OpenOptions::new();
        match options
            .write(true)
            .custom_flags(nix::libc::O_NONBLOCK)
            .open(&pipe)
        {
            Ok(pipe) => return (daemon, pipe),
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Lets it read a certificate that is none, and answers what it says before it ends by itself.
fn ended(mut daemon: Child, mut pipe: fs::File) -> String {
    pipe.write_all(b"no certificate").expect("it reads");
    drop(pipe);
    let mut said = String::new();
    let mut stderr = daemon.stderr.take().expect("piped");
    stderr.read_to_string(&mut said).expect("words");
    let status = daemon.wait().expect("ended");
    assert_eq!(status.code(), Some(1), "{status}: {said}");
    said
}

/// A script that starts the gateway and has it read its certificates again at once.
#[test]
fn a_hangup_during_the_start_does_not_end_the_daemon() {
    let folder = tempfile::tempdir().expect("folder");
    let (daemon, pipe) = starting(folder.path());
    let hangup = format!("kill -HUP {}", daemon.id());
    let sent = Command::new("sh").args(["-c", &hangup]).status();
    assert!(sent.expect("a shell").success());
    let said = ended(daemon, pipe);
    assert!(said.contains("gateway.key: cannot be read"), "{said}");
}

#[test]
fn core_dumps_are_forbidden_before_a_secret_is_read() {
    let folder = tempfile::tempdir().expect("folder");
    let (daemon, pipe) = starting(folder.path());
    let limits = fs::read_to_string(format!("/proc/{}/limits", daemon.id())).expect("it runs");
    let core = limits.lines().find(|line| line.starts_with("Max core file size"));
    let soft_and_hard: Vec<_> = core
        .expect("a limit")
        .split_whitespace()
        .skip(4)
        .take(2)
        .collect();
    assert_eq!(soft_and_hard, ["0", "0"]);
    ended(daemon, pipe);
}

/// As sshd does: a key that others could have read proves nothing.
#[test]
fn a_private_key_that_others_may_read_keeps_the_gateway_from_starting() {
    let folder = tempfile::tempdir().expect("folder");
    let file = configured(folder.path());
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("ike/tests/data");
    fs::create_dir(folder.path().join("pki")).expect("made");
    let certificates = [
        ("rsa-leaf.crt", "pki/gateway.crt"),
        ("rsa-leaf.pkcs8.key", "pki/gateway.key"),
        ("ec-ca.crt", "pki/ca.crt"),
    ];
    for (from, to) in certificates {
        fs::copy(data.join(from), folder.path().join(to)).expect("copied");
    }
    let text = fs::read_to_string(&file).expect("read");
    let text = text.replace("gateway.center.example", "gw.lab.test");
    // Without the rule set, which lies beside the example.
    let (text, _) = text.split_once("[rules]").expect("the last table");
    fs::write(&file, text).expect("written");
    let key = folder.path().join("pki/gateway.key");
    let set_mode = |mode: u32| {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).expect("mode");
    };
    let file = file.to_str().expect("UTF-8");
    set_mode(0o640);
    let words = "gateway.key: others may read or write it (mode 0640)";
    check(&gateway(&["run", "--check", "--config", file]), 1, "", words);
    check(
        &gateway(&["run", "--config", file]),
        1,
        "",
        "to mend it: chmod 600",
    );
    set_mode(0o600);
    check(
        &gateway(&["run", "--check", "--config", file]),
        0,
        "nothing wrong",
        "",
    );
}
