//! Rule sets over the life of the daemon: loaded, confirmed, gone back to, shown.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use gateway::api::message::{HowToLoad, Reply, Request};
use gateway_common::abi::flow::{Flow, FlowKey};
use serde_json::Value;

use crate::node::{Held, Node, Options, awaited, pair, until};
use crate::{names, up};

/// How long a set that falls back is in force: a busy machine sees that it is.
const TRIAL_S: u32 = 5;

fn load(name: &str, confirm_s: Option<u32>) -> Request {
    Request::RulesLoad {
        file: "rules.toml".into(),
        text: format!("name = \"{name}\"\n"),
        how: HowToLoad {
            confirm_s,
            rejudge: true,
            author: Some("an operator".into()),
        },
    }
}

fn rules(node: &Node) -> String {
    let view = node.ask(Request::RulesShow);
    view["active"]["name"].as_str().expect("a name").to_owned()
}

#[test]
fn only_a_confirmed_rule_set_stays() {
    let (center, _site) = pair(Options::default());
    center.ask(load("first", None));
    let loaded = center.ask(load("second", Some(TRIAL_S)));
    assert_eq!(loaded["confirm_within_s"], TRIAL_S);
    assert_eq!(rules(&center), "second");
    until(
        || (rules(&center) == "first").then_some(()),
        || center.ask(Request::RulesHistory).to_string(),
    );
    assert!(
        center
            .refused(Request::RulesConfirm)
            .contains("no rule set waits")
    );
    center.ask(load("third", Some(3600)));
    center.ask(Request::RulesConfirm);
    let wrong = center.refused(load("\"", None));
    assert!(wrong.contains("rules.toml:2: "), "{wrong}");
    assert_eq!(rules(&center), "third");
    let back = Request::RulesRollback {
        generation: Some(2),
        how: HowToLoad::default(),
    };
    center.ask(back);
    assert_eq!(rules(&center), "second");
    let history = center.ask(Request::RulesHistory);
    let origins: Vec<_> = history
        .as_array()
        .expect("a list")
        .iter()
        .map(|entry| entry["origin"].to_string())
        .collect();
    assert_eq!(
        origins,
        [
            "\"loaded\"",
            "\"loaded\"",
            "{\"fell_back\":2}",
            "\"loaded\"",
            "{\"rolled_back\":2}"
        ]
    );
    assert_eq!(history[1]["author"]["name"], "an operator");
}

/// Loads a rule set and answers its generation.
fn loaded(node: &Node, text: &str) -> u32 {
    let request = Request::RulesLoad {
        file: "rules.toml".into(),
        text: text.into(),
        how: HowToLoad::default(),
    };
    let view = node.ask(request);
    let generation = view["rules"]["generation"].as_u64().expect("a generation");
    u32::try_from(generation).expect("a small number")
}

const WEB: &str = "name = \"web\"\n[[rule]]\nname = \"web\"\naction = \"allow\"\nsite = \"hospital\"\n\
    destination = \"10.100.0.10\"\nprotocol = \"tcp\"\ndestination_ports = 443\n\
    [[rule]]\nname = \"rest\"\naction = \"deny\"\n";

