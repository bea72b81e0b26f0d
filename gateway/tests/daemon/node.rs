//! A controller on a thread of its own.
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use gateway::api::caller::Caller;
use gateway::api::message::{Reply, Request};
use gateway::api::server::Call;
use gateway::config::Config;
use gateway::core::classifier::Generation;
use gateway::core::names::Write;
use gateway::dataplane::{LostInterface, Published, Traces};
use gateway::dns::server as dns;
use gateway::runtime::{
    Controller, DatagramQueue, Engine, Happening, Reader, SaTraffic, Sockets, Tables, prepare,
};
use gateway_common::abi::flow::{Flow, FlowKey};
use gateway_common::abi::names::OpenAddress;
use gateway_common::abi::nat::{InsideKey, Mapping, OutsideKey};
use gateway_common::abi::site::Site;
use gateway_ike::{ChildSaInstall, Direction};
use serde_json::Value;
use tokio::sync::{broadcast, mpsc, oneshot};

/// What the data plane was told.
#[derive(Default)]
pub(crate) struct Table {
    pub(crate) installed: BTreeMap<u32, ChildSaInstall>,
    pub(crate) happened: Vec<Happening<u32>>,
    /// Hits of the rules in force.
    pub(crate) rule_hits: Vec<u64>,
    /// What is traced, and what there is to tell of it.
    pub(crate) traced_site: u32,
    pub(crate) traces: Traces,
    pub(crate) names: BTreeMap<Ipv4Addr, OpenAddress>,
    pub(crate) sites: BTreeMap<u32, Site>,
    pub(crate) published: Vec<Published>,
    /// The publication that has no room.
    pub(crate) unpublishable: Option<u32>,
    /// How often it was tried to publish.
    pub(crate) publish_attempts: usize,
    pub(crate) outsides: Vec<OutsideKey>,
    /// Flows cannot be ended; and how often they were gone through for it.
    pub(crate) flows_fail: bool,
    pub(crate) flows_judged: usize,
    /// Whoever goes through flows does so here, if it is set: not before the test lets go of what it holds.
    pub(crate) held: Option<Arc<Held>>,
    pub(crate) flows: Vec<(FlowKey, Flow)>,
    /// Our SPIs of IKE SAs that stand.
    pub(crate) ike_spis: BTreeSet<u64>,
    next: u32,
}

/// Flows whose reading takes as long as a test likes.
#[derive(Default)]
pub(crate) struct Held {
    /// How often they were begun to be read.
    pub(crate) readers: AtomicU32,
    /// Locked as long as they wait.
    pub(crate) gate: Mutex<()>,
}

/// The tables as they were when they were asked for.
struct Lists {
    table: Arc<Mutex<Table>>,
    held: Option<Arc<Held>>,
    flows: Vec<(FlowKey, Flow)>,
    outsides: Vec<OutsideKey>,
}

impl Reader for Lists {
    fn flows(&self, see: &mut dyn FnMut(FlowKey, Flow)) {
        if let Some(held) = &self.held {
            held.readers.fetch_add(1, Ordering::SeqCst);
            drop(held.gate.lock().expect("no panic"));
        }
        self.flows.iter().for_each(|(key, flow)| see(*key, *flow));
    }

    fn mappings(&self, _: &mut dyn FnMut(InsideKey, Mapping)) {}

    fn outsides(&self) -> Vec<OutsideKey> {
        self.outsides.clone()
    }

    fn end_refused<'a>(
        &self,
        is_refused: &dyn Fn(&FlowKey, &Flow) -> bool,
        turn: &dyn Fn() -> Option<MutexGuard<'a, ()>>,
    ) -> anyhow::Result<usize> {
        let mut ended = 0;
        for (key, flow) in &self.flows {
            let Some(_turn) = turn() else { return Ok(ended) };
            if is_refused(key, flow) {
                self.table
                    .lock()
                    .expect("no panic")
                    .flows
                    .retain(|(other, _)| other != key);
                ended += 1;
            }
        }
        let mut table = self.table.lock().expect("no panic");
        anyhow::ensure!(!table.flows_fail, "no flows today");
        table.flows_judged += 1;
        Ok(ended)
    }
}

