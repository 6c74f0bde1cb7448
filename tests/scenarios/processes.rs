//! Extract and Replicat in processes of their own, which can be killed and whose memory can be seen.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use irongate_apply::Replicat;
use irongate_capture::{Extract, Settings as ExtractSettings};
use irongate_tests::Process;
use serde::{Deserialize, Serialize};

use super::support::{Flow, extract_settings, replicat_settings};

/// How a process of this test's executable knows what to run.
const GROUP: &str = "IRONGATE_SCENARIO_GROUP";

/// An Extract or Replicat to be.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Group {
    is_extract: bool,
    flow: String,
    address: String,
    dir: PathBuf,
    hurried: bool,
}

impl Group {
    /// The flow's Extract and Replicat.
    pub(crate) fn of(flow: &Flow) -> [Self; 2] {
        let group = |is_extract, address| Self {
            is_extract,
            flow: flow.name.clone(),
            address,
            dir: flow.dir().to_owned(),
            hurried: false,
        };
        [
            group(true, flow.source.socket_uri("extract", &flow.database)),
            group(false, flow.target.socket_uri("replicat", &flow.database)),
        ]
    }

    /// With small files and progress noted all the time.
    pub(crate) fn hurried(self) -> Self {
        Self { hurried: true, ..self }
    }

    pub(crate) fn name(&self) -> &'static str {
        if self.is_extract { "Extract" } else { "Replicat" }
    }

    pub(crate) fn start(&self) -> Process {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "processes::a_group", "--ignored", "--nocapture"]);
        command.env(GROUP, serde_json::to_string(self).unwrap());
        Process::spawn(command)
    }
}

/// Small files, so that there are many, and progress noted all the time.
pub(crate) fn hurried(mut settings: ExtractSettings) -> ExtractSettings {
    settings.file_size = 64 << 10;
    settings.source.machine.progress_interval = Duration::from_millis(20);
    settings
}

#[test]
#[ignore = "the other side of other tests, which start it"]
fn a_group() {
    let Ok(group) = std::env::var(GROUP) else { return };
    let Group { is_extract, flow, address, dir, hurried: hurry } = serde_json::from_str(&group).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let for_ever = std::future::pending();
        if is_extract {
            let settings = extract_settings(&flow, &address, &dir);
            Extract::new(if hurry { hurried(settings) } else { settings }).run(for_ever).await.unwrap();
        } else {
            let mut settings = replicat_settings(&flow, &address, &dir);
            if hurry {
                settings.ahead.from = Some(64 << 10);
            }
            Replicat::new(settings).run(for_ever).await.unwrap();
        }
    });
}