#[test]
fn the_running_rules_explain_a_flow() {
    let (center, _site) = pair(Options::default());
    let generation = loaded(&center, WEB);
    let query = |site: &str, port| gateway::core::explain::Query {
        site: site.into(),
        from: "192.168.1.10".parse().expect("an address"),
        to: "10.100.0.10".parse().expect("an address"),
        direction: None,
        to_site: None,
        protocol: gateway::config::Protocol::TCP,
        port: Some(port),
        name: None,
        source_port: None,
    };
    let flows = vec![query("hospital", 443), query("hospital", 80)];
    let view = center.ask(Request::RulesExplain {
        flows: flows.clone(),
        verdicts_alone: false,
    });
    let verdicts: Vec<_> = view
        .as_array()
        .expect("a list")
        .iter()
        .map(|answer| {
            (
                answer["generation"].as_u64(),
                answer["verdict"].as_str(),
                answer["rule"]["name"].as_str(),
            )
        })
        .collect();
    let generation = Some(u64::from(generation));
    assert_eq!(
        verdicts,
        [
            (generation, Some("allow"), Some("web")),
            (generation, Some("deny"), Some("rest"))
        ],
        "{view}"
    );
    // The rule before did not match, and it is said why.
    let earlier = &view[1]["earlier"][0];
    assert_eq!(earlier["name"], "web");
    assert!(
        earlier["because"]
            .as_str()
            .is_some_and(|words| words.contains("443")),
        "{earlier}"
    );
    let error = center.refused(Request::RulesExplain {
        flows: vec![query("nobody", 443)],
        verdicts_alone: false,
    });
    assert!(error.contains("nobody"), "{error}");
    let many = Request::RulesExplain {
        flows: vec![query("hospital", 443); 100_000],
        verdicts_alone: true,
    };
    assert!(center.refused(many).contains("are too many at once"));

    let view = center.ask(Request::RulesExplain {
        flows,
        verdicts_alone: true,
    });
    assert_eq!(view[1]["rule"]["name"], "rest");
    assert_eq!(view[1]["earlier"].as_array().map(Vec::len), Some(0), "{view}");
}

/// Regression: ten thousand flows under ten thousand rules were explained with every reason, gigabytes, on the control task.
#[test]
fn reasons_without_number_are_not_told() {
    let (center, _site) = pair(Options::default());
    let mut text = String::from("name = \"many\"\n");
    for number in 0..200 {
        text += &format!(
            "[[rule]]\nname = \"r{number}\"\naction = \"allow\"\nsite = \"hospital\"\ndestination = \"10.100.0.{number}\"\nprotocol = \"icmp\"\n"
        );
    }
    loaded(&center, &text);
    let query = gateway::core::explain::Query {
        site: "hospital".into(),
        from: "192.168.1.10".parse().expect("an address"),
        to: "10.100.0.10".parse().expect("an address"),
        direction: None,
        to_site: None,
        protocol: gateway::config::Protocol::TCP,
        port: Some(443),
        name: None,
        source_port: None,
    };
    let ask = |verdicts_alone| Request::RulesExplain {
        flows: vec![query.clone(); 5_001],
        verdicts_alone,
    };
    assert!(center.refused(ask(false)).contains("too many reasons"));
    let view = center.ask(ask(true));
    assert_eq!(view.as_array().map(Vec::len), Some(5_001));
}

#[test]
fn each_generation_keeps_its_text_and_can_be_gone_back_to() {
    let (center, _site) = pair(Options::default());
    let first = loaded(&center, WEB);
    let second = loaded(&center, "name = \"nothing\"\n");
    let text = |generation| center.ask(Request::RulesText { generation });
    assert_eq!(
        (&text(None)["generation"], &text(None)["file"]),
        (&second.into(), &"rules.toml".into())
    );
    assert_eq!(text(None)["text"], "name = \"nothing\"\n");
    assert_eq!(text(Some(first))["text"], WEB);
    let unknown = center.refused(Request::RulesText { generation: Some(99) });
    assert!(unknown.contains("99"), "{unknown}");

    // Without a number: the one before.
    let back = |generation| Request::RulesRollback {
        generation,
        how: HowToLoad::default(),
    };
    let done = center.ask(back(None));
    assert_eq!(
        (&done["brought_back"], &done["rules"]["file"]),
        (&first.into(), &"rules.toml".into())
    );
    assert_eq!(rules(&center), "web");
    assert_eq!(text(None)["text"], WEB);
    // A second time does not bring the withdrawn one back.
    let nothing = center.refused(back(None));
    assert!(nothing.contains("withdrawn"), "{nothing}");
    assert!(center.refused(back(Some(99))).contains("99"));
    assert_eq!(rules(&center), "web");
    let history = center.ask(Request::RulesHistory);
    let in_force: Vec<_> = history
        .as_array()
        .expect("a list")
        .iter()
        .filter(|entry| entry["in_force"] == true)
        .map(|entry| entry["generation"].as_u64())
        .collect();
    assert_eq!(in_force, [Some(u64::from(second) + 1)]);
}

