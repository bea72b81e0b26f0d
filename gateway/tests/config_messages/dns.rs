//! The DNS proxy.

use super::*;

/// The example with a DNS proxy; `dns` is its table.
fn with_dns(dns: &str) -> Result<Config, String> {
    let text = CONFIG.replacen("[timeouts]", &format!("[dns]\n{dns}\n\n[timeouts]"), 1);
    Config::parse("file", &text, Path::new("/etc/gateway")).map_err(|faults| faults.to_string())
}

#[test]
fn a_dns_proxy_needs_little() {
    let dns = with_dns("listen = \"10.100.255.53\"\nupstream = [\"192.0.2.53\", \"[2001:db8::53]:5353\"]");
    let dns = dns.expect("right").dns.expect("a proxy");
    let upstream: Vec<_> = dns.upstream.iter().map(ToString::to_string).collect();
    assert_eq!(upstream, ["192.0.2.53:53", "[2001:db8::53]:5353"]);
    assert_eq!((dns.ttl_min_s, dns.ttl_max_s), (60, 3_600));
    // No name may lead to the center, a site's network, a pool, or a site's own address.
    let own: Vec<_> = dns.own_networks.iter().map(ToString::to_string).collect();
    for network in ["10.100.0.0/16", "192.168.1.0/24", "10.201.0.1/32"] {
        assert!(own.contains(&network.to_owned()), "{own:?}");
    }
    let covers = |address: [u8; 4]| {
        let address = std::net::Ipv4Addr::from(address);
        dns.own_networks.iter().any(|net| net.contains(&address))
    };
    assert!(covers([10, 200, 0, 1]) && covers([10, 200, 0, 254]) && !covers([198, 51, 100, 80]));
}

#[test]
fn faults_of_the_dns_proxy() {
    const UPSTREAM: &str = "upstream = \"192.0.2.53\"";
    for (dns, words) in [
        (
            format!("listen = \"10.99.0.1\"\n{UPSTREAM}"),
            "in none of the center's networks",
        ),
        (
            format!("listen = \"10.201.0.1\"\n{UPSTREAM}"),
            "what a site is or may be translated to",
        ),
        (
            format!("listen = \"10.200.0.7\"\n{UPSTREAM}"),
            "what a site is or may be translated to",
        ),
        (
            "listen = \"10.100.255.53\"".to_owned(),
            "missing field `upstream`",
        ),
        (
            "listen = \"10.100.255.53\"\nupstream = []".to_owned(),
            "the list is empty",
        ),
        (
            "listen = \"10.100.255.53\"\nupstream = \"dns.example\"".to_owned(),
            "\"dns.example\" is no server",
        ),
        (
            format!("listen = \"10.100.255.53\"\n{UPSTREAM}\nttl_min_s = 600\nttl_max_s = 60"),
            "ttl_min_s = 600 and ttl_max_s = 60",
        ),
        (
            format!("listen = \"10.100.255.53\"\n{UPSTREAM}\nsite_queries_per_s = 0"),
            "site_queries_per_s = 0",
        ),
        (
            format!("listen = \"10.100.255.53\"\n{UPSTREAM}\naddresses_max = 65537"),
            "write a number from 1 to 65536",
        ),
    ] {
        let fault = with_dns(&dns).expect_err(&dns);
        assert!(fault.contains(words), "{dns}: {fault}");
        assert!(fault.contains("file:"), "{fault}");
    }
}
