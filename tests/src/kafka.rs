//! A real Apache Kafka in KRaft mode. Every node is broker and controller in one JVM. One node is ready after about 4
//! s.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use rdkafka::TopicPartitionList;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, Producer};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::client::Client;
use crate::process::{Process, leashed};
use crate::progress::{NO_PROGRESS_LIMIT, Stall};

/// How long one readiness call may take. After each, the wait checks that the JVM still runs.
const READINESS_CALL_TIMEOUT: Duration = Duration::from_millis(500);

/// The cluster to start. The default suits tests: its JVM starts fast rather than runs fast.
#[derive(Debug, Clone)]
pub struct Options {
    /// The number of nodes. Kafka's internal topics are replicated to at most three of them.
    pub nodes: u16,
    /// The first node's port. `None`: a free port.
    pub port: Option<u16>,
    /// A second listener of each node, for clients that use a proxy: its port, and the port that the node advertises
    /// for it. Empty: no second listener.
    pub proxied: Vec<(u16, u16)>,
    /// The directory of the data, which is reused when it exists. `None`: a temporary directory.
    pub data: Option<PathBuf>,
    /// Server properties, which override the tests' own.
    pub properties: Vec<(String, String)>,
    /// The heap of each node, in MiB.
    pub heap_mib: u32,
    /// For benchmarks: the JIT's second compiler and the JVM's own choice of a garbage collector.
    pub optimised: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: 1,
            port: None,
            proxied: Vec::new(),
            data: None,
            properties: Vec::new(),
            heap_mib: 512,
            optimised: false,
        }
    }
}

/// A running cluster. Dropping it kills all nodes and removes its temporary directory.
#[derive(Debug)]
pub struct Kafka {
    nodes: Vec<Node>,
    bootstrap: String,
    /// Dropped after the nodes that write to it.
    _scratch: Option<TempDir>,
}

impl Kafka {
    /// One broker for tests, ready.
    pub fn start() -> Result<Self> {
        Self::start_with(&Options::default())
    }

    /// A cluster that is ready: all nodes run, and groups and transactions have their coordinators.
    pub fn start_with(options: &Options) -> Result<Self> {
        let (root, scratch) = if let Some(data) = &options.data {
            fs::create_dir_all(data).with_context(|| format!("creating {}", data.display()))?;
            (data.canonicalize()?, None)
        } else {
            let scratch = tempfile::Builder::new().prefix("switchboard-kafka-").tempdir()?;
            (scratch.path().to_owned(), Some(scratch))
        };
        let jars = jars()?;
        let listeners: Vec<(u16, u16)> = (0..options.nodes)
            .map(|index| {
                let port = match options.port {
                    Some(port) if index == 0 => {
                        ensure!(is_free(port), "port {port} of 127.0.0.1 is taken");
                        port
                    }
                    _ => free_port()?,
                };
                Ok((port, free_port()?))
            })
            .collect::<Result<_>>()?;
        let voters = join(listeners.iter().zip(1..).map(|((_, port), id)| format!("{id}@127.0.0.1:{port}")));
        let mut nodes = Vec::new();
        for (&(port, controller), id) in listeners.iter().zip(1..) {
            let directory = root.join(format!("node-{id}"));
            fs::create_dir_all(&directory)?;
            let mut properties = server_properties(id, options.nodes.min(3), port, controller, &voters);
            properties.push(("log.dirs".to_owned(), directory.join("data").display().to_string()));
            if let Some((behind, advertised)) = options.proxied.get(nodes.len()) {
                properties.extend(proxied(port, controller, *behind, *advertised));
            }
            properties.extend(options.properties.iter().cloned());
            let properties: String = properties.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
            fs::write(directory.join("server.properties"), properties)?;
            let scratch = scratch.as_ref().map(|scratch| scratch.path().to_owned());
            nodes.push(Node { directory, jvm: jvm(&jars, options), scratch, process: None });
        }
        let bootstrap = join(listeners.iter().map(|(port, _)| format!("127.0.0.1:{port}")));
        let mut kafka = Self { nodes, bootstrap, _scratch: scratch };
        for node in &mut kafka.nodes {
            node.format()?;
        }
        for node in &mut kafka.nodes {
            node.start()?;
        }
        kafka.wait_until_ready()?;
        Ok(kafka)
    }