#[test]
fn a_rule_set_is_shown_with_the_hits_of_each_rule() {
    let (center, _site) = pair(Options::default());
    loaded(&center, WEB);
    center.engine().rule_hits = vec![7, 3];
    let shown = center.ask(Request::RulesShow);
    let hits: Vec<_> = shown["rules"]
        .as_array()
        .expect("rules")
        .iter()
        .map(|rule| (rule["name"].as_str(), rule["hits"].as_u64()))
        .collect();
    assert_eq!(hits, [(Some("web"), Some(7)), (Some("rest"), Some(3))]);
}

/// The net below an operator who locks himself out holds when the disk is full, too.
#[test]
fn what_is_not_confirmed_falls_back_also_if_that_cannot_be_stored() {
    let (center, _site) = pair(Options::default());
    center.ask(load("first", None));
    let waiting = center.ask(load("second", Some(TRIAL_S)));
    let next = waiting["rules"]["generation"].as_u64().expect("a number") + 1;
    let folder = center.state_dir().join("rules");
    let in_the_way = folder.join(format!("{next}.json.new"));
    std::fs::create_dir(&in_the_way).expect("made");
    until(
        || (rules(&center) == "first").then_some(()),
        || center.ask(Request::RulesHistory).to_string(),
    );
    let error = center.refused(load("third", None));
    assert!(error.contains("is not stored yet, nothing is changed"), "{error}");
    let text = folder.join(format!("{next}.json"));
    assert!(!text.exists());
    std::fs::remove_dir(&in_the_way).expect("room again");
    until(|| text.exists().then_some(()), || "it is not stored".to_owned());
    assert_eq!(rules(&center), "first");
    let stored = std::fs::read_to_string(folder.join("history.json")).expect("read");
    let stored: Value = serde_json::from_str(&stored).expect("JSON");
    let last = stored["entries"].as_array().and_then(|entries| entries.last());
    assert_eq!(last.map(|entry| &entry["generation"]), Some(&next.into()));
    center.ask(load("third", None));
}

/// Flows cannot be judged at the moment: the set is in force all the same, and says so.
#[test]
fn a_rule_set_that_is_in_force_is_never_told_as_refused() {
    let (center, _site) = pair(Options::default());
    center.engine().flows_fail = true;
    let loaded = center.ask(load("strict", None));
    assert_eq!(
        (&loaded["flows_not_judged"], &loaded["ended_flows"]),
        (&true.into(), &0.into())
    );
    assert_eq!(rules(&center), "strict");
    assert_eq!(names(&center).last().map(String::as_str), Some("rules_loaded"));
    let before = center.engine().flows_judged;
    center.engine().flows_fail = false;
    // It is done as soon as it can be, and once.
    until(
        || (center.engine().flows_judged > before).then_some(()),
        || "flows are not judged".to_owned(),
    );
    assert_eq!(center.ask(load("other", None))["flows_not_judged"], false);
}

/// Ten thousand rules, of which no two are alike.
fn many(name: &str) -> String {
    let rule = |number: u32| {
        let [_, _, high, low] = number.to_be_bytes();
        format!(
            "[[rule]]\nname = \"r{number}\"\naction = \"allow\"\nsite = \"hospital\"\n\
             destination = \"10.100.{high}.{low}\"\nprotocol = \"tcp\"\ndestination_ports = {}\n",
            1 + number % 60_000
        )
    };
    let rules: String = (0..10_000).map(rule).collect();
    format!("name = \"{name}\"\n{rules}")
}

/// Regression: rules were compiled by the control task, and IKE and all other callers waited for it.
#[test]
fn who_loads_many_rules_holds_nobody_up() {
    let (center, _site) = pair(Options::default());
    loaded(&center, WEB);
    let mut answer = center.send(Request::RulesLoad {
        file: "many.toml".into(),
        text: many("many"),
        how: HowToLoad::default(),
    });
    // Asked after it, answered before.
    assert_eq!(rules(&center), "web", "what is in force stays so meanwhile");
    assert!(answer.try_recv().is_err(), "it was waited for");
    let Reply::Ok(view) = awaited(answer).expect("an answer") else {
        panic!("it is refused");
    };
    assert_eq!(view["rules"]["rules"], 10_000);
    assert_eq!(rules(&center), "many");
}

