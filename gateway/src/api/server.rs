//! The daemon's end of the socket.
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::unix::UCred;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::caller::Caller;
use super::message::{Envelope, LINE_MAX, Reply, Request, VERSION};
use crate::core::journal::{EventLine, SCHEMA};

/// Connections served at a time; more wait.
const CONNECTIONS_MAX: usize = 16;
/// Clients that follow the events at a time.
const FOLLOWERS_MAX: usize = 8;
/// Lines of a trace that wait for a client; what is more is lost to it, and it is told how many.
const TRACE_LINES_MAX: usize = 4096;
/// A client that takes no line for so long is hung up on.
const TRACE_WRITE_S: u64 = 10;
/// A client that says nothing for so long is hung up on.
const IDLE_S: u64 = 60;
/// A client that has not taken an answer for so long is hung up on.
const ANSWER_S: u64 = 60;

/// A request on its way to the controller.
#[derive(Debug)]
pub struct Call {
    /// What is asked.
    pub request: Request,
    /// Who asks.
    pub caller: Caller,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Reply>,
    /// Where lines go that follow the answer, if the client waits for such. It is closed when the client hangs up.
    pub lines: Option<mpsc::Sender<String>>,
}

/// The bound socket; its file goes when this does.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    allowed_uid: u32,
    who: fn(&UCred) -> Caller,
    answer_within: Duration,
}

impl Server {
    /// Binds the socket with mode 0600 in a folder that is made if it is missing. A stale socket of a dead daemon is
    /// replaced. Only processes of `allowed_uid` are answered, whatever the mode becomes.
    ///
    /// # Errors
    /// If a live daemon listens there, or the folder cannot be written.
    pub fn bind(path: &Path, allowed_uid: u32) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        remove_stale(path)?;
        // Binds beside its place and is renamed once the mode is right: there is no moment at which others may open it.
        let beside = path.with_extension(format!("{}.new", std::process::id()));
        let _ = std::fs::remove_file(&beside);
        let listener = UnixListener::bind(&beside)?;
        std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&beside, path)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            allowed_uid,
            who: Caller::new,
            answer_within: Duration::from_secs(ANSWER_S),
        })
    }

    /// Serves until the controller is gone.
    pub async fn run(self, calls: mpsc::Sender<Call>, events: broadcast::Sender<EventLine>) {
        let followers = Arc::new(Semaphore::new(FOLLOWERS_MAX));
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(permit) = connections.clone().acquire_owned().await else {
                return;
            };
            let stream = tokio::select! {
                () = calls.closed() => return,
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(%error, "API connection not accepted");
                        // Out of file descriptors: do not spin on it.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            let client = Client {
                calls: calls.clone(),
                events: events.clone(),
                followers: Arc::clone(&followers),
                allowed_uid: self.allowed_uid,
                who: self.who,
                answer_within: self.answer_within,
            };
            tokio::spawn(async move {
                if let Err(error) = client.serve(stream, permit).await {
                    tracing::debug!(%error, "API connection ended");
                }
            });
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "is there and is no socket",
            ));
        }
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another gateway listens there",
        )),
        // Nobody listens at what a killed daemon left. Whatever else it is that cannot be asked may be alive.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(error) => Err(error),
    }
}

/// One connection.
struct Client {
    calls: mpsc::Sender<Call>,
    events: broadcast::Sender<EventLine>,
    followers: Arc<Semaphore>,
    allowed_uid: u32,
    who: fn(&UCred) -> Caller,
    answer_within: Duration,
}