/// Longer than anything takes that is waited for, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(60);
/// The private key of a node: its file's name, in the folder of what it has.
pub(crate) const OWN_KEY: &str = "rsa-leaf.pkcs8.key";
/// Time on the clock of traced packets.
pub(crate) const TRACE_CLOCK_NS: u64 = 5_000_000_000;

/// A data plane without packets.
struct InMemory(Arc<Mutex<Table>>);

impl InMemory {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().expect("no panic")
    }
}

impl Engine for InMemory {
    type Handle = u32;

    fn set_sites(&mut self, sites: &[(u32, Site)]) -> anyhow::Result<()> {
        self.table().sites = sites.iter().copied().collect();
        Ok(())
    }

    fn add_sites(&mut self, sites: &[(u32, Site)]) -> anyhow::Result<()> {
        self.table().sites.extend(sites.iter().copied());
        Ok(())
    }

    fn publish(&mut self, published: &[Published]) -> anyhow::Result<()> {
        let mut table = self.table();
        table.publish_attempts += 1;
        for one in published {
            anyhow::ensure!(table.unpublishable != Some(one.number), "no room today");
            table.published.retain(|other| other.number != one.number);
            table.published.push(one.clone());
        }
        Ok(())
    }

    fn load_rules(&mut self, _: &Generation, _: BTreeSet<Ipv4Addr>) -> anyhow::Result<()> {
        Ok(())
    }

    fn reset_rule_hits(&mut self, _: u32, _: u32) -> anyhow::Result<()> {
        Ok(())
    }

    fn write_names(&mut self, writes: &[Write]) -> anyhow::Result<()> {
        let mut table = self.table();
        for (address, open) in writes {
            match open {
                Some(open) => table.names.insert(*address, *open),
                None => table.names.remove(address),
            };
        }
        Ok(())
    }

    /// Every client is the first site.
    fn site_of(&self, _: u8, client: SocketAddrV4, _: SocketAddrV4) -> Option<u32> {
        client.ip().is_loopback().then_some(1)
    }

    async fn install(&mut self, install: &ChildSaInstall, _: Vec<u32>) -> anyhow::Result<u32> {
        let mut table = self.table();
        table.next += 1;
        let handle = table.next;
        table.installed.insert(handle, install.clone());
        Ok(handle)
    }

    fn activate_outbound(&mut self, handle: u32, _: &[u32]) -> anyhow::Result<()> {
        anyhow::ensure!(self.table().installed.contains_key(&handle), "no SA {handle}");
        Ok(())
    }

    fn update(
        &mut self,
        handle: u32,
        local: SocketAddr,
        remote: SocketAddr,
        udp_encap: bool,
    ) -> anyhow::Result<()> {
        if let Some(install) = self.table().installed.get_mut(&handle) {
            (install.local, install.remote, install.udp_encap) = (local, remote, udp_encap);
        }
        Ok(())
    }

    fn remove(&mut self, handle: u32, direction: Direction) -> anyhow::Result<()> {
        if direction != Direction::Outbound {
            self.table().installed.remove(&handle);
        }
        Ok(())
    }

    fn set_ike_spi(&mut self, spi: u64, stands: bool) -> anyhow::Result<()> {
        let mut table = self.table();
        let changed = if stands {
            table.ike_spis.insert(spi)
        } else {
            table.ike_spis.remove(&spi)
        };
        anyhow::ensure!(changed, "{spi:#x} stands, or does not");
        Ok(())
    }

    fn traffic(&self, handle: u32) -> Option<SaTraffic> {
        self.table()
            .installed
            .contains_key(&handle)
            .then(SaTraffic::default)
    }

    fn reader(&self) -> anyhow::Result<Box<dyn Reader>> {
        let table = self.table();
        Ok(Box::new(Lists {
            table: Arc::clone(&self.0),
            held: table.held.clone(),
            flows: table.flows.clone(),
            outsides: table.outsides.clone(),
        }))
    }

    fn outsides(&self) -> anyhow::Result<Vec<OutsideKey>> {
        Ok(self.table().outsides.clone())
    }

    fn rule_hits(&self, _: u32, rules: u32) -> anyhow::Result<Vec<u64>> {
        let mut hits = self.table().rule_hits.clone();
        hits.resize(rules as usize, 0);
        Ok(hits)
    }

    fn tables(&self) -> anyhow::Result<Tables> {
        Ok(Tables::default())
    }

