//! The BPF object in the kernel, driven by `BPF_PROG_TEST_RUN`.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd as _, RawFd};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{
    Array, ArrayOfMaps, DevMapHash, HashMap, Map, MapData, PerCpuArray, ProgramArray, RingBuf, XskMap,
};
use aya::programs::xdp::XdpLinkId;
use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader, Pod};
use gateway::core::classifier::{self, Condition, Generation};
use gateway::dataplane::object::{EBPF, program};
use gateway::dataplane::tables::{SharedTables, prepare};
use gateway::dataplane::{TableSizes, fill_stages, fill_tracer};
use gateway_common::abi::event::Event;
use gateway_common::abi::flow::{Flow, FlowKey};
use gateway_common::abi::ike;
use gateway_common::abi::interface::{Interface, Interfaces};
use gateway_common::abi::names::OpenAddress;
use gateway_common::abi::nat::{InsideKey, Mapping, OutsideKey, PublicationSource};
use gateway_common::abi::rule::{Chunk, Rule};
use gateway_common::abi::sa::SaInbound;
use gateway_common::abi::site::Site;
use gateway_common::abi::stats::{Counter, Path};
use gateway_common::abi::trace::TraceEvent;
use gateway_common::abi::{ABI_VERSION, map, usage};
use gateway_common::drop::DropReason;
use gateway_common::path::filter::is_half_open;
use gateway_common::tables::host::HostTables;
use socket2::{Domain, Socket, Type};
use zerocopy::{FromBytes as _, FromZeros as _};

use crate::vectors::world;

/// The loopback interface: `BPF_PROG_TEST_RUN` says that frames came in by its queue 0.
pub const LOOPBACK: u32 = 1;
/// First index of interfaces that no frame comes by.
const NEIGHBOURS: u32 = 1000;
/// Frames that the ring of a worker's socket holds: none comes.
const RING: u32 = 1;
/// Room for the largest frame that a program may give back.
const FRAME_MAX: usize = 4096;

/// `BPF_F_INNER_MAP` of the kernel: generations differ in size.
const BPF_F_INNER_MAP: u32 = 1 << 12;

/// The loaded object with its own, unpinned maps.
pub struct Kernel {
    ebpf: Ebpf,
    tables: Arc<SharedTables>,
    /// An unbound AF_XDP socket: enough for a redirect to find its target.
    _worker: Socket,
    links: Links,
    /// Interfaces that no frame comes by.
    neighbours: Vec<(u32, Interface)>,
    /// Places of inbound SAs of the last [`Kernel::fill`].
    sa_places: Vec<u32>,
    /// Those of IKE SAs.
    ike_places: Vec<u32>,
    /// Groups of the sites of the last [`Kernel::fill`].
    group_bitmaps: Vec<u64>,
}

/// Where frames come from and go to, for all of a world's interfaces and workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Links {
    /// Index of the interface that frames come in by.
    pub ingress: u32,
    /// Index of the interface that leads to the center.
    pub egress: u32,
    /// Descriptor of the worker's AF_XDP socket.
    pub worker: RawFd,
}

/// Flows and mappings at one moment.
#[derive(Clone, Debug)]
pub struct State {
    /// Flows.
    pub flows: BTreeMap<FlowKey, Flow>,
    /// Mappings by inside.
    pub mappings: BTreeMap<InsideKey, Mapping>,
    /// Insides by outside.
    pub outsides: BTreeMap<OutsideKey, InsideKey>,
}

/// What one run of a program gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The XDP code.
    pub code: u32,
    /// The frame after the program.
    pub frame: Vec<u8>,
    /// Nanoseconds of one run, on average over the repeats.
    pub duration_ns: u128,
}

impl Kernel {
    /// Loads all programs; needs root.
    ///
    /// # Errors
    /// The verifier's log, or what else the kernel refused.
    pub fn load() -> Result<Self> {
        Self::load_for(TableSizes::default())
    }

