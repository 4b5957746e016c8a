//! Apache RocketMQ as child processes: a name server, and a proxy in local mode, which has the broker in its JVM.
//!
//! Its jars are fetched by Maven once, into a folder `rivals` beside the programs that cargo builds.

use std::{
    collections::hash_map::DefaultHasher,
    fs::{self, File},
    hash::{Hash, Hasher},
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::child::{pause, pinned, resume};

const POM: &str = include_str!("../rivals/rocketmq/pom.xml");
const LOGBACK: &str = include_str!("../rivals/rocketmq/logback.xml");

/// How long it may take to start.
const START_MAX: Duration = Duration::from_secs(180);
/// The name of the broker, which its admin tool prints.
const BROKER: &str = "rival";
/// What RocketMQ's own scripts give to the JVM of a proxy or a broker, but for the sizes.
const JVM: [&str; 16] = [
    "-server",
    "-XX:+UseG1GC",
    "-XX:G1HeapRegionSize=16m",
    "-XX:G1ReservePercent=25",
    "-XX:InitiatingHeapOccupancyPercent=30",
    "-XX:SoftRefLRUPolicyMSPerMB=0",
    "-XX:-OmitStackTraceInFastThrow",
    "-XX:+AlwaysPreTouch",
    "-XX:MaxDirectMemorySize=8g",
    "-XX:-UseLargePages",
    "--add-opens=java.base/java.nio=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-opens=java.base/java.lang=ALL-UNNAMED",
    "--add-opens=java.base/jdk.internal.ref=ALL-UNNAMED",
    "--add-exports=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-exports=java.base/jdk.internal.ref=ALL-UNNAMED",
];

/// When RocketMQ takes a message for stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// Once it is in memory that the system writes back, `ASYNC_FLUSH`.
    Async,
    /// Once it is on the disk, `SYNC_FLUSH`.
    Sync,
}

/// A running RocketMQ; ends when dropped.
#[derive(Debug)]
pub struct RocketMq {
    jars: PathBuf,
    home: PathBuf,
    ports: Ports,
    name_server: Child,
    broker: Child,
}

#[derive(Clone, Copy, Debug)]
struct Ports {
    name_server: u16,
    /// The one two below is the broker's too.
    broker: u16,
    replication: u16,
    remoting: u16,
    grpc: u16,
}

impl RocketMq {
    /// Starts it on one core, with its data in `home` and a heap of so many MiB. It is killed when the calling thread
    /// ends.
    ///
    /// # Errors
    ///
    /// If it cannot be fetched, or does not start.
    pub fn start_on(core: usize, home: &Path, flush: Flush, heap_mib: u32) -> Result<Self> {
        let jars = installed()?;
        let ports = Ports::free()?;
        configure(home, ports, flush)?;
        let java = |jvm: &[String], main: &str, arguments: &[String], log: &str| -> Result<Child> {
            let mut command = pinned(core, "java");
            command.args(jvm).args(common(&jars, home)).arg(main).args(arguments);
            let log = File::create(home.join(log))?;
            command.env("ROCKETMQ_HOME", home).current_dir(home).stdin(Stdio::null());
            command.stdout(log.try_clone()?).stderr(log);
            command.spawn().with_context(|| format!("cannot start {command:?}"))
        };
        let path = |name: &str| home.join("conf").join(name).display().to_string();
        let small = ["-Xmx256m".to_owned(), "-XX:+UseSerialGC".to_owned()];
        let arguments = ["-c".to_owned(), path("namesrv.conf")];
        let mut name_server =
            java(&small, "org.apache.rocketmq.namesrv.NamesrvStartup", &arguments, "namesrv.out")?;
        let mut jvm = vec![format!("-Xms{heap_mib}m"), format!("-Xmx{heap_mib}m")];
        jvm.extend(JVM.map(str::to_owned));
        let arguments = ["-pm", "local", "-bc", &path("broker.conf"), "-pc", &path("rmq-proxy.json")];
        let broker = awaited(&mut name_server, home, "namesrv.out", "boot success").and_then(|()| {
            let main = "org.apache.rocketmq.proxy.ProxyStartup";
            java(&jvm, main, &arguments.map(str::to_owned), "proxy.out")
        });
        let broker = match broker {
            Ok(broker) => broker,
            Err(error) => {
                end(&mut name_server);
                return Err(error);
            }
        };
        let mut this = Self { jars, home: home.to_owned(), ports, name_server, broker };
        awaited(&mut this.broker, home, "proxy.out", "startup successfully")?;
        Ok(this)
    }

