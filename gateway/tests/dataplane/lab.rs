//! The namespaces, and the gateway's process in one of them.

use super::*;

/// The namespaces; gone when dropped.
pub(crate) struct Lab {
    id: String,
    directory: PathBuf,
}

pub(crate) static LABS: AtomicU32 = AtomicU32::new(0);

impl Lab {
    pub(crate) fn new() -> Self {
        let id = format!("{}-{}", std::process::id(), LABS.fetch_add(1, Ordering::Relaxed));
        let lab = Self {
            directory: PathBuf::from(format!("/run/dph-{id}")),
            id,
        };
        fs::create_dir_all(lab.directory.join("bpf")).unwrap();
        sh(&format!("mount -t bpf bpf {}/bpf", lab.directory.display()));
        for node in ["site", "gw", "srv"] {
            sh(&format!("ip netns add {}", lab.namespace(node)));
            sh(&format!("ip -n {} link set lo up", lab.namespace(node)));
        }
        lab.wire(
            ("site", "peer0", "198.51.100.2/24"),
            ("gw", "wan0", "198.51.100.1/24"),
        );
        lab.wire(
            ("srv", "srv0", "203.0.113.10/24"),
            ("gw", "core0", "203.0.113.1/24"),
        );
        sh(&format!(
            "ip -n {} route add 10.99.0.0/16 via 203.0.113.1",
            lab.namespace("srv")
        ));
        lab
    }

    /// Where MACs and pins are.
    pub(crate) fn directory(&self) -> PathBuf {
        self.directory.clone()
    }

    pub(crate) fn namespace(&self, node: &str) -> String {
        format!("dph-{node}-{}", self.id)
    }

    /// A veth pair with two queues, checksums written out, and frames from XDP delivered.
    pub(crate) fn wire(&self, near: (&str, &str, &str), far: (&str, &str, &str)) {
        let queues = "numrxqueues 2 numtxqueues 2";
        sh(&format!(
            "ip -n {} link add {} {queues} type veth peer name {} netns {} {queues}",
            self.namespace(near.0),
            near.1,
            far.1,
            self.namespace(far.0)
        ));
        for (node, interface, address) in [near, far] {
            let namespace = self.namespace(node);
            sh(&format!(
                "ip -n {namespace} address add {address} dev {interface}"
            ));
            sh(&format!("ip -n {namespace} link set {interface} up"));
            sh(&format!(
                "ip netns exec {namespace} ethtool -K {interface} tx off gro on"
            ));
            let mac = sh(&format!(
                "ip netns exec {namespace} cat /sys/class/net/{interface}/address"
            ));
            fs::write(self.directory.join(interface), mac).unwrap();
        }
    }

    pub(crate) fn enter(&self, node: &str) {
        let file = File::open(format!("/run/netns/{}", self.namespace(node))).unwrap();
        setns(file, CloneFlags::CLONE_NEWNET).unwrap();
    }

    /// Runs `work` in a namespace.
    pub(crate) fn within<T: Send>(&self, node: &str, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let run = scope.spawn(|| {
                self.enter(node);
                work()
            });
            run.join().unwrap()
        })
    }

    /// Answers UDP with its own octets, after the address it came from; ends with the test program.
    pub(crate) fn serve_echo(&self) {
        let socket = self.within("srv", || UdpSocket::bind((SERVER, ECHO_PORT)).unwrap());
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                let answer = format!("{from} {}", String::from_utf8_lossy(&buffer[..len]));
                let _ = socket.send_to(answer.as_bytes(), from);
            }
        });
    }

    pub(crate) fn start_gateway(&self) -> Gateway {
        let (gateway, ready) = self.start_gateway_in_any_mode();
        assert_eq!(ready.matches("Native").count(), 2, "{ready}");
        gateway
    }

    /// Also answers what the gateway says when it is ready.
    pub(crate) fn start_gateway_in_any_mode(&self) -> (Gateway, String) {
        self.start_gateway_with(&[])
    }

    pub(crate) fn start_gateway_with(&self, environment: &[(&str, &str)]) -> (Gateway, String) {
        let mut child = Command::new("ip")
            .envs(environment.iter().copied())
            .args(["netns", "exec", &self.namespace("gw")])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "gateway_process", "--nocapture", "--test-threads=1"])
            .env(GATEWAY_DIRECTORY, &self.directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (lines, output) = channel();
        thread::spawn(move || {
            let mut read = stdout.lines().map_while(Result::ok);
            read.try_for_each(|line| lines.send(line))
        });
        let mut gateway = Gateway {
            input: child.stdin.take(),
            output,
            child,
        };
        let ready = gateway.line("READY");
        (gateway, ready)
    }

    pub(crate) fn programs_attached(&self) -> usize {
        let links = sh(&format!("ip -n {} -details link show", self.namespace("gw")));
        links.matches("prog/xdp").count()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let nodes = ["site", "gw", "srv"].map(|node| format!("ip netns del {}", self.namespace(node)));
        let directory = self.directory.display();
        for command in nodes.into_iter().chain([format!("umount {directory}/bpf")]) {
            let _ = Command::new("sh").args(["-c", &command]).status();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

pub(crate) fn sh(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) struct Gateway {
    child: Child,
    input: Option<ChildStdin>,
    output: Receiver<String>,
}

/// What the gateway takes at most to say something or to end. The kernel verifies its programs first, which on a busy machine
/// takes half a minute.
const PATIENCE: Duration = Duration::from_secs(120);
/// Until counters are as they will be.
const COUNTED: Duration = Duration::from_secs(10);

impl Gateway {
    pub(crate) fn line(&mut self, word: &str) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(line) if line.starts_with(word) => return line,
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => panic!("the gateway does not say {word}"),
                Err(RecvTimeoutError::Disconnected) => panic!("the gateway ended before it said {word}"),
            }
        }
    }

    pub(crate) fn ask(&mut self, question: &str, word: &str) -> String {
        writeln!(self.input.as_mut().unwrap(), "{question}").unwrap();
        self.line(word)
    }

    pub(crate) fn stats(&mut self) -> String {
        self.ask("stats", "STATS")
    }

    /// What it says once all of `wanted` are in its statistics, behind what it said before: each event is told once.
    pub(crate) fn stats_with(&mut self, wanted: &[&str]) -> String {
        let until = Instant::now() + COUNTED;
        let mut told = String::new();
        loop {
            let stats = self.stats();
            told = told + &stats + "\n";
            if wanted.iter().all(|count| stats.contains(count)) {
                return told;
            }
            assert!(Instant::now() < until, "not {wanted:?}: {told}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// No way to clean up: what a crash or the OOM killer does.
    pub(crate) fn kill(mut self) {
        // `ip netns exec` becomes the gateway, so this is its process.
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn stop(mut self) {
        drop(self.input.take());
        let until = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < until, "the gateway does not end");
            thread::sleep(Duration::from_millis(5));
        };
        assert!(status.success(), "{status}");
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
