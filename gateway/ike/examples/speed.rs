//! What the cryptography of a handshake costs on one core, in microseconds: each key exchange, and all that a responder
//! does for one IKE SA with its Child SA. Medians; run with `--release`.

use std::{collections::VecDeque, net::SocketAddr, time::Instant};

use gateway_ike::{
    AuthenticatedPeer, Authorizer, Command, Connection, Endpoint, EndpointConfig, Event, IkeProposal, Output,
    Remote, SitePolicy, Time, TrafficSelector,
    crypto::{
        dh::{DhGroup, DhPrivate},
        kem::{Kem, KemPrivate},
        random::SystemRandom,
    },
    pki::{credential::Credential, trust::TrustAnchors},
};

const ROUNDS: usize = 201;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    println!("key exchange, us: key pair / secret");
    for group in DhGroup::ALL {
        let (make, agree) = diffie_hellman(group)?;
        println!("  {:12}{make:8.1} /{agree:8.1}", format!("{group:?}"));
    }
    for kem in Kem::ALL {
        let (make, encapsulate, decapsulate) = encapsulation(kem)?;
        println!(
            "  {:12}{make:8.1} /{decapsulate:8.1}, encapsulation {encapsulate:.1}",
            format!("{kem:?}")
        );
    }
    println!("responder, us of CPU per IKE SA with its Child SA; both sides have such certificates");
    for (proposal, certificate) in [
        ("aes256-sha256-modp2048", Certificate::Rsa2048),
        ("aes256gcm16-prfsha256-ecp256", Certificate::EcdsaP256),
        (
            "aes256gcm16-prfsha256-x25519-ke1_mlkem768",
            Certificate::EcdsaP256,
        ),
    ] {
        let took = responder(proposal, certificate)?;
        println!("  {proposal}, {certificate:?}: {took:.0}");
    }
    Ok(())
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn timed<T>(times: &mut Vec<f64>, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    times.push(start.elapsed().as_secs_f64() * 1e6);
    result
}

fn diffie_hellman(group: DhGroup) -> Result<(f64, f64), Failure> {
    let mut random = SystemRandom::new();
    let (mut make, mut agree) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let peer = DhPrivate::generate(group, &mut random)?.public();
        let own = timed(&mut make, || DhPrivate::generate(group, &mut random))?;
        timed(&mut agree, || own.agree(&peer))?;
    }
    Ok((median(make), median(agree)))
}

fn encapsulation(kem: Kem) -> Result<(f64, f64, f64), Failure> {
    let mut random = SystemRandom::new();
    let (mut make, mut encapsulate, mut decapsulate) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let own = timed(&mut make, || KemPrivate::generate(kem, &mut random));
        let key = own.encapsulation_key();
        let (ciphertext, _) = timed(&mut encapsulate, || kem.encapsulate(&mut random, &key))?;
        timed(&mut decapsulate, || own.decapsulate(&ciphertext))?;
    }
    Ok((median(make), median(encapsulate), median(decapsulate)))
}

#[derive(Debug, Clone, Copy)]
enum Certificate {
    Rsa2048,
    EcdsaP256,
}

macro_rules! data {
    ($name:literal) => {
        include_bytes!(concat!("../tests/data/", $name))
    };
}

/// 1 January 2027, when the test certificates are valid.
const NOW: Time = Time {
    mono_ms: 1_000,
    unix_s: 1_798_761_600,
};

struct Everybody(SitePolicy);

impl Authorizer for Everybody {
    fn authorize(&self, _: &AuthenticatedPeer) -> Option<SitePolicy> {
        Some(self.0.clone())
    }
}

fn config(proposal: &IkeProposal, certificate: Certificate) -> Result<EndpointConfig, Failure> {
    let anywhere = || TrafficSelector::subnet([0, 0, 0, 0].into(), 0);
    let policy = SitePolicy {
        site: 1,
        name: "site".to_owned(),
        ts_local: anywhere().into_iter().collect(),
        ts_remote: anywhere().into_iter().collect(),
        esp_proposals: None,
    };
    let (credential, identity) = match certificate {
        Certificate::Rsa2048 => {
            let chain = [&data!("rsa-leaf.crt")[..], data!("rsa-mid.crt")].concat();
            (
                Credential::from_pem(&chain, data!("rsa-leaf.key"))?,
                "gw.lab.test",
            )
        }
        Certificate::EcdsaP256 => (
            Credential::from_pem(data!("ec-leaf.crt"), data!("ec-leaf.key"))?,
            "site1.lab.test",
        ),
    };
    let trust = TrustAnchors::from_pem(&[&data!("rsa-ca.crt")[..], data!("ec-ca.crt")].concat())?;
    let mut config = EndpointConfig::new(
        credential,
        identity.parse()?,
        trust,
        Box::new(Everybody(policy.clone())),
    );
    config.ike_proposals = vec![*proposal];
    let remote = Remote {
        local: "192.0.2.1:500".parse()?,
        address: "192.0.2.2:500".parse()?,
    };
    let connection = Connection::new("center", remote, identity.parse()?, policy);
    config.connections = vec![connection];
    Ok(config)
}

/// One handshake after another between two endpoints; only the time within the responder counts.
fn responder(proposal: &str, certificate: Certificate) -> Result<f64, Failure> {
    let proposal = proposal.parse()?;
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let mut site = Endpoint::new(config(&proposal, certificate)?, Box::new(SystemRandom::new()));
        let mut center = Endpoint::new(config(&proposal, certificate)?, Box::new(SystemRandom::new()));
        let connection = "center".to_owned();
        site.handle_command(NOW, Command::Initiate { connection });
        let (mut took, mut established) = (0.0, false);
        loop {
            let requests = datagrams(&mut site, &mut established);
            if requests.is_empty() {
                break;
            }
            for (from, to, payload) in requests {
                let start = Instant::now();
                center.handle_datagram(NOW, to, from, &payload);
                took += start.elapsed().as_secs_f64() * 1e6;
            }
            for (from, to, payload) in datagrams(&mut center, &mut false) {
                site.handle_datagram(NOW, to, from, &payload);
            }
        }
        if !established {
            return Err("the handshake failed".into());
        }
        times.push(took);
    }
    Ok(median(times))
}

fn datagrams(endpoint: &mut Endpoint, established: &mut bool) -> VecDeque<(SocketAddr, SocketAddr, Vec<u8>)> {
    let mut datagrams = VecDeque::new();
    while let Some(output) = endpoint.poll_output() {
        match output {
            Output::Transmit {
                local,
                remote,
                payload,
            } => datagrams.push_back((local, remote, payload)),
            Output::InstallChildSa(_) => *established = true,
            Output::Event(Event::AuthenticationFailed { reason, .. }) => eprintln!("{reason}"),
            _ => {}
        }
    }
    datagrams
}