    /// Loads all programs with tables of these sizes; needs root.
    ///
    /// # Errors
    /// As [`Kernel::load`].
    pub fn load_for(sizes: TableSizes) -> Result<Self> {
        Self::load_object(EBPF, sizes)
    }

    /// Loads another object than this build's, to compare them; needs root.
    ///
    /// # Errors
    /// As [`Kernel::load`].
    pub fn load_object(object: &[u8], sizes: TableSizes) -> Result<Self> {
        Self::load_some(object, sizes, |_| true)
    }

    /// Loads only those programs of an object that are wanted: a stage that is not ends the packets that would need it.
    /// Needs root.
    ///
    /// # Errors
    /// As [`Kernel::load`].
    pub fn load_some(object: &[u8], sizes: TableSizes, wanted: impl Fn(&str) -> bool) -> Result<Self> {
        let geometry = sizes.geometry()?;
        let mut loader = EbpfLoader::new();
        // As the daemon loads it when nobody asks for log lines.
        loader.override_global("AYA_LOG_LEVEL", &0u8, false);
        prepare(&mut loader, &geometry);
        let mut ebpf = loader.load(object).context("loading the object")?;
        let tables = SharedTables::new(&ebpf, &geometry)
            .map_err(|(map, error)| anyhow::anyhow!("map {map}: {error}"))?;
        load_programs(&mut ebpf, wanted)?;
        let worker = Socket::new(Domain::from(libc_af_xdp()), Type::RAW, None).context("AF_XDP socket")?;
        // Without one, Linux 7.3 does not put the socket into the map.
        rustix::net::sockopt::set_xdp_rx_ring_size(&worker, RING).context("ring of the AF_XDP socket")?;
        let links = Links {
            ingress: LOOPBACK,
            egress: LOOPBACK,
            worker: worker.as_raw_fd(),
        };
        let mut kernel = Self {
            ebpf,
            tables: Arc::new(tables),
            _worker: worker,
            links,
            neighbours: Vec::new(),
            sa_places: Vec::new(),
            ike_places: Vec::new(),
            group_bitmaps: Vec::new(),
        };
        kernel.array::<u32>(map::ABI)?.set(0, ABI_VERSION, 0)?;
        Ok(kernel)
    }

    /// Flow and mapping tables as user space has them.
    #[must_use]
    pub fn tables(&self) -> &SharedTables {
        &self.tables
    }

    /// The same, for a worker of this process.
    #[must_use]
    pub fn shared_tables(&self) -> Arc<SharedTables> {
        Arc::clone(&self.tables)
    }

    /// Another hold of a program, for threads of their own.
    ///
    /// # Errors
    /// No such program.
    pub fn program(&mut self, name: &str) -> Result<aya::programs::ProgramFd> {
        Ok(self.xdp(name)?.fd()?.try_clone()?)
    }

    /// Has [`Kernel::fill`] put so many other interfaces before those of the world.
    pub fn set_neighbours(&mut self, count: u32) {
        let interface = Interface::new_zeroed();
        let neighbours = (NEIGHBOURS..).map(|index| (index, interface));
        self.neighbours = neighbours.take(count as usize).collect();
    }

    /// Has [`Kernel::fill`] name real links in place of those of `BPF_PROG_TEST_RUN`.
    pub fn set_links(&mut self, links: Links) {
        self.links = links;
    }

    /// Runs a program on frames that go where it sends them, `repeat` of them, as if they had come by this interface.
    ///
    /// # Errors
    /// The kernel does not run it so.
    pub fn generate(&self, name: &str, octets: usize, ingress: u32, repeat: u32, batch: u32) -> Result<()> {
        let xdp: &Xdp = self.ebpf.program(name).context("no such program")?.try_into()?;
        // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context = [0, u32::try_from(octets)?, 0, ingress, 0, 0].map(u32::to_ne_bytes);
        xdp.test_run(TestRunOptions {
            data_in: Some(&vec![0; octets]),
            ctx_in: Some(context.as_flattened()),
            repeat,
            attrs: TestRunAttrs::new().xdp_live_frames(batch),
            ..TestRunOptions::default()
        })?;
        Ok(())
    }