    fn now_s(&self) -> u32 {
        0
    }

    fn standing_worker(&self) -> Option<usize> {
        None
    }

    fn lost_interfaces(&self) -> Vec<LostInterface> {
        Vec::new()
    }

    async fn tend(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    async fn poll(&mut self) -> Vec<Happening<u32>> {
        std::mem::take(&mut self.table().happened)
    }

    fn set_trace(&mut self, site: u32) -> anyhow::Result<()> {
        self.table().traced_site = site;
        Ok(())
    }

    fn traces(&mut self) -> (Traces, u64) {
        (std::mem::take(&mut self.table().traces), TRACE_CLOCK_NS)
    }

    async fn stop(&mut self) {}
}

/// How the two differ from the usual.
pub(crate) struct Options {
    /// Of the site's connection.
    pub(crate) start: &'static str,
    /// IKE proposals of the site.
    pub(crate) site_proposals: &'static str,
    /// The identity that the center knows.
    pub(crate) center_knows: &'static str,
    /// The identity that the site knows.
    pub(crate) site_knows: &'static str,
    /// The site's certificate, for the key of `ec-leaf`, and its identity.
    pub(crate) site_certificate: (PathBuf, &'static str),
    /// What the center trusts.
    pub(crate) center_ca: PathBuf,
    /// More lines of the center's `[ike]`, of its `[[site]]`, and of the site's `[[site]]`.
    pub(crate) more: [String; 3],
}

impl Default for Options {
    fn default() -> Self {
        Self {
            start: "manual",
            site_proposals: "aes256-sha256-x25519",
            center_knows: "site1.lab.test",
            site_knows: "gw.lab.test",
            site_certificate: ("ec-leaf.crt".into(), "site1.lab.test"),
            center_ca: "ec-ca.crt".into(),
            more: Default::default(),
        }
    }
}

/// A running controller.
pub(crate) struct Node {
    pub(crate) address: IpAddr,
    calls: mpsc::Sender<Call>,
    table: Arc<Mutex<Table>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
    state: Option<tempfile::TempDir>,
    /// Files that the configuration names.
    files: Option<tempfile::TempDir>,
}

impl Node {
    fn start(config: &str, address: IpAddr) -> Self {
        Self::start_in(tempfile::tempdir().expect("folder"), config, address)
    }

    /// A gateway to which nobody connects, with these tables in its configuration and this state folder.
    pub(crate) fn alone(state: tempfile::TempDir, tables: &str) -> Self {
        let [address, _] = addresses();
        let config = alone(state.path(), tables);
        Self::start_in(state, &config, address)
    }

    /// Why a gateway with these tables does not start in this state folder.
    pub(crate) fn start_refused(state: &Path, tables: &str) -> String {
        let tables = alone(state, tables);
        let text = format!("[gateway]\nname = \"test\"\nstate_dir = {state:?}\n{tables}");
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("ike/tests/data");
        let config = Config::parse("gateway.toml", &text, &data).expect("right");
        format!("{:#}", prepare(config).err().expect("it does not start"))
    }

    /// Stops it and gives its state folder back.
    pub(crate) fn stop(mut self) -> tempfile::TempDir {
        let state = self.state.take().expect("it has one until it stops");
        drop(self);
        state
    }

    /// Its state folder.
    pub(crate) fn state_dir(&self) -> &Path {
        self.state.as_ref().expect("it has one until it stops").path()
    }

    /// The same with the DNS proxy at these sockets.
    pub(crate) fn with_dns(tables: &str, sockets: dns::Sockets) -> Self {
        let [address, _] = addresses();
        let state = tempfile::tempdir().expect("folder");
        let config = alone(state.path(), tables);
        Self::start_with(state, &config, address, Some(sockets))
    }

    fn start_in(state: tempfile::TempDir, config: &str, address: IpAddr) -> Self {
        Self::start_with(state, config, address, None)
    }

