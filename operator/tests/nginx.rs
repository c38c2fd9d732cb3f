//! The configuration and the start script of the edge in a real NGINX: before pods that are played here, behind a name server of ours.
//! Rule: only ports differ from those in a cluster; what is asked is asked as a browser does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests; clippy.toml only covers the tests themselves

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use operator::certificates::Tls;
use operator::crd::StockPipeline;
use operator::credentials::Credentials;
use operator::names::Part;
use operator::objects;
use operator::plan::{Images, Plan};
use serde_json::json;

/// Ports in place of those of a pod, which others on this machine may have.
const PLAIN: u16 = 21480;
const METRICS: [u16; 2] = [21481, 21482];
const TLS: u16 = 21443;
const LIVEVIEW: u16 = 21400;
const PAGE: u16 = 21401;
/// Everything here has an address of its own, so that ports and pods can be told apart.
const NAME_SERVER: &str = "127.77.0.53";
const PODS: [&str; 2] = ["127.77.0.1", "127.77.0.2"];
const BY_KUBE_PROXY: &str = "127.77.0.9";
const PATIENCE: Duration = Duration::from_secs(30);

/// A pod of liveview; dropping it kills it.
struct Pod {
    address: String,
    connections: Arc<Mutex<Vec<TcpStream>>>,
    stop: Arc<Mutex<bool>>,
}

impl Pod {
    fn start(address: &str, port: u16) -> Self {
        let listener = TcpListener::bind((address, port)).unwrap();
        let connections = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(Mutex::new(false));
        let name = format!("{address}:{port}");
        let pod = Self { address: name.clone(), connections: connections.clone(), stop: stop.clone() };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                if *stop.lock().unwrap() {
                    return;
                }
                connections.lock().unwrap().push(stream.try_clone().unwrap());
                let name = name.clone();
                std::thread::spawn(move || drop(answer(stream, &name)));
            }
        });
        pod
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        *self.stop.lock().unwrap() = true;
        // The listener closes when it is woken.
        drop(TcpStream::connect(&self.address));
        for connection in self.connections.lock().unwrap().drain(..) {
            drop(connection.shutdown(Shutdown::Both));
        }
    }
}

/// Says its name and what it was asked; a socket and a stream get a dot ten times a second.
fn answer(mut stream: TcpStream, name: &str) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let lasting: Option<&[u8]> = if head.to_lowercase().contains("\r\nupgrade: websocket") {
            Some(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n")
        } else if head.starts_with("GET /api/events ") {
            Some(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        } else {
            None
        };
        if let Some(answer) = lasting {
            stream.write_all(answer)?;
            loop {
                stream.write_all(b".")?;
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        let body = format!("{name}\n{head}");
        let length = body.len();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nReferrer-Policy: origin\r\n\r\n");
        // At once: what is written in pieces waits for the other side's delayed acknowledgements.
        stream.write_all((head + &body).as_bytes())?;
    }
}

/// Answers for `demo-liveview` with the pods there are, and for the other name with kube-proxy's address.
fn name_server(pods: Arc<Mutex<Vec<&'static str>>>) {
    let socket = UdpSocket::bind((NAME_SERVER, 53)).unwrap();
    std::thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut question) {
            let asked = &question[..length];
            let end = 12 + asked[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
            let is_address = asked[end - 3] == 1;
            let pods = if asked[13..].starts_with(b"demo-liveview") {
                pods.lock().unwrap().clone()
            } else {
                vec![BY_KUBE_PROXY]
            };
            let addresses = if is_address { pods } else { Vec::new() };
            let mut reply =
                [&asked[..2], &[0x81, 0x80, 0, 1, 0, u8::try_from(addresses.len()).unwrap(), 0, 0, 0, 0]].concat();
            reply.extend(&asked[12..end]);
            for address in addresses {
                reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4]);
                reply.extend(address.parse::<std::net::Ipv4Addr>().unwrap().octets());
            }
            socket.send_to(&reply, from).unwrap();
        }
    });
}

/// A pod of the edge: containers that share its ports.
struct Edge {
    containers: Vec<Child>,
    folder: PathBuf,
    said: Arc<Mutex<String>>,
}