    /// Lets programs redirect to one more interface, by this number; from its namespace.
    ///
    /// # Errors
    /// There is no such interface.
    pub fn add_egress(&mut self, number: u32, index: u32) -> Result<()> {
        Ok(DevMapHash::try_from(self.map(map::EGRESS)?)?.insert(number, index, None, 0)?)
    }

    /// Attaches a program to an interface's driver, until [`Kernel::detach`].
    ///
    /// # Errors
    /// The driver does not run XDP, or has another program.
    pub fn attach(&mut self, name: &str, index: u32) -> Result<XdpLinkId> {
        let xdp = self.xdp(name)?;
        Ok(xdp.attach_to_if_index(index, XdpMode::Driver)?)
    }

    /// Takes a program off again.
    ///
    /// # Errors
    /// The link is gone.
    pub fn detach(&mut self, name: &str, link: XdpLinkId) -> Result<()> {
        Ok(self.xdp(name)?.detach(link)?)
    }

    fn xdp(&mut self, name: &str) -> Result<&mut Xdp> {
        let program = self.ebpf.program_mut(name).context("no such program")?;
        Ok(program.try_into()?)
    }

    /// Instructions that the verifier processed, by program.
    ///
    /// # Errors
    /// A program without information.
    pub fn verified_instructions(&self) -> Result<Vec<(String, u32)>> {
        self.ebpf
            .programs()
            .map(|(name, program)| {
                let count = program
                    .info()?
                    .verified_instruction_count()
                    .context("kernel 5.16 or later")?;
                Ok((name.to_owned(), count))
            })
            .collect()
    }

    /// Runs a program once on a frame.
    ///
    /// # Errors
    /// The kernel refused the frame (shorter than an Ethernet header) or the program is missing.
    pub fn run(&mut self, name: &str, frame: &[u8]) -> Result<Run> {
        self.repeat(name, frame, 1)
    }