    fn start_with(
        state: tempfile::TempDir,
        config: &str,
        address: IpAddr,
        dns: Option<dns::Sockets>,
    ) -> Self {
        let text = format!(
            "[gateway]\nname = \"test\"\nstate_dir = {:?}\n{config}",
            state.path()
        );
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("ike/tests/data");
        let file = state.path().join("gateway.toml");
        std::fs::write(&file, &text).expect("written");
        let config = Config::parse(&file.display().to_string(), &text, &data).expect("right");
        let table = Arc::new(Mutex::new(Table::default()));
        let engine = InMemory(Arc::clone(&table));
        let (calls, incoming) = mpsc::channel(16);
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let serve = async move {
            let (queue, datagrams) = DatagramQueue::new(64);
            let mut sockets = Sockets::new(queue);
            for port in [500, 4500] {
                let local = SocketAddr::new(address, port);
                sockets.open(local).expect("a loopback address of our own");
            }
            let prepared = prepare(config).expect("certificates and key");
            let events = broadcast::channel(64).0;
            let mut controller = Controller::new(prepared, engine, sockets, events)
                .await
                .expect("started");
            if let Some(sockets) = dns {
                controller.start_dns(sockets).expect("the proxy starts");
            }
            ready.send(()).expect("awaited");
            let stop = async move {
                let _ = stopped.await;
                "end of the test"
            };
            controller
                .run(datagrams, incoming, stop)
                .await
                .expect("it ends when it is told");
            controller.close().await;
        };
        let thread = std::thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("runtime").block_on(serve);
        });
        is_ready.recv_timeout(PATIENCE).expect("the controller starts");
        Self {
            address,
            calls,
            table,
            stop: Some(stop),
            thread: Some(thread),
            state: Some(state),
            files: None,
        }
    }

    fn reply(&self, request: Request) -> Reply {
        self.reply_with_lines(request, None)
    }

    /// Asks for a view that lines follow.
    #[track_caller]
    pub(crate) fn follow(&self, request: Request, places: usize) -> (Value, mpsc::Receiver<String>) {
        let (lines, incoming) = mpsc::channel(places);
        match self.reply_with_lines(request, Some(lines)) {
            Reply::Ok(view) => (view, incoming),
            Reply::Error(words) => panic!("refused: {words}"),
        }
    }

    /// Asks for a view that lines follow, and expects a refusal.
    #[track_caller]
    pub(crate) fn refused_lines(&self, request: Request) -> String {
        match self.reply_with_lines(request, Some(mpsc::channel(1).0)) {
            Reply::Ok(view) => panic!("not refused: {view}"),
            Reply::Error(words) => words,
        }
    }

    fn reply_with_lines(&self, request: Request, lines: Option<mpsc::Sender<String>>) -> Reply {
        awaited(self.call(request, lines)).expect("it answers")
    }

    /// Asks, and does not wait for the answer.
    pub(crate) fn send(&self, request: Request) -> oneshot::Receiver<Reply> {
        self.call(request, None)
    }

    fn call(&self, request: Request, lines: Option<mpsc::Sender<String>>) -> oneshot::Receiver<Reply> {
        let (reply, answer) = oneshot::channel();
        let caller = Caller {
            uid: 0,
            login: Some("alice".into()),
        };
        let call = Call {
            request,
            caller,
            reply,
            lines,
        };
        awaited(self.calls.send(call)).expect("it runs");
        answer
    }

    /// Asks, and expects a view.
    #[track_caller]
    pub(crate) fn ask(&self, request: Request) -> Value {
        match self.reply(request) {
            Reply::Ok(view) => view,
            Reply::Error(words) => panic!("refused: {words}"),
        }
    }

    /// Asks, and expects a refusal.
    #[track_caller]
    pub(crate) fn refused(&self, request: Request) -> String {
        match self.reply(request) {
            Reply::Ok(view) => panic!("not refused: {view}"),
            Reply::Error(words) => words,
        }
    }

    pub(crate) fn engine(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no panic")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.stop.take());
        let Some(thread) = self.thread.take() else { return };
        let deadline = Instant::now() + PATIENCE;
        while !thread.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        if thread.is_finished() {
            let _ = thread.join();
        } else if !std::thread::panicking() {
            panic!("the controller does not end");
        }
    }
}

/// A copy of a private key of the test data, for its owner alone: no gateway takes the one in the repository.
fn private_key(folder: &Path, name: &str) -> PathBuf {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("ike/tests/data");
    let copy = folder.join(name);
    std::fs::copy(data.join(name), &copy).expect("copied");
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o600)).expect("mode");
    copy
}