impl Edge {
    fn start(edge: serde_json::Value, containers: usize) -> Self {
        let folder = std::env::temp_dir().join(format!("stock-edge-{}", std::process::id()));
        for name in ["configuration", "certificate"] {
            std::fs::create_dir_all(folder.join(name)).unwrap();
        }
        for (name, text) in files(edge) {
            let file = folder.join("configuration").join(name);
            std::fs::write(&file, text).unwrap();
            // As the kubelet gives them.
            std::fs::set_permissions(&file, Permissions::from_mode(0o444)).unwrap();
        }
        let resolv = format!("nameserver {NAME_SERVER}\nsearch markets.svc.cluster.local svc.cluster.local\n");
        std::fs::write(folder.join("resolv.conf"), resolv).unwrap();
        let mut edge = Self { containers: Vec::new(), folder, said: Arc::default() };
        for number in 0..containers {
            let container = edge.container(number);
            edge.containers.push(container);
        }
        edge
    }

    /// Starts a container, on the files that an earlier one left.
    fn container(&self, number: usize) -> Child {
        let temporary = self.folder.join(format!("temporary-{number}"));
        std::fs::create_dir_all(&temporary).unwrap();
        std::fs::set_permissions(&temporary, Permissions::from_mode(0o777)).unwrap();
        let mut nginx = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/servers/nginx"))
            .arg(root())
            .args([&self.folder, &temporary])
            .args(["demo-liveview", "demo-page", &METRICS[number].to_string()])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (said, lines) = (self.said.clone(), BufReader::new(nginx.stderr.take().unwrap()).lines());
        std::thread::spawn(move || {
            lines.map_while(Result::ok).for_each(|line| {
                eprintln!("{line}");
                said.lock().unwrap().push_str(&line);
            });
        });
        until("NGINX is ready", || {
            get(METRICS[number], "/healthz", "").is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
        });
        nginx
    }