    /// A broker where the user `switchboard` may do only what `native::allow` allows, and the flags of a client that
    /// connects as that user.
    pub fn guarded() -> Result<(Self, Vec<String>)> {
        let port = free_port()?;
        let properties = [
            ("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer"),
            ("super.users", "User:ANONYMOUS"),
            ("listener.security.protocol.map", "PLAINTEXT:PLAINTEXT,PROXIED:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT"),
            ("listener.name.proxied.sasl.enabled.mechanisms", "PLAIN"),
            (
                "listener.name.proxied.plain.sasl.jaas.config",
                "org.apache.kafka.common.security.plain.PlainLoginModule required user_switchboard=\"secret\";",
            ),
        ];
        let properties = properties.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let kafka = Self::start_with(&Options { proxied: vec![(port, port)], properties, ..Options::default() })?;
        let mut login = vec!["--bootstrap-servers".to_owned(), format!("127.0.0.1:{port}")];
        for property in [
            "security.protocol=SASL_PLAINTEXT",
            "sasl.mechanisms=PLAIN",
            "sasl.username=switchboard",
            "sasl.password=secret",
        ] {
            login.extend(["--kafka".to_owned(), property.to_owned()]);
        }
        Ok((kafka, login))
    }

    /// The broker that all tests of this process share. The first call starts it, and it ends with the process.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Result<Kafka>> = OnceLock::new();
        match SHARED.get_or_init(Self::start) {
            Ok(kafka) => kafka,
            Err(error) => panic!("no broker for the tests: {error:#}"),
        }
    }

    /// `host:port,...` of all nodes.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// A client of this cluster.
    pub fn client(&self) -> Result<Client> {
        Client::new(&self.bootstrap)
    }

    /// Kills a node (SIGKILL). Nodes count from 0. Its data stays.
    pub fn kill(&mut self, node: usize) -> Result<()> {
        if let Some(mut process) = self.nodes[node].process.take() {
            process.kill()?;
        }
        Ok(())
    }

    /// Shuts a node down (SIGTERM) and waits for its end. Its data stays.
    pub fn shut_down(&mut self, node: usize) -> Result<()> {
        if let Some(mut process) = self.nodes[node].process.take() {
            process.signal(Signal::TERM);
            process.wait(NO_PROGRESS_LIMIT)?;
        }
        Ok(())
    }

    /// Freezes a node (SIGSTOP). Its connections stay open, and it answers nothing.
    pub fn pause(&self, node: usize) {
        if let Some(process) = &self.nodes[node].process {
            process.signal(Signal::STOP);
        }
    }

    /// Lets a node continue after [`Kafka::pause`] (SIGCONT).
    pub fn resume(&self, node: usize) {
        if let Some(process) = &self.nodes[node].process {
            process.signal(Signal::CONT);
        }
    }

    /// Restarts a killed node on its data and port, and waits until the cluster is ready.
    pub fn restart(&mut self, node: usize) -> Result<()> {
        self.nodes[node].start()?;
        self.wait_until_ready()
    }

    /// Shuts all nodes down (SIGTERM). They flush their data, so a restart has nothing to recover.
    pub fn stop(mut self) -> Result<()> {
        for node in &mut self.nodes {
            if let Some(process) = &node.process {
                process.signal(Signal::TERM);
            }
        }
        for node in &mut self.nodes {
            if let Some(process) = &mut node.process {
                process.wait(NO_PROGRESS_LIMIT)?;
            }
        }
        Ok(())
    }

    /// Fails when a node has ended by itself. The error shows the end of the node's log.
    pub fn check(&mut self) -> Result<()> {
        self.nodes.iter_mut().try_for_each(Node::check)
    }

    /// The CPU time that the running nodes have used so far.
    pub fn cpu_time(&self) -> Result<Duration> {
        self.nodes.iter().filter_map(|node| node.process.as_ref()).map(Process::cpu_time).sum()
    }

    /// The log files of the nodes, which contain warnings and errors.
    pub fn logs(&self) -> Vec<PathBuf> {
        self.nodes.iter().map(Node::log).collect()
    }

    /// Makes the first calls of a test, so that no test waits while Kafka creates its internal topics.
    fn wait_until_ready(&mut self) -> Result<()> {
        let nodes = self.nodes.len();
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.bootstrap)
            .set("reconnect.backoff.ms", "20")
            .set("reconnect.backoff.max.ms", "100")
            .set("transactional.id", "readiness")
            .set("group.id", "readiness");
        let producer: BaseProducer = config.create()?;
        let consumer: BaseConsumer = config.remove("transactional.id").create()?;
        let mut anything = TopicPartitionList::new();
        anything.add_partition("readiness", 0);

        self.wait_for("a transaction coordinator", || Ok(producer.init_transactions(READINESS_CALL_TIMEOUT)?))?;
        self.wait_for("a group coordinator", || {
            consumer.committed_offsets(anything.clone(), READINESS_CALL_TIMEOUT)?;
            Ok(())
        })?;
        self.wait_for("all nodes", || {
            let found = consumer.fetch_metadata(None, READINESS_CALL_TIMEOUT)?.brokers().len();
            ensure!(found == nodes, "{found} of {nodes} nodes");
            Ok(())
        })
    }

    /// Attempts a step of the start until it succeeds.
    fn wait_for(&mut self, what: &str, attempt: impl Fn() -> Result<()>) -> Result<()> {
        let mut stall = Stall::new(());
        while let Err(error) = attempt() {
            self.check()?;
            if let Err(stalled) = stall.check(()) {
                return Err(error.context(format!("{what} is not there: {stalled}; logs: {:?}", self.logs())));
            }
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Node {
    directory: PathBuf,
    jvm: Vec<String>,
    /// The temporary directory of the whole cluster, if there is one.
    scratch: Option<PathBuf>,
    process: Option<Process>,
}

impl Node {
    /// Formats the data directory with the cluster's id, unless it is formatted.
    fn format(&self) -> Result<()> {
        let arguments = "format --ignore-formatted --cluster-id c3dpdGNoYm9hcmQtMTIzNA --config server.properties";
        let mut formatter = Process::start(self.java("kafka.tools.StorageTool")?.args(arguments.split(' ')))?;
        let status = formatter.wait(NO_PROGRESS_LIMIT)?;
        ensure!(
            status.success(),
            "formatting a node's data failed ({status}); the end of its log:\n{}",
            self.end_of_log()
        );
        Ok(())
    }

    fn start(&mut self) -> Result<()> {
        self.process = Some(Process::start(self.java("kafka.Kafka")?.arg("server.properties"))?);
        Ok(())
    }

    fn check(&mut self) -> Result<()> {
        if let Some(process) = &mut self.process
            && let Some(status) = process.ended()?
        {
            return Err(anyhow!("a Kafka node ended ({status}); the end of its log:\n{}", self.end_of_log()));
        }
        Ok(())
    }

    fn java(&self, class: &str) -> Result<Command> {
        let log = File::options().create(true).append(true).open(self.log())?;
        let mut command = leashed("java", self.scratch.as_deref());
        command.args(&self.jvm).arg(class).current_dir(&self.directory).stdout(log.try_clone()?).stderr(log);
        Ok(command)
    }

    fn log(&self) -> PathBuf {
        self.directory.join("broker.log")
    }

    fn end_of_log(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

fn jvm(jars: &Path, options: &Options) -> Vec<String> {
    let logging = Path::new(env!("CARGO_MANIFEST_DIR")).join("kafka/log4j2.properties");
    let mut flags = vec![
        format!("-Xmx{}m", options.heap_mib),
        "-XX:+ExitOnOutOfMemoryError".to_owned(),
        "-XX:-UsePerfData".to_owned(),
        format!("-Dlog4j2.configurationFile={}", logging.display()),
    ];
    if !options.optimised {
        flags.extend(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"].map(str::to_owned));
    }
    flags.extend(["-cp".to_owned(), format!("{}/*", jars.display())]);
    flags
}

fn server_properties(id: u16, replicas: u16, port: u16, controller: u16, voters: &str) -> Vec<(String, String)> {
    let replicas = replicas.to_string();
    let id = id.to_string();
    let listeners = format!("PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}");
    [
        ("process.roles", "broker,controller"),
        ("node.id", &id),
        ("controller.quorum.voters", voters),
        ("controller.listener.names", "CONTROLLER"),
        ("listeners", &listeners),
        ("default.replication.factor", &replicas),
        ("offsets.topic.replication.factor", &replicas),
        ("offsets.topic.num.partitions", "4"),
        ("transaction.state.log.replication.factor", &replicas),
        ("transaction.state.log.min.isr", "1"),
        ("transaction.state.log.num.partitions", "4"),
        ("auto.create.topics.enable", "false"),
        // Groups form at once, and lose a dead member as early as Kafka allows.
        ("group.initial.rebalance.delay.ms", "0"),
        ("group.consumer.min.session.timeout.ms", "6000"),
        ("group.consumer.session.timeout.ms", "6000"),
        // A killed node can register again when its old session has ended. The default is 9 s.
        ("broker.session.timeout.ms", "3000"),
        ("broker.heartbeat.interval.ms", "500"),
        // Kafka aborts a dead producer's open transaction at most this much after its time-out.
        ("transaction.abort.timed.out.transaction.cleanup.interval.ms", "1000"),
        // More than the host allows, so that the host's own limits apply first.
        ("message.max.bytes", "8388608"),
        ("log.segment.bytes", "16777216"),
        ("log.index.size.max.bytes", "1048576"),
        // Test vectors have timestamps of 1970, which any retention time would delete.
        ("log.retention.ms", "-1"),
        // The broker allocates it at its start. The default is 128 MiB.
        ("log.cleaner.dedupe.buffer.size", "8388608"),
        // The cleaner compacts soon. The default is 15 s.
        ("log.cleaner.backoff.ms", "200"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .to_vec()
}

/// A listener that is advertised at another port than its own. A client that connects through it gets the same listener
/// of the other nodes.
fn proxied(port: u16, controller: u16, behind: u16, advertised: u16) -> Vec<(String, String)> {
    let own = format!("PLAINTEXT://127.0.0.1:{port}");
    [
        ("listeners", format!("{own},PROXIED://127.0.0.1:{behind},CONTROLLER://127.0.0.1:{controller}")),
        ("advertised.listeners", format!("{own},PROXIED://127.0.0.1:{advertised}")),
        ("listener.security.protocol.map", "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT".to_owned()),
        ("inter.broker.listener.name", "PLAINTEXT".to_owned()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .to_vec()
}

/// The directory with the broker's jars. The script prints it, and fills it when it is missing.
fn jars() -> Result<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("kafka/fetch-jars");
    let output = Command::new(&script).stderr(Stdio::inherit()).output().context("kafka/fetch-jars cannot be run")?;
    ensure!(output.status.success(), "{} failed; it says why above", script.display());
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim_end()))
}

/// A port without a listener, below the range of ephemeral ports. A client that tries to reach a killed node could
/// otherwise get the node's port as its own, and connect to itself.
pub fn free_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test processes that run at the same time begin at different ports.
    let start = u16::try_from(process::id() % 1000).expect("below 1000") * 10;
    (0..10_000)
        .map(|_| 20_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000)
        .find(|port| is_free(*port))
        .context("no free port between 20000 and 30000")
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

fn join(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(",")
}