    /// Returns its version.
    ///
    /// # Errors
    ///
    /// If its jars are not there.
    pub fn version(&self) -> Result<String> {
        for jar in fs::read_dir(&self.jars)? {
            let name = jar?.file_name().to_string_lossy().into_owned();
            let version = name.strip_prefix("rocketmq-proxy-").and_then(|rest| rest.strip_suffix(".jar"));
            if let Some(version) = version {
                return Ok(version.to_owned());
            }
        }
        bail!("{} has no jar of the proxy", self.jars.display())
    }

    /// Returns the number of the process that has proxy and broker.
    pub fn id(&self) -> u32 {
        self.broker.id()
    }

    /// Returns the address of its gRPC.
    pub fn http_uri(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.grpc)
    }

    /// Makes a topic for normal messages.
    ///
    /// # Errors
    ///
    /// If its admin tool does not say that it did.
    pub fn create_topic(&self, topic: &str, queues: u32) -> Result<()> {
        let (broker, queues) = (self.ports.broker, queues.to_string());
        let address = format!("127.0.0.1:{broker}");
        let words = ["updateTopic", "-b", &address, "-t", topic, "-r", &queues, "-w", &queues];
        let output = self.admin(&[&words[..], &["-a", "+message.type=NORMAL"]].concat())?;
        ensure!(output.contains("success"), "cannot make the topic {topic}: {output}");
        Ok(())
    }

    /// Makes consumer groups. Its proxy does not answer the settings of a consumer whose group is not there.
    ///
    /// # Errors
    ///
    /// If its admin tool does not say that it did.
    pub fn create_groups(&self, groups: &[String]) -> Result<()> {
        let configurations: Vec<_> =
            groups.iter().map(|group| serde_json::json!({ "groupName": group })).collect();
        let file = self.home.join("groups.json");
        fs::write(&file, serde_json::Value::from(configurations).to_string())?;
        let address = format!("127.0.0.1:{}", self.ports.broker);
        let file = file.display().to_string();
        let output = self.admin(&["updateSubGroupList", "-b", &address, "-f", &file])?;
        ensure!(output.contains("success"), "cannot make the groups {groups:?}: {output}");
        Ok(())
    }

    /// Returns how many messages its queues of a topic hold.
    ///
    /// # Errors
    ///
    /// If its admin tool does not tell.
    pub fn stored(&self, topic: &str) -> Result<u64> {
        let output = self.admin(&["topicStatus", "-t", topic])?;
        let (mut sum, mut queues) = (0, 0);
        for line in output.lines() {
            // Its name, a queue's number, first and last offset, and a time.
            let fields: Vec<_> = line.split_whitespace().collect();
            if let [BROKER, _, first, end, ..] = fields[..] {
                sum += end.parse::<u64>()? - first.parse::<u64>()?;
                queues += 1;
            }
        }
        ensure!(queues > 0, "no queues of {topic} in: {output}");
        Ok(sum)
    }

    /// Stops its processes until they are resumed.
    ///
    /// # Errors
    ///
    /// If they have ended.
    pub fn pause(&self) -> Result<()> {
        pause(&self.broker)?;
        pause(&self.name_server)
    }

    /// Lets its processes go on.
    ///
    /// # Errors
    ///
    /// If they have ended.
    pub fn resume(&self) -> Result<()> {
        resume(&self.name_server)?;
        resume(&self.broker)
    }

    fn admin(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new("java");
        command.args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
        command.args(common(&self.jars, &self.home));
        command.arg("org.apache.rocketmq.tools.command.MQAdminStartup").args(words);
        let name_server = format!("127.0.0.1:{}", self.ports.name_server);
        command.env("ROCKETMQ_HOME", &self.home).env("NAMESRV_ADDR", name_server).current_dir(&self.home);
        let output = command.output().context("cannot start java")?;
        Ok([output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat())
    }
}

impl Drop for RocketMq {
    fn drop(&mut self) {
        end(&mut self.broker);
        end(&mut self.name_server);
    }
}

fn end(child: &mut Child) {
    drop(child.kill());
    drop(child.wait());
}