    /// Puts a certificate of that name where the kubelet does, with a key that may be another's.
    fn certificate(&self, name: &str, key: Option<&str>) {
        let of = |file: &str| self.folder.join(file);
        let made = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-subj",
                &format!("/CN={name}"),
            ])
            .args([Path::new("-out"), &of("crt"), Path::new("-keyout"), &of("key")])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let key = key.map_or_else(|| std::fs::read_to_string(of("key")).unwrap(), str::to_owned);
        std::fs::write(of("certificate/tls.key"), key).unwrap();
        std::fs::copy(of("crt"), of("certificate/tls.crt")).unwrap();
    }

    /// The first process of a container: all others end with it.
    fn first_process(&self, container: usize) -> String {
        let first = Command::new("pgrep").args(["--parent", &self.containers[container].id().to_string()]).output();
        String::from_utf8_lossy(&first.unwrap().stdout).trim().to_owned()
    }

    fn kill(&mut self, container: usize) {
        drop(Command::new("kill").args(["-9", &self.first_process(container)]).status());
        drop(self.containers[container].wait());
    }

    /// In the process namespace of this one: others of that name run on this machine.
    fn kill_main_process(&self, container: usize) {
        let killed = Command::new("nsenter")
            .args(["--target", &self.first_process(container), "--pid", "--mount", "sh", "-c"])
            .arg(format!("kill -9 $(cat {}/tmp/nginx.pid)", root()))
            .status()
            .unwrap();
        assert!(killed.success());
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        (0..self.containers.len()).for_each(|container| self.kill(container));
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

fn root() -> String {
    std::env::var("STOCK_TEST_NGINX_ROOT").expect("STOCK_TEST_NGINX_ROOT is not set: run `make integration`")
}

/// The ConfigMap's files, with the ports of this test.
fn files(edge: serde_json::Value) -> BTreeMap<String, String> {
    let pipeline: StockPipeline = serde_json::from_value(json!({
        "apiVersion": "stockpipeline.io/v1alpha1", "kind": "StockPipeline",
        "metadata": {"name": "demo", "namespace": "markets", "uid": "u"},
        "spec": {"companies": [{"symbol": "MSFT"}], "edge": edge},
    }))
    .unwrap();
    let word = || "x".to_owned();
    let credentials = Credentials::generate(None);
    let images = Images { workloads: word(), broker: word(), database: word(), edge: word(), pull_policy: None };
    let mut plan = Plan::new(&pipeline, &images, credentials).unwrap();
    // As with `tls.enabled`: where the edge names no certificate there is one of the pipeline's own authority.
    plan.tls = Some(Tls { missing: [(Part::Edge, String::new())].into(), ..Tls::default() });
    let objects = objects::build(&plan);
    let is_edge = |map: &&k8s_openapi::api::core::v1::ConfigMap| map.metadata.name.as_deref() == Some("demo-edge");
    let files = objects.config_maps.iter().find(is_edge).unwrap().data.clone().unwrap();
    let ports = [(":3000 ", LIVEVIEW), (":80 ", PAGE)].map(|(port, here)| (port.to_owned(), format!(":{here} ")));
    let listen = [("8080", PLAIN.to_string()), ("METRICS_PORT", "METRICS_PORT".into()), ("8443", TLS.to_string())];
    let listen = listen.map(|(port, here)| (format!("listen {port}"), format!("listen 127.0.0.1:{here}")));
    let here =
        |text: &String| ports.iter().chain(&listen).fold(text.clone(), |text, (port, here)| text.replace(port, here));
    files.iter().map(|(name, text)| (name.clone(), here(text))).collect()
}

fn until(condition: &str, mut look: impl FnMut() -> bool) {
    let start = Instant::now();
    while !look() {
        assert!(start.elapsed() < PATIENCE, "in vain: {condition}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// One request on a connection of its own; the whole answer.
fn get(port: u16, path: &str, headers: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: prices.example.com\r\nConnection: close\r\n{headers}\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// Many requests on one connection; the pods that answered.
fn ask_again_and_again(times: usize) -> Vec<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", PLAIN)).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut ask = || {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: prices.example.com\r\n\r\n").unwrap();
        let (mut head, mut length) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            let start = head.len();
            reader.read_line(&mut head).unwrap();
            length = head[start..].strip_prefix("Content-Length: ").map_or(length, |text| text.trim().parse().unwrap());
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        String::from_utf8_lossy(&body).lines().next().unwrap().to_owned()
    };
    (0..times).map(|_| ask()).collect()
}

/// The pod that answered.
fn pod_of(answer: &str) -> &str {
    answer.split("\r\n\r\n").nth(1).and_then(|body| body.lines().next()).unwrap_or_default()
}

/// An open socket: each look says whether something has arrived within the last seconds.
struct Socket(TcpStream);

impl Socket {
    fn open(client: &str) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", PLAIN)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        write!(
            stream,
            "GET / HTTP/1.1\r\nHost: prices.example.com\r\nX-Forwarded-For: {client}\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"
        )
        .unwrap();
        Self(stream)
    }

    fn head(&mut self) -> String {
        let mut buffer = [0; 4096];
        let length = self.0.read(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    /// Reads all that has come, and then what comes next.
    fn lives(&mut self) -> bool {
        let mut buffer = [0; 65536];
        let arrives = |stream: &mut TcpStream, buffer: &mut [u8]| stream.read(buffer).is_ok_and(|length| length > 0);
        arrives(&mut self.0, &mut buffer) && arrives(&mut self.0, &mut buffer)
    }
}

/// Whom the certificate that is served is of.
fn subject() -> String {
    let shown = Command::new("sh")
        .arg("-c")
        .arg(format!("openssl s_client -connect 127.0.0.1:{TLS} </dev/null 2>/dev/null | openssl x509 -noout -subject"))
        .output()
        .unwrap();
    String::from_utf8_lossy(&shown.stdout).trim().replace(' ', "")
}

/// Asks again and again, on a new connection each time, until it is dropped: no request may fail.
struct Visitor {
    stop: Arc<Mutex<bool>>,
    visits: Option<JoinHandle<Vec<Option<String>>>>,
}

impl Visitor {
    fn come() -> Self {
        let stop = Arc::new(Mutex::new(false));
        let stopped = stop.clone();
        let visits = std::thread::spawn(move || {
            let mut answers = Vec::new();
            while !*stopped.lock().unwrap() {
                answers.push(get(PLAIN, "/", ""));
            }
            answers
        });
        Self { stop, visits: Some(visits) }
    }

    fn leave(mut self) {
        *self.stop.lock().unwrap() = true;
        let answers = self.visits.take().unwrap().join().unwrap();
        let failed = |answer: &&Option<String>| {
            !answer.as_ref().is_some_and(|text| text.starts_with("HTTP/1.1 200") || text.starts_with("HTTP/1.1 308"))
        };
        let failures: Vec<_> = answers.iter().filter(failed).collect();
        println!("{} requests while the configuration changed", answers.len());
        assert!(answers.len() > 100 && failures.is_empty(), "{} of {}: {failures:?}", failures.len(), answers.len());
    }
}

fn serves_all_pods() {
    until("both pods are known", || get(PLAIN, "/", "").is_some_and(|answer| pod_of(&answer).starts_with(PODS[1])));
}

/// One test, for the ports and the name server are the machine's.
#[test]
fn the_edge_spreads_repeats_renews_and_limits_and_no_socket_is_dropped_for_it() {
    let listed = Arc::new(Mutex::new(PODS.to_vec()));
    name_server(listed.clone());
    let (one, two) = (Pod::start(PODS[0], LIVEVIEW), Pod::start(PODS[1], LIVEVIEW));
    let _page = Pod::start(BY_KUBE_PROXY, PAGE);
    spreads_and_says_who_asks_and_changes_its_certificate();
    outlives_its_processes();
    limits_each_client();
    repeats_what_a_pod_that_died_did_not_answer(one, two);
}

fn spreads_and_says_who_asks_and_changes_its_certificate() {
    let service = json!({"type": "NodePort", "httpsNodePort": 30443});
    let edge = Edge::start(json!({"tls": {"secretName": "x"}, "service": service}), 2);
    serves_all_pods();

    // Even, sockets or not.
    let mut sockets: Vec<Socket> = (0..3).map(|_| Socket::open("")).collect();
    assert!(sockets.iter_mut().all(|socket| socket.head().starts_with("HTTP/1.1 101")));
    let mut answers: BTreeMap<String, u32> = BTreeMap::new();
    for pod in (0..20).flat_map(|_| ask_again_and_again(500)) {
        *answers.entry(pod).or_default() += 1;
    }
    assert_eq!(answers.len(), 2, "{answers:?}");
    assert!(answers.values().all(|count| (4_990..=5_010).contains(count)), "{answers:?}");

    // Events leave at once.
    let mut events = TcpStream::connect(("127.0.0.1", PLAIN)).unwrap();
    write!(events, "GET /api/events HTTP/1.1\r\nHost: prices.example.com\r\n\r\n").unwrap();
    events.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut stream = Socket(events);
    assert!(stream.head().starts_with("HTTP/1.1 200") && stream.lives(), "an event stream is held back");

    // Headers: the client's word of itself counts for nothing, and none is there twice.
    let answer = get(PLAIN, "/", "X-Forwarded-For: 9.9.9.9\r\nX-Forwarded-Proto: https\r\n").unwrap();
    assert!(
        answer.contains("X-Forwarded-For: 127.0.0.1\r\n") && answer.contains("X-Forwarded-Proto: http\r\n"),
        "{answer}"
    );
    assert!(
        answer.contains("Referrer-Policy: no-referrer\r\n") && !answer.contains("Referrer-Policy: origin"),
        "{answer}"
    );
    assert!(get(PLAIN, "/metrics", "").unwrap().starts_with("HTTP/1.1 404"));
    for port in METRICS {
        assert!(get(port, "/metrics", "").unwrap().contains("\nnginx_connections_active "));
    }

    // A certificate comes, another one does not fit its key, a third one does.
    let visitor = Visitor::come();
    edge.certificate("one", None);
    let redirected = || {
        get(PLAIN, "/?a=1", "").is_some_and(|answer| {
            answer.starts_with("HTTP/1.1 308") && answer.contains("Location: https://prices.example.com:30443/?a=1")
        })
    };
    until("plain requests are sent to HTTPS by both", || (0..20).all(|_| redirected()));
    assert_eq!(subject(), "subject=CN=one");
    let key = std::fs::read_to_string(edge.folder.join("certificate/tls.key")).unwrap();
    edge.certificate("broken", Some(&key));
    until("NGINX refuses it", || edge.said.lock().unwrap().contains("the certificate in the Secret cannot be used"));
    assert_eq!(subject(), "subject=CN=one");
    edge.certificate("two", None);
    until("the new certificate is served", || (0..10).all(|_| subject() == "subject=CN=two"));
    visitor.leave();
    assert!(sockets.iter_mut().all(Socket::lives), "a socket was dropped for a certificate");
}

fn outlives_its_processes() {
    let mut edge = Edge::start(json!({}), 2);
    serves_all_pods();
    let all_answered = |what: &str| {
        for _ in 0..200 {
            let answer = get(PLAIN, "/", "").unwrap_or_default();
            assert!(answer.starts_with("HTTP/1.1 200"), "a new request failed: {what}: {answer}");
        }
    };

    // A main process: its workers go on, and a new one takes over.
    let mut sockets: Vec<Socket> = (0..8).map(|_| Socket::open("")).collect();
    assert!(sockets.iter_mut().all(|socket| socket.head().starts_with("HTTP/1.1 101")));
    edge.kill_main_process(0);
    all_answered("a main process was killed");
    until("it says so", || edge.said.lock().unwrap().contains("NGINX was killed; it starts again"));
    assert!(sockets.iter_mut().all(Socket::lives), "a socket was dropped for NGINX's main process");

    // A whole container: the other one has the ports, and its sockets; what was killed starts again on what it left.
    edge.kill(0);
    all_answered("a container was killed");
    let alive = sockets.iter_mut().filter_map(|socket| socket.lives().then_some(())).count();
    assert!(alive > 0, "no socket of the other container is left");
    edge.containers[0] = edge.container(0);
    all_answered("a container has started again");

    // A certificate of the pipeline's own authority comes beside plain HTTP, not in its place.
    edge.certificate("own", None);
    until("HTTPS is served by both", || (0..10).all(|_| subject() == "subject=CN=own"));
    all_answered("there is HTTPS too");
    let secure = format!("https://127.0.0.1:{TLS}/");
    let secure = Command::new("curl").args(["--silent", "--insecure", "--include", &secure]).output().unwrap();
    let answer = String::from_utf8_lossy(&secure.stdout).into_owned();
    assert!(answer.contains(" 200") && answer.contains("X-Forwarded-Proto: https"), "{answer}");
    assert!(
        !answer.to_lowercase().contains("strict-transport"),
        "who came once must not be kept from plain HTTP: {answer}"
    );
    assert!(sockets.iter_mut().any(|socket| socket.lives()), "all sockets were dropped for a certificate");
}

fn limits_each_client() {
    let limits = json!({"requestsPerSecond": 5, "burst": 10, "connections": 8});
    let _edge = Edge::start(json!({"limits": limits, "trustedProxies": ["127.0.0.1/32"]}), 1);
    serves_all_pods();

    // Who asks is what the trusted proxy says, and the last one before it: the rest anybody could have written.
    let ask = |client: &str| get(PLAIN, "/", &format!("X-Forwarded-For: {client}\r\n")).unwrap();
    let answer = ask("198.51.100.1, 203.0.113.7");
    assert!(
        answer.contains("X-Forwarded-For: 203.0.113.7\r\n") && answer.contains("X-Real-IP: 203.0.113.7\r\n"),
        "{answer}"
    );

    // At once passes the burst; what is beyond is told so, and other clients do not suffer for it.
    let answers: Vec<String> = (0..40).map(|_| ask("203.0.113.8")).collect();
    let passed = answers.iter().filter(|answer| answer.starts_with("HTTP/1.1 200")).count();
    assert!((11..=20).contains(&passed), "{passed} of 40 passed");
    let refusal = answers.iter().find(|answer| !answer.starts_with("HTTP/1.1 200")).unwrap();
    assert!(refusal.starts_with("HTTP/1.1 429") && refusal.contains("Retry-After: 1\r\n"), "{refusal}");
    assert!(ask("203.0.113.9").starts_with("HTTP/1.1 200"));

    // More than one client may have open.
    let mut sockets: Vec<Socket> = (0..9).map(|_| Socket::open("203.0.113.10")).collect();
    let heads: Vec<String> = sockets.iter_mut().map(Socket::head).collect();
    assert_eq!(heads.iter().filter(|head| head.starts_with("HTTP/1.1 101")).count(), 8, "{heads:?}");
    let refusal = heads.iter().find(|head| head.starts_with("HTTP/1.1 429")).unwrap();
    assert!(refusal.contains("too many requests from this address"), "{refusal}");
}

fn repeats_what_a_pod_that_died_did_not_answer(one: Pod, two: Pod) {
    let _edge = Edge::start(json!({}), 2);
    serves_all_pods();
    drop(one);
    for _ in 0..50 {
        assert_eq!(pod_of(&get(PLAIN, "/", "").unwrap()), format!("{}:{LIVEVIEW}", PODS[1]));
    }
    drop(two);
    for _ in 0..50 {
        assert_eq!(
            pod_of(&get(PLAIN, "/", "").unwrap()),
            format!("{BY_KUBE_PROXY}:{PAGE}"),
            "names tell of pods that are gone"
        );
    }
}