    /// Runs a program `repeat` times on the frame that the run before left.
    ///
    /// # Errors
    /// As [`Kernel::run`].
    pub fn repeat(&mut self, name: &str, frame: &[u8], repeat: u32) -> Result<Run> {
        let xdp = self.xdp(name)?;
        let mut out = vec![0; FRAME_MAX];
        let result = xdp.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            repeat,
            ..TestRunOptions::default()
        })?;
        out.truncate(result.data_size_out as usize);
        Ok(Run {
            code: result.return_value,
            frame: out,
            duration_ns: result.duration.as_nanos(),
        })
    }

    /// Makes the maps say what `tables` say; counters go to zero.
    ///
    /// # Errors
    /// A map is missing or the kernel refused an entry.
    pub fn fill(&mut self, tables: &HostTables) -> Result<()> {
        let links = self.links;
        self.array(map::SETTINGS)?
            .set(0, tables.settings.context("settings")?, 0)?;
        let role = tables.roles.get(&world::EGRESS).copied();
        let ingress = tables.interface.map(|interface| (links.ingress, interface));
        let egress = role.zip(tables.interface).map(|(role, interface)| {
            let interface = Interface { role, ..interface };
            // By the number that next hops have, whichever link is behind it.
            (world::EGRESS, interface)
        });
        // By BPF_PROG_TEST_RUN the two are one; no program asks for the role of the interface that a frame came by.
        let mut interfaces = Interfaces::new_zeroed();
        for (index, interface) in self.neighbours.iter().copied() {
            ensure!(interfaces.put(index, interface), "too many neighbours");
        }
        for (index, interface) in ingress.into_iter().chain(egress) {
            ensure!(interfaces.put(index, interface), "too many interfaces");
        }
        self.array(map::INTERFACES)?.set(0, interfaces, 0)?;
        self.replace_trie(
            map::DIRECTIONS,
            tables
                .directions
                .iter()
                .map(|(length, prefix, direction)| (Key::new(*length, *prefix), u32::from(*direction))),
        )?;
        let places = tables
            .sa_inbound
            .keys()
            .map(|spi| SaInbound::place(*spi))
            .collect();
        for place in std::mem::replace(&mut self.sa_places, places) {
            self.array(map::SA_INBOUND)?
                .set(place, SaInbound::new_zeroed(), 0)?;
        }
        for sa in tables.sa_inbound.values() {
            let place = SaInbound::place(sa.spi);
            self.array(map::SA_INBOUND)?.set(place, *sa, 0)?;
        }
        let places = tables.ike_spis.iter().map(|spi| ike::place(*spi)).collect();
        for place in std::mem::replace(&mut self.ike_places, places) {
            self.array(map::IKE_SPIS)?.set(place, ike::NONE, 0)?;
        }
        for spi in &tables.ike_spis {
            self.array(map::IKE_SPIS)?.set(ike::place(*spi), *spi, 0)?;
        }
        self.replace(
            map::SA_PATHS,
            tables.sa_paths.iter().map(|(key, path)| (*key, *path)),
        )?;
        self.replace(
            map::SITES,
            tables.sites.iter().map(|(id, site)| (*id, site.numbered(*id))),
        )?;
        self.refill(tables)?;
        self.open_names(&tables.open_names)?;
        self.replace_trie(
            map::SA_ROUTES,
            (0u32..)
                .zip(&tables.sa_outbound)
                .map(|(number, (length, key, _))| (Key::new(32 + length, *key), number)),
        )?;
        for (number, (_, _, sa)) in (0..).zip(&tables.sa_outbound) {
            self.array(map::SA_OUTBOUND)?.set(number, *sa, 0)?;
        }
        for (number, shares) in (0..).zip(&tables.sa_shares) {
            self.array(map::SA_SHARES)?.set(number, *shares, 0)?;
        }
        self.replace_trie(
            map::ROUTES,
            (0u32..)
                .zip(&tables.next_hops)
                .map(|(number, (length, prefix, _))| (Key::new(*length, *prefix), number)),
        )?;
        for (number, (_, _, hop)) in (0..).zip(&tables.next_hops) {
            self.array(map::NEXT_HOPS)?.set(number, *hop, 0)?;
        }
        self.replace_trie(
            map::PUBLICATION_SOURCES,
            tables
                .publication_sources
                .iter()
                .map(|(publication, length, source)| {
                    let key = PublicationSource {
                        publication: publication.to_be_bytes(),
                        source: *source,
                    };
                    (Key::new(32 + length, key), 1u32)
                }),
        )?;
        self.tables.hops_changed();
        self.tables.sas_changed();
        self.group_bitmaps = tables.sites.values().map(|site| site.groups).collect();
        if let Some((generation, rules)) = &tables.rules {
            self.load_rules(*generation, rules)?;
        }
        let mut egress = DevMapHash::try_from(self.map(map::EGRESS)?)?;
        egress.insert(world::EGRESS, links.egress, None, 0)?;
        if let Some(interface) = &tables.interface
            && interface.queues > 0
        {
            XskMap::try_from(self.map(map::XSKS)?)?.set(interface.xsk_base, links.worker, 0)?;
        }
        self.reset_counters()
    }

    /// Makes these the addresses that are open by name.
    ///
    /// # Errors
    /// The kernel refused an entry.
    pub fn open_names(&mut self, open: &BTreeMap<[u8; 4], OpenAddress>) -> Result<()> {
        self.replace(
            map::OPEN_NAMES,
            open.iter().map(|(address, open)| (*address, *open)),
        )
    }

    /// Changes one site; flows and mappings stay.
    ///
    /// # Errors
    /// The map is missing or the kernel refused the entry.
    pub fn set_site(&mut self, number: u32, site: &Site) -> Result<()> {
        let mut sites: HashMap<_, u32, Site> = HashMap::try_from(self.map(map::SITES)?)?;
        Ok(sites.insert(number, site.numbered(number), 0)?)
    }

    /// What the packet path has told the controller since the last time.
    ///
    /// # Errors
    /// The map is missing or holds something else.
    pub fn take_events(&mut self) -> Result<Vec<Event>> {
        let mut ring = RingBuf::try_from(self.map(map::EVENTS)?)?;
        let mut events = vec![];
        while let Some(item) = ring.next() {
            let event = Event::read_from_bytes(&item);
            events.push(event.map_err(|_| anyhow::anyhow!("{} bytes are no event", item.len()))?);
        }
        Ok(events)
    }

    /// Takes flows and mappings (and what else packets write) back to what `tables` say; the rest stays as it is.
    ///
    /// # Errors
    /// A map is missing or the kernel refused an entry.
    pub fn refill(&mut self, tables: &HostTables) -> Result<()> {
        let shared = &self.tables;
        shared.clear();
        shared.set_now_s(tables.now_s.get());
        for (key, mapping) in tables.mapping_list() {
            let put = shared.mappings().insert(&key, &mapping);
            anyhow::ensure!(put.is_ok(), "{key:?}: {put:?}");
            if !mapping.is_static() {
                shared.count(key.site, usage::word::MAPPINGS);
            }
        }
        for (key, mut flow) in tables.flow_list() {
            let inside = InsideKey {
                site: key.site,
                address: key.source,
                port: key.source_port,
                protocol: key.protocol,
                pad: 0,
            };
            flow.mapping = shared
                .mappings()
                .find(&inside)
                .map_or(u32::MAX, |mapping| mapping.position);
            let put = shared.flows().insert(&key, &flow);
            anyhow::ensure!(put.is_ok(), "{key:?}: {put:?}");
            shared.count(key.site, usage::word::FLOWS);
            if is_half_open(flow.progress.state) {
                shared.count(key.site, usage::word::HALF_OPEN);
            }
        }
        self.replace::<[u8; 16], [u32; 2]>(map::IKE_RATE, std::iter::empty())
    }

    /// Makes a new generation the active one, in one step.
    ///
    /// # Errors
    /// The kernel refused a map or an entry.
    pub fn load_rules(&mut self, generation: u32, rules: &[Rule]) -> Result<()> {
        let built = self.build_rules(generation, rules)?;
        self.load_generation(built.chunks())
    }

    /// Builds the tables of a generation, for the sites of the last [`Kernel::fill`].
    ///
    /// # Errors
    /// They are too large.
    pub fn build_rules(&self, generation: u32, rules: &[Rule]) -> Result<Generation> {
        let conditions: Vec<_> = rules.iter().map(Condition::from).collect();
        Ok(classifier::build(
            generation,
            0,
            &conditions,
            &self.group_bitmaps,
        )?)
    }

    /// As [`Kernel::load_rules`], with tables that are built already.
    ///
    /// # Errors
    /// The kernel refused a map or an entry.
    pub fn load_generation(&mut self, chunks: &[Chunk]) -> Result<()> {
        let mut outer: ArrayOfMaps<_, Array<MapData, Chunk>> =
            ArrayOfMaps::try_from(self.map(map::RULE_SETS)?)?;
        Ok(outer.set(0, &filled(chunks)?, 0)?)
    }

    /// Packets that a counter of rules has seen.
    ///
    /// # Errors
    /// The map is missing.
    pub fn rule_hits(&mut self, counter: u32) -> Result<u64> {
        let hits: PerCpuArray<_, Counter> = PerCpuArray::try_from(self.map(map::RULE_HITS)?)?;
        Ok(hits.get(&counter, 0)?.iter().map(|counter| counter.packets).sum())
    }

    /// Takes the map of generations out, to swap them while another thread runs packets.
    ///
    /// # Errors
    /// It was taken before.
    pub fn take_rule_sets(&mut self) -> Result<RuleSets> {
        let map = self.ebpf.take_map(map::RULE_SETS).context("no rule sets")?;
        Ok(RuleSets(ArrayOfMaps::try_from(map)?))
    }

    /// Runs a program once on a frame, for its code alone; any thread may.
    ///
    /// # Errors
    /// As [`Kernel::run`].
    pub fn code(&self, name: &str, frame: &[u8]) -> Result<u32> {
        let xdp: &Xdp = self.ebpf.program(name).context("no such program")?.try_into()?;
        let result = xdp.test_run(TestRunOptions {
            data_in: Some(frame),
            repeat: 1,
            ..TestRunOptions::default()
        })?;
        Ok(result.return_value)
    }

    /// Packets that were traced since the last call.
    ///
    /// # Errors
    /// The map is missing.
    pub fn traces(&mut self) -> Result<Vec<TraceEvent>> {
        let mut ring = RingBuf::try_from(self.map(map::TRACES)?)?;
        let mut events = vec![];
        while let Some(item) = ring.next() {
            events.extend(TraceEvent::read_from_bytes(&item));
        }
        Ok(events)
    }

    /// Traced packets that there was no room to tell of.
    ///
    /// # Errors
    /// The map is missing.
    pub fn traces_lost(&mut self) -> Result<u64> {
        let lost: PerCpuArray<_, u64> = PerCpuArray::try_from(self.map(map::TRACES_LOST)?)?;
        Ok(lost.get(&0, 0)?.iter().sum())
    }

    /// Drops since the last [`Kernel::fill`], by reason.
    ///
    /// # Errors
    /// The map is missing.
    pub fn drops(&mut self) -> Result<BTreeMap<DropReason, u64>> {
        let drops: PerCpuArray<_, u64> = PerCpuArray::try_from(self.map(map::DROPS)?)?;
        let mut counts = BTreeMap::new();
        for reason in DropReason::ALL {
            let count: u64 = drops.get(&(*reason as u32), 0)?.iter().sum();
            if count > 0 {
                counts.insert(*reason, count);
            }
        }
        Ok(counts)
    }

    /// Packets since the last [`Kernel::fill`], by the number of their [`Path`].
    ///
    /// # Errors
    /// The map is missing.
    pub fn paths(&mut self) -> Result<BTreeMap<u32, u64>> {
        let paths: PerCpuArray<_, Counter> = PerCpuArray::try_from(self.map(map::PATHS)?)?;
        let mut counts = BTreeMap::new();
        for (path, _) in Path::ALL {
            let count: u64 = paths
                .get(&(path as u32), 0)?
                .iter()
                .map(|counter| counter.packets)
                .sum();
            if count > 0 {
                counts.insert(path as u32, count);
            }
        }
        Ok(counts)
    }

    /// Flows and mappings as they are now.
    #[must_use]
    pub fn state(&self) -> State {
        let mappings = self.tables.mapping_list();
        let outsides = mappings
            .iter()
            .map(|(key, mapping)| (mapping.outside(key.protocol), *key))
            .collect();
        State {
            flows: self.tables.flow_list(),
            mappings,
            outsides,
        }
    }

    /// A map of the object's own that this harness does not know.
    ///
    /// # Errors
    /// The map is missing.
    pub fn map(&mut self, name: &str) -> Result<&mut Map> {
        self.ebpf.map_mut(name).with_context(|| format!("no map {name}"))
    }

    fn array<V: Pod>(&mut self, name: &str) -> Result<Array<&mut MapData, V>> {
        Ok(Array::try_from(self.map(name)?)?)
    }

    fn replace<K: Pod, V: Pod>(&mut self, name: &str, entries: impl Iterator<Item = (K, V)>) -> Result<()> {
        let mut map: HashMap<_, K, V> = HashMap::try_from(self.map(name)?)?;
        let old: Vec<K> = map.keys().collect::<Result<_, _>>()?;
        for key in old {
            map.remove(&key)?;
        }
        for (key, value) in entries {
            map.insert(key, value, 0)
                .with_context(|| format!("filling {name}"))?;
        }
        Ok(())
    }

    fn replace_trie<K: Pod, V: Pod>(
        &mut self,
        name: &str,
        entries: impl Iterator<Item = (Key<K>, V)>,
    ) -> Result<()> {
        let mut trie: LpmTrie<_, K, V> = LpmTrie::try_from(self.map(name)?)?;
        let old: Vec<Key<K>> = trie.keys().collect::<Result<_, _>>()?;
        for key in old {
            trie.remove(&key)?;
        }
        for (key, value) in entries {
            trie.insert(&key, value, 0)
                .with_context(|| format!("filling {name}"))?;
        }
        Ok(())
    }

    fn reset_counters(&mut self) -> Result<()> {
        let cpus = aya::util::nr_cpus().map_err(|(path, error)| anyhow::anyhow!("{path}: {error}"))?;
        let mut drops: PerCpuArray<_, u64> = PerCpuArray::try_from(self.map(map::DROPS)?)?;
        for reason in DropReason::ALL {
            drops.set(*reason as u32, vec![0u64; cpus].try_into()?, 0)?;
        }
        let mut paths: PerCpuArray<_, Counter> = PerCpuArray::try_from(self.map(map::PATHS)?)?;
        for (path, _) in Path::ALL {
            paths.set(path as u32, vec![Counter::default(); cpus].try_into()?, 0)?;
        }
        Ok(())
    }
}

