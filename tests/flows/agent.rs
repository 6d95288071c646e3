//! The worlds with the agent in them: the real program on the folder of manifests, with the flags that the settings come to.

use super::shared::world::World;
use super::shared::{Flow, Pods, Settings};
use super::tables;
use super::walked::SERVICE_CIDRS;
use libtest_mimic::Failed;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use waypost::nft::without_slots;

const PATIENCE: Duration = Duration::from_secs(60);

/// A world for each settings, made when its first row is driven.
#[derive(Default)]
pub struct Worlds {
    made: Mutex<BTreeMap<&'static str, Arc<OnceLock<Served>>>>,
}

/// A world that an agent serves.
pub struct Served {
    pub world: World,
    agent: Child,
    folder: PathBuf,
}

impl Worlds {
    /// Drives one row through its world.
    pub fn drive(&self, settings: &'static Settings, flow: &Flow) -> Result<(), Failed> {
        let place = self.place(settings);
        let served = place.get_or_init(|| Served::start(settings));
        let outcome = served.world.drive(flow, flow.expect);
        let rules = || served.world.output("nft", &["-n", "list", "ruleset"]);
        outcome.map_err(|reason| format!("{reason}\n{}\n{}", flow.says(), rules()).into())
    }

    /// Works with the world of these settings.
    pub fn with<T>(&self, settings: &'static Settings, work: impl FnOnce(&World) -> T) -> T {
        work(&self.place(settings).get_or_init(|| Served::start(settings)).world)
    }

    fn place(&self, settings: &'static Settings) -> Arc<OnceLock<Served>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).entry(settings.name).or_default().clone()
    }
}

impl Served {
    fn start(settings: &Settings) -> Served {
        let world = World::build().expect("a world");
        let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let log = target.join(format!("flows-{}.log", settings.name));
        let folder = target.join(format!("flows-{}-{}", std::process::id(), settings.name));
        std::fs::create_dir_all(&folder).expect("target/tmp can be written");
        let mut stages = settings.folders().into_iter().enumerate();
        let mut give = || stages.next().map(|(number, from)| copy(&from, &folder, number));
        give();
        let mut command = Command::new(env!("CARGO_BIN_EXE_waypost"));
        command.arg("run").args(flags(settings)).arg("--manifests").arg(&folder).env("NO_COLOR", "1").env("WAYPOST_SOCKET", "");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log).expect("target/tmp can be written"));
        let agent = world.node.namespace().spawn(&mut command).expect("the agent starts");
        let served = Served { world, agent, folder: folder.clone() };
        let began = Instant::now();
        let until = |holds: &dyn Fn() -> bool| {
            while !holds() {
                let printed = || std::fs::read_to_string(&log).unwrap_or_default();
                assert!(began.elapsed() < PATIENCE, "the agent is not as far within {PATIENCE:?}:\n{}", printed());
                std::thread::sleep(Duration::from_millis(10));
            }
        };
        until(&|| served.is_ready());
        if give().is_some() {
            // Who had a slot before keeps it.
            let planned = tables::planned(settings).map(without_slots);
            until(&|| tables::held(settings, &served.world).map(without_slots) == planned);
        }
        served
    }

    fn is_ready(&self) -> bool {
        let ask = || {
            let mut stream = TcpStream::connect("127.0.0.1:10256")?;
            stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
            let mut page = String::new();
            stream.read_to_string(&mut page).map(|_| page)
        };
        let page: std::io::Result<String> = self.world.node.namespace().run(ask).expect("the node's namespace");
        page.is_ok_and(|page| page.starts_with("HTTP/1.1 200"))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Puts the files of a folder into the agent's, each whole at once: half a file would be half a cluster.
fn copy(from: &Path, into: &Path, number: usize) {
    for file in std::fs::read_dir(from).expect("the folder is there").map(|entry| entry.expect("it can be read")) {
        let name = format!("{number}-{}", file.file_name().display());
        let hidden = into.join(format!(".{name}"));
        std::fs::copy(file.path(), &hidden).expect("target/tmp can be written");
        std::fs::rename(hidden, into.join(name)).expect("target/tmp can be written");
    }
}

fn flags(settings: &Settings) -> Vec<String> {
    let mut flags = vec![
        format!("--node-name={}", settings.node),
        format!("--service-cidr={}", SERVICE_CIDRS.join(",")),
        format!("--masquerade-all={}", settings.masquerade_all),
        format!("--masquerade-bit={}", settings.masquerade_bit),
        format!("--external-ips={}", settings.external_ips),
    ];
    match settings.pods {
        Pods::ClusterCidrs(&[]) => {}
        Pods::ClusterCidrs(networks) => flags.push(format!("--cluster-cidr={}", networks.join(","))),
        Pods::NodeCidrs => flags.push("--detect-local-mode=NodeCIDR".into()),
        Pods::Bridge(name) => {
            flags.extend(["--detect-local-mode=BridgeInterface".into(), format!("--pod-bridge-interface={name}")]);
        }
        Pods::InterfacePrefix(prefix) => {
            flags.extend(["--detect-local-mode=InterfaceNamePrefix".into(), format!("--pod-interface-name-prefix={prefix}")]);
        }
    }
    flags.push(format!("--nodeport-addresses={}", settings.nodeport_addresses.join(",")));
    flags
}
