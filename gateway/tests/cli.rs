//! The program as an operator calls it: output, exit codes, messages.
use std::path::Path;
use std::process::{Command, Output};

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
fn a_right_rule_set_passes_the_check() {
    check(
        &gateway(&["rules", "check", "rules.json"]),
        0,
        "1 rules, nothing wrong",
        "",
    );
    let output = gateway(&["rules", "check", "rules.toml", "--config", "gateway.toml"]);
    check(&output, 0, "4 rules, 7 compiled, nothing wrong", "");
    let output = gateway(&[
        "--json",
        "rules",
        "check",
        "rules.toml",
        "--config",
        "gateway.toml",
    ]);
    let view: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(view, serde_json::json!({ "rules": 4, "compiled": 7 }));
}

#[test]
fn a_wrong_rule_set_is_refused_with_file_and_line() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("wrong.toml");
    let name = path.to_str().expect("UTF-8");
    std::fs::write(
        &path,
        "[[rule]]\nname = \"a\"\naction = \"allow\"\nprotocol = \"tpc\"\n",
    )
    .expect("written");
    check(
        &gateway(&["rules", "check", name]),
        1,
        "",
        &format!("{name}:4: \"tpc\" is no protocol"),
    );
    std::fs::write(
        &path,
        "[[rule]]\nname = \"a\"\naction = \"allow\"\ngroups = \"nobody\"\n",
    )
    .expect("written");
    check(&gateway(&["rules", "check", name]), 0, "nothing wrong", "");
    let output = gateway(&["rules", "check", name, "--config", "gateway.toml"]);
    check(
        &output,
        1,
        "",
        &format!("{name}:4: rule \"a\": no site is in a group \"nobody\""),
    );
    check(
        &gateway(&["rules", "check", "absent.toml"]),
        1,
        "",
        "absent.toml: cannot be read",
    );
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