impl Client {
    async fn serve(self, stream: UnixStream, permit: OwnedSemaphorePermit) -> io::Result<()> {
        let Self {
            calls,
            allowed_uid,
            who,
            ..
        } = &self;
        let credentials = stream.peer_cred()?;
        let uid = credentials.uid();
        let (reader, mut writer) = stream.into_split();
        if uid != *allowed_uid {
            tracing::warn!(uid, "API refused to a user other than root");
            return send(
                &mut writer,
                Reply::Error(format!(
                    "only uid {allowed_uid} may use this socket, not uid {uid}"
                )),
            )
            .await;
        }
        // Names may come from a directory server that does not answer: IKE, on this very thread, must not wait for it.
        let who = *who;
        let caller = tokio::task::spawn_blocking(move || who(&credentials)).await?;
        let mut reader = BufReader::new(reader);
        loop {
            let mut line = Vec::new();
            let limit = LINE_MAX as u64 + 1;
            let mut limited = (&mut reader).take(limit);
            let read = limited.read_until(b'\n', &mut line);
            let length = tokio::time::timeout(Duration::from_secs(IDLE_S), read).await??;
            if length == 0 {
                return Ok(());
            }
            if length > LINE_MAX {
                return send(
                    &mut writer,
                    Reply::Error(format!("a request may be {LINE_MAX} bytes long")),
                )
                .await;
            }
            let reply = match parse(&line) {
                Ok(Request::EventsFollow { last, site }) => {
                    // It may stay for long, and has a limit of its own.
                    drop(permit);
                    let recent = Request::EventsRecent { last, site };
                    return self.follow(reader, writer, recent, caller).await;
                }
                Ok(request @ Request::Trace(_)) => {
                    drop(permit);
                    return self.trace(reader, writer, request, caller).await;
                }
                Ok(request) => ask(calls, request, caller.clone()).await,
                Err(fault) => Reply::Error(fault),
            };
            let line = written(reply).await?;
            // One that asks and does not read must not keep its place.
            tokio::time::timeout(self.answer_within, writer.write_all(&line)).await??;
        }
    }

    /// Writes events as they come until the client hangs up, or has read nothing of what waits for it for a minute. One that
    /// reads too slowly loses the oldest, and is told how many.
    async fn follow(
        self,
        mut reader: impl AsyncRead + Unpin,
        mut writer: impl AsyncWrite + Unpin,
        recent: Request,
        caller: Caller,
    ) -> io::Result<()> {
        let Ok(_permit) = self.followers.try_acquire() else {
            let words = format!("{FOLLOWERS_MAX} clients follow the events already; end one of them");
            return self.send(&mut writer, Reply::Error(words)).await;
        };
        // Subscribed first, so that nothing falls between the last events and the next.
        let mut events = self.events.subscribe();
        let reply = ask(&self.calls, recent, caller).await;
        let mut seen = newest(&reply);
        self.send(&mut writer, reply).await?;
        let mut byte = [0];
        loop {
            let event = tokio::select! {
                _ = reader.read(&mut byte) => return Ok(()),
                event = events.recv() => event,
            };
            let event = match event {
                Ok(event) if event.sequence <= seen => continue,
                Ok(event) => event,
                // How many is seen by the number of the next.
                Err(RecvError::Lagged(_)) => continue,
                Err(RecvError::Closed) => return Ok(()),
            };
            let mut line = String::new();
            let lost = event.sequence - seen - 1;
            if lost > 0 {
                line = gap(lost, event.sequence) + "\n";
            }
            seen = event.sequence;
            line += &event.json;
            line.push('\n');
            // Its place is somebody else's if it reads nothing at all.
            tokio::time::timeout(self.answer_within, writer.write_all(line.as_bytes())).await??;
        }
    }

    async fn send(&self, writer: &mut (impl AsyncWrite + Unpin), reply: Reply) -> io::Result<()> {
        tokio::time::timeout(self.answer_within, send(writer, reply)).await?
    }
}

impl Client {
    /// Writes what the controller traces for this client, until that is at its end or the client hangs up: the
    /// controller sees then that nobody reads its lines.
    async fn trace(
        self,
        mut reader: impl AsyncRead + Unpin,
        mut writer: impl AsyncWrite + Unpin,
        request: Request,
        caller: Caller,
    ) -> io::Result<()> {
        let Ok(_permit) = self.followers.try_acquire() else {
            let words = format!("{FOLLOWERS_MAX} clients follow events or trace already; end one of them");
            return self.send(&mut writer, Reply::Error(words)).await;
        };
        let (lines, mut incoming) = mpsc::channel(TRACE_LINES_MAX);
        let reply = ask_for_lines(&self.calls, request, caller, Some(lines)).await;
        self.send(&mut writer, reply).await?;
        let mut byte = [0];
        loop {
            let line: Option<String> = tokio::select! {
                _ = reader.read(&mut byte) => return Ok(()),
                line = incoming.recv() => line,
            };
            let Some(line) = line else { return Ok(()) };
            let line = line + "\n";
            // One that stops reading without hanging up must not keep the trace on.
            let write = writer.write_all(line.as_bytes());
            tokio::time::timeout(Duration::from_secs(TRACE_WRITE_S), write).await??;
        }
    }
}

/// The line that stands for events that a subscriber lost: how many, and the number of the first that follows.
pub(crate) fn gap(lost: u64, before: u64) -> String {
    serde_json::json!({
        "schema": SCHEMA,
        "event": "gap",
        "severity": "warning",
        "lost": lost,
        "before": before,
        "text": format!("{lost} events were lost: the reader is too slow"),
    })
    .to_string()
}