/// What is asked for one after the other is in force in that order, however long each takes to compile; each is the next
/// generation, and a rollback is one from what is in force by then.
#[test]
fn rule_sets_come_into_force_in_the_order_they_were_asked_for() {
    let (center, _site) = pair(Options::default());
    loaded(&center, WEB);
    let load = |text: String| Request::RulesLoad {
        file: "rules.toml".into(),
        text,
        how: HowToLoad::default(),
    };
    let back = Request::RulesRollback {
        generation: None,
        how: HowToLoad::default(),
    };
    let asked = [
        load(many("many")),
        load("name = \"wrong\"\n[[rule]]\n".into()),
        load("name = \"few\"\n".into()),
        back,
        load(WEB.into()),
        load(WEB.into()),
    ];
    let answers = asked.map(|request| center.send(request));
    let told = answers.map(|answer| match awaited(answer).expect("an answer") {
        Reply::Ok(view) => {
            let rules = &view["rules"];
            format!(
                "{} {} {}",
                rules["generation"], rules["name"], view["brought_back"]
            )
        }
        Reply::Error(words) => words,
    });
    assert_eq!(told[0], "2 \"many\" null");
    assert!(told[1].contains("rules.toml:2"), "{}", told[1]);
    assert_eq!(told[2], "3 \"few\" null");
    assert_eq!(told[3], "4 \"many\" 2");
    assert_eq!(told[4], "5 \"web\" null");
    assert!(
        told[5].contains("nothing is changed"),
        "one too many: {}",
        told[5]
    );
    assert_eq!(rules(&center), "web");
    assert!(names(&center).iter().any(|name| name == "rules_refused"));
}

/// A flow that [`WEB`] allows, of rules before all of the test.
fn web_flow(node: &Node) -> (FlowKey, Flow) {
    let key = FlowKey {
        site: *node.engine().sites.keys().next().expect("a site"),
        source: [192, 168, 1, 10],
        source_port: 40_000_u16.to_be_bytes(),
        destination: [10, 100, 0, 10],
        destination_port: 443_u16.to_be_bytes(),
        protocol: 6,
        pad: [0; 3],
    };
    (key, Flow::default())
}

fn rejudged(text: &str) -> Request {
    Request::RulesLoad {
        file: "rules.toml".into(),
        text: text.into(),
        how: HowToLoad {
            rejudge: true,
            ..HowToLoad::default()
        },
    }
}

fn ended(answer: tokio::sync::oneshot::Receiver<Reply>) -> (u64, bool) {
    match awaited(answer).expect("an answer") {
        Reply::Ok(view) => (
            view["ended_flows"].as_u64().expect("a number"),
            view["flows_not_judged"].as_bool().expect("told"),
        ),
        Reply::Error(words) => panic!("{words}"),
    }
}

/// Regression: a million flows were judged by the control task, and IKE waited for it.
#[test]
fn who_has_flows_judged_holds_nobody_up() {
    let (center, site) = pair(Options::default());
    let flow = web_flow(&center);
    let held = Arc::new(Held::default());
    let gate = held.gate.lock().expect("no panic");
    center.engine().held = Some(Arc::clone(&held));
    center.engine().flows = vec![flow];
    let answer = center.send(rejudged("name = \"nothing\"\n"));
    let begun = || (held.readers.load(Ordering::SeqCst) == 1).then_some(());
    until(begun, || "no flow is judged".into());
    assert_eq!(rules(&center), "nothing", "it is in force");
    up(&site);
    assert_eq!(center.engine().flows.len(), 1);
    drop(gate);
    assert_eq!(ended(answer), (1, false));
    assert_eq!(center.engine().flows.len(), 0);
}