/// Returns the arguments of the JVM that all its programs share.
fn common(jars: &Path, home: &Path) -> [String; 6] {
    let logback = home.join("conf/logback.xml");
    [
        format!("-Duser.home={}", home.display()),
        format!("-Djava.io.tmpdir={}", home.display()),
        format!("-Drmq.logback.configurationFile={}", logback.display()),
        format!("-Dlogback.configurationFile={}", logback.display()),
        "-cp".to_owned(),
        format!("{}/*", jars.display()),
    ]
}

/// Waits until a program has written `word` to its log.
fn awaited(child: &mut Child, home: &Path, log: &str, word: &str) -> Result<()> {
    let (start, log) = (Instant::now(), home.join(log));
    while !fs::read_to_string(&log)?.contains(word) {
        if let Some(status) = child.try_wait()? {
            bail!("RocketMQ ended with {status}: {}", fs::read_to_string(&log)?);
        }
        ensure!(start.elapsed() < START_MAX, "RocketMQ is not ready: {}", fs::read_to_string(&log)?);
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Writes the files that it wants to find. What is not named there is as RocketMQ has it.
fn configure(home: &Path, ports: Ports, flush: Flush) -> Result<()> {
    let conf = home.join("conf");
    fs::create_dir_all(&conf)?;
    let Ports { name_server, broker, replication, remoting, grpc } = ports;
    let flush = match flush {
        Flush::Async => "ASYNC_FLUSH",
        Flush::Sync => "SYNC_FLUSH",
    };
    let store = home.join("store");
    let store = store.display();
    fs::write(conf.join("logback.xml"), LOGBACK)?;
    fs::write(conf.join("namesrv.conf"), format!("bindAddress=127.0.0.1\nlistenPort={name_server}\n"))?;
    let broker = format!(
        "brokerClusterName=DefaultCluster\nbrokerName={BROKER}\nbrokerId=0\nbrokerIP1=127.0.0.1\n\
         bindAddress=127.0.0.1\nlistenPort={broker}\nhaListenPort={replication}\n\
         namesrvAddr=127.0.0.1:{name_server}\nstorePathRootDir={store}\n\
         storePathCommitLog={store}/commitlog\nflushDiskType={flush}\nenablePropertyFilter=true\n\
         autoCreateTopicEnable=false\nautoCreateSubscriptionGroup=true\ndiskMaxUsedSpaceRatio=95\n"
    );
    fs::write(conf.join("broker.conf"), broker)?;
    let proxy = serde_json::json!({
        "rocketMQClusterName": "DefaultCluster",
        "proxyMode": "LOCAL",
        "namesrvAddr": format!("127.0.0.1:{name_server}"),
        "grpcServerPort": grpc,
        "remotingListenPort": remoting,
    });
    fs::write(conf.join("rmq-proxy.json"), proxy.to_string())?;
    Ok(())
}

impl Ports {
    /// Returns ports that nobody listens at now.
    fn free() -> Result<Self> {
        // All are held until all are chosen, so that none is chosen twice.
        let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        let any = || bind(0);
        let others = [any()?, any()?, any()?, any()?];
        let broker = loop {
            let broker = any()?;
            let port = broker.local_addr()?.port();
            if port.checked_sub(2).is_some_and(|fast| bind(fast).is_ok()) {
                break port;
            }
        };
        let [name_server, replication, remoting, grpc] = others.map(|held| held.local_addr());
        Ok(Self {
            broker,
            name_server: name_server?.port(),
            replication: replication?.port(),
            remoting: remoting?.port(),
            grpc: grpc?.port(),
        })
    }
}

/// Returns the folder with the jars, which Maven fills unless that was done before for this pom.
fn installed() -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    POM.hash(&mut hasher);
    let program = std::env::current_exe()?;
    let target = program.ancestors().nth(2).context("the program lies in target/<profile>")?;
    let folder = target.join("rivals").join(format!("rocketmq-{:016x}", hasher.finish()));
    let (jars, complete) = (folder.join("jars"), folder.join("complete"));
    if !complete.exists() {
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("pom.xml"), POM)?;
        let mut maven = Command::new("mvn");
        maven.args(["--quiet", "--batch-mode", "dependency:copy-dependencies", "-DincludeScope=runtime"]);
        maven.arg(format!("-DoutputDirectory={}", jars.display())).current_dir(&folder);
        let output =
            maven.stdin(Stdio::null()).output().context("cannot start mvn, which fetches RocketMQ")?;
        let complaint = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "mvn cannot fetch RocketMQ: {complaint}");
        fs::write(complete, "")?;
    }
    Ok(jars)
}