/// The number of the newest event of a reply.
fn newest(reply: &Reply) -> u64 {
    let Reply::Ok(view) = reply else { return 0 };
    view.get("newest")
        .and_then(serde_json::Value::as_u64)
        .unwrap_or_default()
}

fn parse(line: &[u8]) -> Result<Request, String> {
    #[derive(serde::Deserialize)]
    struct Version {
        version: u32,
    }
    let fault = |error: serde_json::Error| format!("not a request: {error}");
    // The version comes first: a request of another version need not parse.
    let version = serde_json::from_slice::<Version>(line).map_err(fault)?.version;
    if version != VERSION {
        return Err(format!(
            "this daemon speaks API version {VERSION}, the client {version}: use the same release"
        ));
    }
    serde_json::from_slice::<Envelope<Request>>(line)
        .map(|envelope| envelope.message)
        .map_err(fault)
}

async fn ask(calls: &mpsc::Sender<Call>, request: Request, caller: Caller) -> Reply {
    ask_for_lines(calls, request, caller, None).await
}

async fn ask_for_lines(
    calls: &mpsc::Sender<Call>,
    request: Request,
    caller: Caller,
    lines: Option<mpsc::Sender<String>>,
) -> Reply {
    let (reply, answer) = oneshot::channel();
    let stopping = || Reply::Error("the daemon is stopping".to_owned());
    let call = Call {
        request,
        caller,
        reply,
        lines,
    };
    if calls.send(call).await.is_err() {
        return stopping();
    }
    answer.await.unwrap_or_else(|_| stopping())
}

async fn send(writer: &mut (impl tokio::io::AsyncWrite + Unpin), reply: Reply) -> io::Result<()> {
    writer.write_all(&written(reply).await?).await
}