/// The configuration of a gateway to which nobody connects.
fn alone(state: &Path, tables: &str) -> String {
    let key = private_key(state, OWN_KEY);
    format!(
        "[[interface]]\nname = \"w\"\nrole = \"wan\"\n[[interface]]\nname = \"c\"\nrole = \"core\"\n\
         [ike]\ncertificate = \"rsa-leaf.crt\"\nprivate_key = {key:?}\nca = \"ec-ca.crt\"\n\
         identity = \"gw.lab.test\"\n[center]\nnetworks = [\"10.100.0.0/16\"]\n{tables}"
    )
}

/// Addresses of loopback that no other test has.
fn addresses() -> [IpAddr; 2] {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let taken = TAKEN.fetch_add(1, Ordering::Relaxed);
    let [.., a, b] = std::process::id().to_be_bytes();
    let address = |last: u32| {
        let last = u8::try_from(taken * 2 + last).expect("few tests");
        IpAddr::V4(Ipv4Addr::new(127, a | 64, b, last))
    };
    [address(1), address(2)]
}

/// The center and a site that can connect to it.
pub(crate) fn pair(options: Options) -> (Node, Node) {
    let [center, site] = addresses();
    // The leaf is issued by an intermediate, which goes along.
    let folder = tempfile::tempdir().expect("folder");
    let chain = folder.path().join("chain.pem");
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("ike/tests/data");
    let certificates = ["rsa-leaf.crt", "rsa-mid.crt"];
    let certificates = certificates.map(|name| std::fs::read_to_string(data.join(name)).expect(name));
    std::fs::write(&chain, certificates.concat()).expect("written");
    let keys = [OWN_KEY, "ec-leaf.pkcs8.key"];
    let [center_key, site_key] = keys.map(|name| private_key(folder.path(), name));
    let [more_ike, more_center, more_site] = &options.more;
    let center_ca = &options.center_ca;
    let (certificate, identity) = &options.site_certificate;
    let interfaces =
        "[[interface]]\nname = \"w\"\nrole = \"wan\"\n[[interface]]\nname = \"c\"\nrole = \"core\"\n";
    let center_config = format!(
        "{interfaces}[ike]\ncertificate = {chain:?}\nprivate_key = {center_key:?}\nca = {center_ca:?}\n\
         mobike = false\nidentity = \"gw.lab.test\"\nproposals = [\"aes256-sha256-x25519\", \"aes256gcm16-prfsha256-ecp256\"]\n{more_ike}\n\
         [center]\nnetworks = [\"10.100.0.0/16\"]\n\
         [[site]]\nname = \"hospital\"\nidentity = \"{}\"\nnetworks = [\"192.168.1.0/24\"]\nnat_address = \"10.200.0.1\"\n{more_center}\n",
        options.center_knows
    );
    let site_config = format!(
        "{interfaces}[ike]\ncertificate = {certificate:?}\nprivate_key = {site_key:?}\nca = \"rsa-ca.crt\"\n\
         mobike = false\nidentity = \"{identity}\"\nproposals = [\"{}\"]\n\
         [center]\nnetworks = [\"192.168.1.0/24\"]\n\
         [[site]]\nname = \"center\"\nidentity = \"{}\"\nnetworks = [\"10.100.0.0/16\"]\nnat_address = \"10.200.0.1\"\n{more_site}\n\
         [[connection]]\nname = \"to-center\"\nsite = \"center\"\nremote = \"{center}\"\nlocal = \"{site}\"\nstart = \"{}\"\n",
        options.site_proposals, options.site_knows, options.start
    );
    let mut center = Node::start(&center_config, center);
    center.files = Some(folder);
    (center, Node::start(&site_config, site))
}

/// Waits for what the controller is about to do; no test hangs because it does not.
#[track_caller]
pub(crate) fn awaited<F: Future>(what: F) -> F::Output {
    let clock = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    let done = clock
        .expect("runtime")
        .block_on(async { tokio::time::timeout(PATIENCE, what).await });
    done.expect("the controller does it")
}

/// Waits until `done` has something; `otherwise` says what to read when it never has.
#[track_caller]
pub(crate) fn until<T>(done: impl Fn() -> Option<T>, otherwise: impl Fn() -> String) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(Instant::now() < deadline, "in vain; the log:\n{}", otherwise());
        std::thread::sleep(Duration::from_millis(10));
    }
}