/// Loads the programs of an object, of the gateway's own with their stages.
fn load_programs(ebpf: &mut Ebpf, wanted: impl Fn(&str) -> bool) -> Result<()> {
    let names = ebpf.programs().map(|(name, _)| name.to_owned());
    let names: Vec<String> = names.filter(|name| wanted(name)).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    gateway::dataplane::load_programs(ebpf, &all)
        .map_err(|(name, error)| anyhow::Error::new(error).context(format!("loading program {name}")))?;
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    if program::STAGES.into_iter().all(has) {
        fill_stages(ebpf)?;
    } else {
        for (place, stage) in (0..).zip(program::STAGES).filter(|(_, stage)| has(stage)) {
            let xdp: &mut Xdp = ebpf.program_mut(stage).context("no such program")?.try_into()?;
            let loaded = xdp.fd()?.try_clone()?;
            let stages = ebpf.map_mut(map::STAGES).context("no map of stages")?;
            ProgramArray::try_from(stages)?.set(place, &loaded, 0)?;
        }
    }
    if has(program::TRACE) {
        fill_tracer(ebpf)?;
    }
    Ok(())
}

/// The map of generations.
pub struct RuleSets(ArrayOfMaps<MapData, Array<MapData, Chunk>>);

impl RuleSets {
    /// Makes a generation the active one, in one step.
    ///
    /// # Errors
    /// The kernel refused a map or an entry.
    pub fn load(&mut self, chunks: &[Chunk]) -> Result<()> {
        Ok(self.0.set(0, &filled(chunks)?, 0)?)
    }
}