/// What another set is about to end, or to leave, is for the last one to say.
#[test]
fn flows_are_judged_by_the_rules_that_are_in_force_when_they_end() {
    let nothing = "name = \"nothing\"\n";
    for (first, last, ends) in [(nothing, WEB, 0), (WEB, nothing, 1)] {
        for last_asks in [false, true] {
            let (center, _site) = pair(Options::default());
            let flow = web_flow(&center);
            let held = Arc::new(Held::default());
            let gate = held.gate.lock().expect("no panic");
            center.engine().held = Some(Arc::clone(&held));
            center.engine().flows = vec![flow];
            let answer = center.send(rejudged(first));
            let begun = || (held.readers.load(Ordering::SeqCst) == 1).then_some(());
            until(begun, || "no flow is judged".into());
            let second = match last_asks {
                true => Some(center.send(rejudged(last))),
                false => {
                    loaded(&center, last);
                    None
                }
            };
            let name = last.lines().next().expect("a name");
            let in_force = || (format!("name = \"{}\"", rules(&center)) == name).then_some(());
            until(in_force, || format!("not in force: {last}"));
            drop(gate);
            assert_eq!(ended(answer), (ends, false), "{last}");
            if let Some(second) = second {
                assert_eq!(ended(second), (ends, false), "{last}");
            }
            assert_eq!(center.engine().flows.len() as u64, 1 - ends);
        }
    }
}

/// What the set in force has let in was judged by the packet path.
#[test]
fn flows_of_the_rules_in_force_are_not_judged_again() {
    let (center, _site) = pair(Options::default());
    let generation = loaded(&center, WEB);
    let (key, mut flow) = web_flow(&center);
    flow.generation = generation + 1;
    center.engine().flows = vec![(key, flow)];
    // As it would be of a flow that began when an address was open by name which is so no longer.
    assert_eq!(ended(center.send(rejudged("name = \"nothing\"\n"))), (0, false));
    assert_eq!(ended(center.send(rejudged("name = \"nothing\"\n"))), (1, false));
}

/// Regression: with `[rules] file` taken out of the configuration, a set that nobody confirmed fell back to the one that was
/// withdrawn with it.
#[test]
fn a_file_that_is_configured_no_more_is_not_fallen_back_to() {
    let state = tempfile::tempdir().expect("folder");
    let file = state.path().join("configured.toml");
    std::fs::write(&file, "name = \"configured\"\n").expect("written");
    let sites = "[[site]]\nname = \"clinic\"\nidentity = \"clinic.example\"\nnetworks = [\"192.168.1.0/24\"]\nnat_address = \"10.202.0.1\"\n";
    let node = Node::alone(state, &format!("[rules]\nfile = {file:?}\n{sites}"));
    assert_eq!(rules(&node), "configured");
    let node = Node::alone(node.stop(), sites);
    assert_eq!(rules(&node), "");
    let entries = |node: &Node| node.ask(Request::RulesHistory).as_array().expect("a list").len();
    assert_eq!(entries(&node), 2, "the history says so");
    let node = Node::alone(node.stop(), sites);
    assert_eq!(entries(&node), 2, "once");
    node.ask(load("on trial", Some(TRIAL_S)));
    assert_eq!(rules(&node), "on trial");
    until(
        || (rules(&node) != "on trial").then_some(()),
        || node.ask(Request::RulesHistory).to_string(),
    );
    assert_eq!(rules(&node), "");
}

/// A site for gateways to which nobody connects.
const CLINIC: &str = "[[site]]\nname = \"clinic\"\nidentity = \"clinic.example\"\nnetworks = [\"192.168.1.0/24\"]\nnat_address = \"10.202.0.1\"\n";

/// Regression: a set that waited to be confirmed fell back at the start to the file of before, and what had been configured
/// stayed in force from then on, whatever the configuration said.
#[test]
fn a_start_falls_back_to_what_the_configuration_says_by_then() {
    let configured = |state: &tempfile::TempDir, text: &str| {
        let file = state.path().join("configured.toml");
        std::fs::write(&file, text).expect("written");
        format!("[rules]\nfile = {file:?}\n{CLINIC}")
    };
    let origins = |node: &Node| {
        let history = node.ask(Request::RulesHistory);
        let entries = history.as_array().expect("a list").iter();
        entries
            .map(|entry| entry["origin"].to_string())
            .collect::<Vec<_>>()
    };
    let state = tempfile::tempdir().expect("folder");
    let tables = configured(&state, "name = \"configured\"\n");
    let node = Node::alone(state, &tables);
    node.ask(load("on trial", Some(600)));
    let node = Node::alone(node.stop(), &tables);
    assert_eq!(rules(&node), "configured");
    assert_eq!(
        origins(&node),
        ["\"configured\"", "\"loaded\"", "{\"fell_back\":2}"]
    );
    // It is the configuration's as it was before the trial: it follows.
    let state = node.stop();
    let tables = configured(&state, "name = \"edited\"\n");
    let node = Node::alone(state, &tables);
    assert_eq!(rules(&node), "edited");
    // Also when the file changes during a trial, or goes.
    node.ask(load("on trial", Some(600)));
    let state = node.stop();
    let tables = configured(&state, "name = \"edited again\"\n");
    let node = Node::alone(state, &tables);
    assert_eq!(rules(&node), "edited again");
    node.ask(load("on trial", Some(600)));
    let node = Node::alone(node.stop(), CLINIC);
    assert_eq!(rules(&node), "");
    let node = Node::alone(node.stop(), CLINIC);
    assert_eq!(rules(&node), "");
}

