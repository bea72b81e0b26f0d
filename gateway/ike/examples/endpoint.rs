//! An IKEv2 endpoint on real sockets, without a data plane: for trying a peer's IKE by hand.
//!
//! ```text
//! endpoint LOCAL_IP CHAIN.pem KEY.pem CA.pem IDENTITY TS_LOCAL TS_REMOTE [REMOTE_IP REMOTE_IDENTITY]
//! ```
//! Selectors are prefixes with commas between. Lines on standard input: `initiate`, `rekey-child`,
//! `rekey-ike`, `close`, `list`. Keys are not printed.

use std::{
    env, fs,
    io::BufRead,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant, SystemTime},
};

use gateway_ike::{
    AuthenticatedPeer, Authorizer, Command, Connection, Endpoint, EndpointConfig, Output, Remote, SitePolicy,
    Time, TrafficSelector,
    crypto::random::SystemRandom,
    pki::{credential::Credential, trust::TrustAnchors},
};

type Error = Box<dyn std::error::Error>;

struct Everybody(SitePolicy);

impl Authorizer for Everybody {
    fn authorize(&self, _: &AuthenticatedPeer) -> Option<SitePolicy> {
        Some(self.0.clone())
    }
}

enum Input {
    Datagram(SocketAddr, SocketAddr, Vec<u8>),
    Line(String),
}

fn selectors(text: &str) -> Result<Vec<TrafficSelector>, Error> {
    let prefix = |text: &str| -> Result<TrafficSelector, Error> {
        let (address, len) = text.split_once('/').ok_or("a selector is ADDRESS/LENGTH")?;
        Ok(TrafficSelector::subnet(address.parse()?, len.parse()?).ok_or("the prefix is too long")?)
    };
    text.split(',').map(prefix).collect()
}

fn config(arguments: &[String]) -> Result<(EndpointConfig, IpAddr), Error> {
    let [
        local,
        chain,
        key,
        authorities,
        identity,
        ts_local,
        ts_remote,
        rest @ ..,
    ] = arguments
    else {
        return Err(
            "usage: endpoint LOCAL_IP CHAIN KEY CA IDENTITY TS_LOCAL TS_REMOTE [REMOTE_IP REMOTE_IDENTITY]"
                .into(),
        );
    };
    let local: IpAddr = local.parse()?;
    let policy = SitePolicy {
        site: 1,
        name: "by hand".to_owned(),
        ts_local: selectors(ts_local)?,
        ts_remote: selectors(ts_remote)?,
        esp_proposals: None,
    };
    let mut config = EndpointConfig::new(
        Credential::from_pem(&fs::read(chain)?, &fs::read(key)?)?,
        identity.parse()?,
        TrustAnchors::from_pem(&fs::read(authorities)?)?,
        Box::new(Everybody(policy.clone())),
    );
    if let [remote, remote_identity] = rest {
        let remote = Remote {
            local: SocketAddr::new(local, 500),
            address: SocketAddr::new(remote.parse()?, 500),
        };
        let connection = Connection::new("peer", remote, remote_identity.parse()?, policy);
        config.connections.push(connection);
    }
    Ok((config, local))
}

fn listen(address: SocketAddr, inputs: Sender<Input>) -> Result<UdpSocket, Error> {
    let socket = UdpSocket::bind(address)?;
    let receiver = socket.try_clone()?;
    thread::spawn(move || {
        let mut buffer = vec![0; 65_535];
        while let Ok((len, from)) = receiver.recv_from(&mut buffer) {
            let payload = buffer.get(..len).unwrap_or_default().to_vec();
            if inputs.send(Input::Datagram(address, from, payload)).is_err() {
                break;
            }
        }
    });
    Ok(socket)
}

fn run_command(endpoint: &mut Endpoint, now: Time, line: &str) {
    let last = endpoint
        .ike_sas()
        .filter(|info| info.state == "established")
        .last();
    let command = match (line, last) {
        ("initiate", _) => Command::Initiate {
            connection: "peer".to_owned(),
        },
        ("close", _) => Command::CloseAll,
        ("rekey-ike", Some(info)) => Command::RekeyIke(info.id),
        ("rekey-child", Some(info)) => match info.children.last() {
            Some(child) => Command::RekeyChild(child.id),
            None => return,
        },
        ("list", _) => {
            endpoint.ike_sas().for_each(|info| println!("{info:?}"));
            println!("{:?}", endpoint.counters());
            return;
        }
        _ => return println!("? {line}"),
    };
    endpoint.handle_command(now, command);
}

fn main() -> Result<(), Error> {
    let (config, local) = config(&env::args().skip(1).collect::<Vec<_>>())?;
    let (sender, inputs) = mpsc::channel();
    let sockets = [500, 4500].map(|port| listen(SocketAddr::new(local, port), sender.clone()));
    let [ike, nat] = sockets;
    let (ike, nat) = (ike?, nat?);
    thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(Input::Line(line)).is_err() {
                break;
            }
        }
    });
    let mut endpoint = Endpoint::new(config, Box::new(SystemRandom::new()));
    let started = Instant::now();
    loop {
        let mono_ms = u64::try_from(started.elapsed().as_millis())?;
        let wait_ms = endpoint
            .poll_timeout()
            .map_or(60_000, |(due, _)| due.saturating_sub(mono_ms));
        let input = inputs.recv_timeout(Duration::from_millis(wait_ms));
        let unix_s = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)?
            .as_secs();
        let now = Time {
            mono_ms: u64::try_from(started.elapsed().as_millis())?,
            unix_s,
        };
        match input {
            Ok(Input::Datagram(to, from, payload)) => endpoint.handle_datagram(now, to, from, &payload),
            Ok(Input::Line(line)) => run_command(&mut endpoint, now, &line),
            Err(RecvTimeoutError::Timeout) => endpoint.handle_timeout(now),
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
        while let Some(output) = endpoint.poll_output() {
            match output {
                Output::Transmit {
                    local,
                    remote,
                    payload,
                } => {
                    let socket = if local.port() == 4500 { &nat } else { &ike };
                    socket.send_to(&payload, remote)?;
                }
                Output::Event(event) => println!("{event}"),
                Output::InstallChildSa(sa) => println!("install {sa:?}"),
                Output::ActivateOutbound { child, .. } => println!("send on {child}"),
                Output::UpdateChildSa { child, remote, .. } => println!("{child} goes to {remote}"),
                Output::RemoveChildSa { child, direction } => println!("remove {child} {direction:?}"),
                Output::IkeSpi { spi, stands } => {
                    println!(
                        "IKE SPI {spi:#018x} {}",
                        if stands { "stands" } else { "is gone" }
                    );
                }
            }
        }
    }
}