fn filled(chunks: &[Chunk]) -> Result<Array<MapData, Chunk>> {
    let mut set: Array<MapData, Chunk> = Array::create(u32::try_from(chunks.len())?, BPF_F_INNER_MAP)?;
    for (index, chunk) in (0..).zip(chunks) {
        set.set(index, chunk, 0)?;
    }
    Ok(set)
}

/// The kernel's coarse monotonic clock, which the programs read.
#[must_use]
pub fn monotonic() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// The rate limit counts by the second of the kernel's clock: leaves most of one to each vector.
pub fn wait_for_a_fresh_second() {
    let into = Duration::from_nanos(monotonic().subsec_nanos().into());
    if into > Duration::from_millis(600) {
        std::thread::sleep(Duration::from_millis(1010).saturating_sub(into));
    }
}

/// What was counted more often than before.
#[must_use]
pub fn increase<K: Ord + Copy>(before: &BTreeMap<K, u64>, after: &BTreeMap<K, u64>) -> BTreeMap<K, u64> {
    let grown = after
        .iter()
        .map(|(key, count)| (*key, count - before.get(key).copied().unwrap_or(0)));
    grown.filter(|(_, count)| *count > 0).collect()
}

/// Address family of AF_XDP sockets (`linux/socket.h`).
const fn libc_af_xdp() -> i32 {
    44
}