/// The line of an answer. It may be large, and the control task is on this thread.
async fn written(reply: Reply) -> io::Result<Vec<u8>> {
    let written = tokio::task::spawn_blocking(move || {
        let mut line = serde_json::to_vec(&Envelope::new(reply))?;
        line.push(b'\n');
        io::Result::Ok(line)
    });
    written.await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::client::{Client, ClientError};

    fn own_uid() -> u32 {
        use std::os::unix::fs::MetadataExt as _;
        std::fs::metadata("/proc/self").expect("procfs").uid()
    }

    /// A server whose controller answers every request by its own words.
    async fn serving(path: &Path, allowed_uid: u32) -> tokio::task::JoinHandle<()> {
        let server = Server::bind(path, allowed_uid).expect("bound");
        let (calls, mut incoming) = mpsc::channel::<Call>(1);
        tokio::spawn(server.run(calls, broadcast::channel(4).0));
        tokio::spawn(async move {
            while let Some(call) = incoming.recv().await {
                let _ = call.reply.send(Reply::view(&call.request));
            }
        })
    }

    async fn call(path: &Path, request: Request) -> Result<serde_json::Value, ClientError> {
        let path = path.to_owned();
        tokio::task::spawn_blocking(move || Client::connect(&path)?.call(&request))
            .await
            .expect("no panic")
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn only_the_owner_may_open_it() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("run/gateway.sock");
        let _controller = serving(&path, own_uid()).await;
        let mode = std::fs::metadata(&path).expect("socket").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(
            call(&path, Request::Drops).await.expect("answer")["request"],
            "drops"
        );
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn another_user_is_refused_even_with_an_open_socket() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("gateway.sock");
        let _controller = serving(&path, own_uid() + 1).await;
        let refusal = call(&path, Request::Drops).await.expect_err("refused");
        assert!(
            matches!(&refusal, ClientError::Refused(words) if words.contains("may use this socket")),
            "{refusal}"
        );
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_second_daemon_is_refused_and_a_stale_socket_replaced() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("gateway.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("stale"));
        let _controller = serving(&path, own_uid()).await;
        let error = Server::bind(&path, own_uid()).expect_err("in use");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        std::fs::write(folder.path().join("file"), "precious").expect("written");
        assert!(Server::bind(&folder.path().join("file"), own_uid()).is_err());
    }

    fn event(sequence: u64) -> EventLine {
        EventLine {
            sequence,
            // Long, so that a socket's buffer holds few.
            json: format!("{{\"sequence\":{sequence},\"text\":\"{}\"}}", "x".repeat(10_000)).into(),
        }
    }

    /// A server that says of the last events that there was one.
    fn telling(path: &Path, events: &broadcast::Sender<EventLine>) {
        tell(Server::bind(path, own_uid()).expect("bound"), events);
    }

    fn tell(server: Server, events: &broadcast::Sender<EventLine>) {
        let (calls, mut incoming) = mpsc::channel::<Call>(1);
        tokio::spawn(server.run(calls, events.clone()));
        tokio::spawn(async move {
            while let Some(call) = incoming.recv().await {
                let _ = call
                    .reply
                    .send(Reply::Ok(serde_json::json!({ "newest": 1, "events": [] })));
            }
        });
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_reader_that_is_too_slow_reads_how_many_it_lost_and_holds_nobody_up() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("gateway.sock");
        let (events, _) = broadcast::channel(8);
        telling(&path, &events);
        let mut follower = follow(&path).await;
        for sequence in 1..=1_000 {
            // Never waits, whoever reads.
            events.send(event(sequence)).expect("subscribed");
        }
        let (mut next, mut lost) = (2, 0);
        while next <= 1_000 {
            let mut line = String::new();
            tokio::time::timeout(Duration::from_secs(20), follower.read_line(&mut line))
                .await
                .expect("in time")
                .expect("a line");
            let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
            match line["event"].as_str() {
                Some("gap") => {
                    lost += line["lost"].as_u64().expect("a count");
                    next = line["before"].as_u64().expect("a number");
                }
                _ => {
                    assert_eq!(
                        line["sequence"], next,
                        "in order, and none is missing without a word"
                    );
                    next += 1;
                }
            }
        }
        assert!(
            lost > 0,
            "1,000 events of 10 kB fit no socket buffer and 8 places"
        );
    }

    async fn follow(path: &Path) -> BufReader<UnixStream> {
        let mut stream = UnixStream::connect(path).await.expect("connected");
        let request = serde_json::to_string(&Envelope::new(Request::EventsFollow { last: 5, site: None }))
            .expect("JSON");
        stream
            .write_all(format!("{request}\n").as_bytes())
            .await
            .expect("sent");
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).await.expect("a reply");
        let reply: Envelope<Reply> = serde_json::from_str(&line).expect("JSON");
        assert!(matches!(reply.message, Reply::Ok(_)), "{line}");
        stream
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn followers_leave_room_for_other_requests() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("gateway.sock");
        let (events, _) = broadcast::channel(8);
        telling(&path, &events);
        let mut followers = Vec::new();
        for _ in 0..FOLLOWERS_MAX {
            followers.push(follow(&path).await);
        }
        let refusal = call(&path, Request::EventsFollow { last: 1, site: None })
            .await
            .expect_err("one more");
        assert!(
            refusal.to_string().contains("clients follow the events already"),
            "{refusal}"
        );
        call(&path, Request::Drops).await.expect("the API is open");
        // One that hangs up makes room.
        drop(followers.pop());
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while call(&path, Request::EventsFollow { last: 1, site: None })
            .await
            .is_err()
        {
            assert!(std::time::Instant::now() < deadline, "its place is not free");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Regression: `gateway events --follow` that its operator had stopped kept its place for good.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn followers_that_never_read_lose_their_places() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("gateway.sock");
        let (events, _) = broadcast::channel(8);
        let mut server = Server::bind(&path, own_uid()).expect("bound");
        server.answer_within = Duration::from_millis(100);
        tell(server, &events);
        let mut stopped = Vec::new();
        for _ in 0..FOLLOWERS_MAX {
            stopped.push(follow(&path).await);
        }
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        let mut sequence = 0;
        while call(&path, Request::EventsFollow { last: 1, site: None })
            .await
            .is_err()
        {
            assert!(std::time::Instant::now() < deadline, "no place is free");
            for _ in 0..20 {
                sequence += 1;
                let _ = events.send(event(sequence));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// A client that goes away, or takes nothing any more, must not leave a trace on: the controller sees that its lines
    /// have no reader.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn lines_of_a_trace_are_written_until_the_client_hangs_up() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("gateway.sock");
        let server = Server::bind(&path, own_uid()).expect("bound");
        let (calls, mut incoming) = mpsc::channel::<Call>(1);
        tokio::spawn(server.run(calls, broadcast::channel(4).0));
        let mut stream = UnixStream::connect(&path).await.expect("connected");
        let wanted = crate::api::message::Trace {
            site: "a".into(),
            seconds: 1,
            ..Default::default()
        };
        let request = serde_json::to_string(&Envelope::new(Request::Trace(wanted))).expect("JSON");
        stream
            .write_all(format!("{request}\n").as_bytes())
            .await
            .expect("sent");
        let call = incoming.recv().await.expect("a call");
        let _ = call.reply.send(Reply::view(&"begun"));
        let lines = call.lines.expect("lines are wanted");
        lines.send("{\"line\":1}".into()).await.expect("read");
        let mut stream = BufReader::new(stream);
        let (mut reply, mut line) = (String::new(), String::new());
        stream.read_line(&mut reply).await.expect("a reply");
        stream.read_line(&mut line).await.expect("a line");
        assert!(
            reply.contains("begun") && line == "{\"line\":1}\n",
            "{reply} {line}"
        );
        drop(stream);
        tokio::time::timeout(Duration::from_secs(20), lines.closed())
            .await
            .expect("nobody reads any more");
    }

    /// As many as there are places, each stopped by its operator before it has read a long answer.
    #[tokio::test]
    async fn clients_that_never_read_do_not_close_the_api() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("gateway.sock");
        let mut server = Server::bind(&path, own_uid()).expect("bound");
        server.answer_within = Duration::from_millis(100);
        let (calls, mut incoming) = mpsc::channel::<Call>(1);
        tokio::spawn(server.run(calls, broadcast::channel(4).0));
        tokio::spawn(async move {
            let long = "x".repeat(4 << 20);
            while let Some(call) = incoming.recv().await {
                let view = if call.request == Request::Drops {
                    &*long
                } else {
                    "short"
                };
                let _ = call.reply.send(Reply::view(&view));
            }
        });
        let line = |request| serde_json::to_string(&Envelope::new(request)).expect("JSON") + "\n";
        let mut stopped = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            let mut stream = UnixStream::connect(&path).await.expect("connected");
            stream
                .write_all(line(Request::Drops).as_bytes())
                .await
                .expect("sent");
            stopped.push(stream);
        }
        let mut stream = UnixStream::connect(&path).await.expect("connected");
        stream
            .write_all(line(Request::Status).as_bytes())
            .await
            .expect("sent");
        let mut answer = String::new();
        let mut reader = BufReader::new(stream);
        let length = tokio::time::timeout(Duration::from_secs(20), reader.read_line(&mut answer)).await;
        length.expect("a place is free").expect("an answer");
        assert!(answer.contains("short"), "{answer}");
    }

    /// The control task runs on the thread that serves the API.
    #[tokio::test]
    async fn a_slow_user_database_stops_nobody_else() {
        use std::sync::mpsc::{Receiver, Sender, channel};
        use std::sync::{LazyLock, Mutex};
        type Answer = (Mutex<Sender<()>>, Mutex<Receiver<()>>);
        static ANSWER: LazyLock<Answer> = LazyLock::new(|| {
            let (send, receive) = channel();
            (Mutex::new(send), Mutex::new(receive))
        });
        fn slow(_: &UCred) -> Caller {
            let answer = ANSWER.1.lock().expect("no panic");
            let came = answer.recv_timeout(Duration::from_secs(20));
            Caller {
                login: came.ok().map(|()| "answered".to_owned()),
                ..Caller::default()
            }
        }
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("gateway.sock");
        let mut server = Server::bind(&path, own_uid()).expect("bound");
        server.who = slow;
        let (calls, mut incoming) = mpsc::channel::<Call>(1);
        tokio::spawn(server.run(calls, broadcast::channel(4).0));
        let mut stream = UnixStream::connect(&path).await.expect("connected");
        let request = serde_json::to_string(&Envelope::new(Request::Drops)).expect("JSON");
        stream
            .write_all(format!("{request}\n").as_bytes())
            .await
            .expect("sent");
        // The connection is being served by now; the answer comes from a task that needs its turn.
        tokio::task::yield_now().await;
        tokio::spawn(async { ANSWER.0.lock().expect("no panic").send(()) });
        let call = incoming.recv().await.expect("a call");
        assert_eq!(call.caller.login.as_deref(), Some("answered"));
    }

    #[test]
    fn another_version_is_refused_by_name() {
        let fault = parse(br#"{"version":7,"request":"unheard_of"}"#).expect_err("version");
        assert!(fault.contains("API version 1, the client 7"), "{fault}");
        assert!(
            parse(br#"{"version":1,"request":"unheard_of"}"#)
                .expect_err("request")
                .contains("unheard_of")
        );
        assert!(parse(b"\xff").is_err());
    }
}
