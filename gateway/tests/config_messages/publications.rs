//! What is published of sites, and what NAT lets in.

use super::*;

/// A publication into the example, of the site `hospital-a`, with lines in place of some of its own.
fn published(changes: &[(&str, &str)]) -> String {
    let mut lines = vec![
        ("name", "name = \"mri\""),
        ("site", "site = \"hospital-a\""),
        ("address", "address = \"192.168.1.20\""),
        ("protocol", "protocol = \"tcp\""),
        ("port", "port = 443"),
        ("on", "on = \"10.201.255.1:8443\""),
        ("from", "from = [\"10.100.0.0/24\"]"),
    ];
    for (key, line) in changes {
        for of_key in &mut lines {
            if of_key.0 == *key {
                of_key.1 = line;
            }
        }
    }
    let lines: Vec<_> = lines.into_iter().map(|(_, line)| line).collect();
    format!("\n[[publish]]\n{}\n", lines.join("\n"))
}

#[test]
fn what_is_published_is_checked() {
    let fault = |changes: &[(&str, &str)]| config(&format!("{CONFIG}{}", published(changes)));
    for (changes, words) in [
        (
            &[("site", "site = \"hospital-z\"")][..],
            "no site is named \"hospital-z\"\n  to mend it: write the name of a [[site]], or an identity",
        ),
        (
            &[("address", "address = \"192.168.2.20\"")],
            "192.168.2.20 is not in the networks of \"hospital-a\"\n  to mend it: write an address of 192.168.1.0/24",
        ),
        (
            &[("port", "")],
            "\"mri\" is neither a port nor a whole address\n  to mend it: write protocol, port and the port of on",
        ),
        (
            &[("on", "on = \"10.201.255.1\"")],
            "\"mri\" is neither a port nor a whole address",
        ),
        (
            &[("protocol", ""), ("port", "")],
            "\"mri\" is neither a port nor a whole address",
        ),
        (
            &[("port", "port = 0")],
            "\"mri\" is neither a port nor a whole address",
        ),
        (
            &[("protocol", "protocol = \"icmp\"")],
            "unknown variant `icmp`, expected `tcp` or `udp`",
        ),
        (
            &[("on", "on = \"10.201.255.1:0\"")],
            "\"10.201.255.1:0\" is no address and port\n  to mend it: write it like \"10.201.255.1:8443\"",
        ),
        (
            &[("on", "on = \"gateway:8443\"")],
            "\"gateway:8443\" is no address and port",
        ),
        (
            &[("on", "on = \"10.200.0.9:8443\"")],
            "10.200.0.9 is in NAT pool \"sites\"\n  to mend it: write an address outside of the pools",
        ),
        (
            &[("on", "on = \"10.201.0.1:8443\"")],
            "10.201.0.1 is the nat_address of site \"hospital-a\"",
        ),
        (
            &[("on", "on = \"224.0.0.1:8443\"")],
            "224.0.0.1 is no address of a host",
        ),
        (
            &[("from", "from = []")],
            "\"mri\" is published for nobody\n  to mend it: write from",
        ),
        (&[("name", "name = \"the mri\"")], "\"the mri\" is no name"),
        (&[("from", "")], "missing field `from`"),
    ] {
        let found = fault(changes);
        assert!(found.contains(words), "expected {words}\n     got {found}");
    }
}

#[test]
fn nothing_is_published_twice() {
    let both = |changes: &[(&str, &str)]| {
        let text = format!("{CONFIG}{}{}", published(&[]), published(changes));
        Config::parse("file", &text, Path::new("/etc/gateway")).map_err(|fault| fault.to_string())
    };
    let other = ("name", "name = \"ct\"");
    let (inside, outside) = (("port", "port = 22"), ("on", "on = \"10.201.255.1:2222\""));
    assert!(both(&[other, inside, outside]).is_ok());
    for (changes, words) in [
        (&[inside, outside][..], "\"mri\" is published twice"),
        (
            &[other, inside],
            "10.201.255.1:8443 is where \"mri\" is published already",
        ),
        (
            &[other, outside],
            "\"mri\" publishes this of 192.168.1.20 already",
        ),
        (
            &[
                other,
                ("protocol", ""),
                ("port", ""),
                ("on", "on = \"10.201.255.9\""),
            ],
            "\"mri\" publishes this of 192.168.1.20 already",
        ),
        (
            &[
                other,
                ("address", "address = \"192.168.1.21\""),
                ("protocol", ""),
                ("port", ""),
                ("on", "on = \"10.201.255.1\""),
            ],
            "10.201.255.1 is where \"mri\" is published already",
        ),
    ] {
        let found = both(changes).expect_err("a fault");
        assert!(found.contains(words), "expected {words}\n     got {found}");
    }
}

#[test]
fn filtering_is_set_for_all_and_for_one() {
    use gateway::config::{Filtering, Place};
    let text = CONFIG
        .replacen(
            "[timeouts]",
            "[nat]\nfiltering = \"address-dependent\"\nhold_down_s = 240\n\n[timeouts]",
            1,
        )
        .replacen("max = 200", "max = 200\nfiltering = \"endpoint-independent\"", 1);
    let text = format!("{text}{}", published(&[("site", "site = \"A.Clinic.example\"")]));
    let config = Config::parse("file", &text, Path::new("/etc/gateway")).expect("right");
    assert_eq!(config.nat.filtering, Filtering::AddressDependent);
    assert_eq!(config.nat.hold_down_s, 240);
    assert!(config.nat.preserve_port && config.nat.preserve_range);
    assert_eq!(config.sites[0].filtering, None);
    assert_eq!(
        config.any_sites[0].filtering,
        Some(Filtering::EndpointIndependent)
    );
    assert_eq!(config.publications[0].site, "a.clinic.example");
    let on = Place {
        address: "10.201.255.1".parse().expect("address"),
        port: Some(8443),
    };
    assert_eq!(config.publications[0].on, on);

    let wrong = CONFIG.replacen("[timeouts]", "[nat]\nfiltering = \"none\"\n\n[timeouts]", 1);
    assert!(
        super::config(&wrong)
            .contains("unknown variant `none`, expected one of `address-and-port-dependent`"),
        "{}",
        super::config(&wrong)
    );
    let long = CONFIG.replacen("[timeouts]", "[nat]\nhold_down_s = 100000\n\n[timeouts]", 1);
    assert!(
        super::config(&long).contains("hold_down_s = 100000 keeps ports from others for more than a day")
    );
}