/// Regression: likewise of one that fell back while the gateway ran.
#[test]
fn a_configured_set_that_came_back_goes_with_its_file() {
    let state = tempfile::tempdir().expect("folder");
    let file = state.path().join("configured.toml");
    std::fs::write(&file, "name = \"configured\"\n").expect("written");
    let node = Node::alone(state, &format!("[rules]\nfile = {file:?}\n{CLINIC}"));
    node.ask(load("on trial", Some(TRIAL_S)));
    until(
        || (rules(&node) == "configured").then_some(()),
        || node.ask(Request::RulesHistory).to_string(),
    );
    let node = Node::alone(node.stop(), CLINIC);
    assert_eq!(rules(&node), "");
}

/// Regression: gateway.toml got a group that a stored rule set has as a group of its own, and the daemon did not start.
#[test]
fn a_stored_set_whose_group_gateway_toml_has_as_well_stays_in_force() {
    let grouped = CLINIC.replace("[[site]]\n", "[[site]]\ngroups = [\"g\"]\n");
    let text = "name = \"own group\"\n[[site_group]]\nname = \"g\"\nsites = [\"clinic\"]\n\
        [[rule]]\nname = \"r\"\naction = \"allow\"\ngroups = \"g\"\n";
    let loading = |how| Request::RulesLoad {
        file: "rules.toml".into(),
        text: text.into(),
        how,
    };
    let node = Node::alone(tempfile::tempdir().expect("folder"), CLINIC);
    node.ask(loading(HowToLoad::default()));
    let node = Node::alone(node.stop(), &grouped);
    assert_eq!(rules(&node), "own group");
    // What comes into force is looked at as ever.
    assert!(
        node.refused(loading(HowToLoad::default()))
            .contains("has a group of that name")
    );
    // It is fallen back to, while the gateway runs and at a start.
    node.ask(load("on trial", Some(TRIAL_S)));
    until(
        || (rules(&node) == "own group").then_some(()),
        || node.ask(Request::RulesHistory).to_string(),
    );
    node.ask(load("on trial", Some(600)));
    let node = Node::alone(node.stop(), &grouped);
    assert_eq!(rules(&node), "own group");
    node.ask(load("another", None));
    let back = node.refused(Request::RulesRollback {
        generation: None,
        how: HowToLoad::default(),
    });
    assert!(back.contains("has a group of that name"), "{back}");
}

/// Regression: of a set that was to be fallen back to, only the fault was told.
#[test]
fn a_stored_set_that_does_not_fit_the_configuration_is_told_with_the_way_out() {
    let text = WEB.replace("hospital", "clinic");
    let other = CLINIC
        .replace("\"clinic\"", "\"other\"")
        .replace("10.202.0.1", "10.202.0.2");
    let node = Node::alone(tempfile::tempdir().expect("folder"), CLINIC);
    loaded(&node, &text);
    let state = node.stop();
    let in_force = Node::start_refused(state.path(), &other);
    let node = Node::alone(state, CLINIC);
    node.ask(load("on trial", Some(600)));
    let fallen_back_to = Node::start_refused(node.stop().path(), &other);
    for told in [in_force, fallen_back_to] {
        assert!(
            told.contains("no longer fits the configuration: mend that, or remove")
                && told.contains("no site is named \"clinic\""),
            "{told}"
        );
    }
}
