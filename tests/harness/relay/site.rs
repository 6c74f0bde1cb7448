//! One site: a thread that has a network and mounts of its own, and the TUN device that leads out of them.
//!
//! Namespaces belong to threads. So this thread stays until the relay ends, for others to enter by, and does what has to be
//! done inside.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, mpsc};

use irongate_tests::network::order::address;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tokio::runtime::Handle;
use tokio_tun::{Tun, TunBuilder};

/// What fits into one packet, as on an ethernet.
pub(crate) const LARGEST_PACKET: i32 = 1500;

/// Why there is no site.
#[derive(Debug)]
pub(crate) enum Failure {
    /// This machine or this user cannot have one.
    NotHere(String),
    /// It should work.
    Broken(String),
}

/// A disk to be mounted, and where to tell the outcome.
type Mount = (PathBuf, u64, mpsc::Sender<Result<(), String>>);

/// A site.
pub(crate) struct Site {
    /// The end of the line.
    pub(crate) tun: Arc<Tun>,
    /// Its thread, as a path below `/proc`.
    pub(crate) thread: String,
    mounts: mpsc::Sender<Mount>,
}

impl Site {
    /// Makes a site. The thread ends with this value.
    pub(crate) fn make(number: usize) -> Result<Self, Failure> {
        let runtime = Handle::current();
        let (made, ready) = mpsc::channel();
        let (mounts, orders) = mpsc::channel::<Mount>();
        std::thread::spawn(move || {
            let inside = {
                // The device is watched by the same runtime as everything else.
                let _guard = runtime.enter();
                enter(number)
            };
            let _ = made.send(inside);
            while let Ok((path, bytes, done)) = orders.recv() {
                let options = format!("size={bytes},mode=0777");
                let mounted =
                    mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()));
                let _ =
                    done.send(mounted.map_err(|error| format!("cannot mount a disk at {path:?}: {error}")));
            }
        });
        let (tun, thread) =
            ready.recv().map_err(|_| Failure::Broken("the thread of a site has ended".to_owned()))??;
        Ok(Self { tun: Arc::new(tun), thread, mounts })
    }

    /// Mounts a disk in memory.
    pub(crate) fn mount(&self, path: PathBuf, bytes: u64) -> Result<(), String> {
        let (done, outcome) = mpsc::channel();
        let gone = |_| "the thread of a site has ended".to_owned();
        self.mounts.send((path, bytes, done)).map_err(|_| gone(mpsc::RecvError))?;
        outcome.recv().map_err(gone)?
    }
}

fn enter(number: usize) -> Result<(Tun, String), Failure> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .map_err(|error| Failure::NotHere(format!("no namespaces for this user: {error}")))?;
    let broken = |what: &str| {
        let what = what.to_owned();
        move |error: String| Failure::Broken(format!("{what}: {error}"))
    };
    // Without this, what is mounted here would be mounted everywhere.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .map_err(|error| broken("cannot have mounts of its own")(error.to_string()))?;
    // Connections to one's own address take the loopback, too.
    ip(&["link", "set", "lo", "up"])?;
    // Only what a test sends goes along the line.
    let _ = std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1");
    let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
    if let Err(error) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        return Err(Failure::NotHere(format!("cannot open /dev/net/tun: {error}")));
    }
    let device = TunBuilder::new()
        .name("line")
        .address(address(number))
        .netmask(std::net::Ipv4Addr::new(255, 255, 255, 0))
        .mtu(LARGEST_PACKET)
        .up()
        .build()
        .map_err(|error| broken("cannot make a TUN device")(error.to_string()))?;
    let tun =
        device.into_iter().next().ok_or_else(|| Failure::Broken("no TUN device was made".to_owned()))?;
    // What most machines have, whatever this one is set to.
    let _ = std::fs::write("/proc/sys/net/ipv4/tcp_congestion_control", "cubic");
    let thread = std::fs::read_link("/proc/thread-self")
        .map_err(|error| broken("cannot read /proc/thread-self")(error.to_string()))?;
    Ok((tun, thread.to_string_lossy().into_owned()))
}

fn ip(arguments: &[&str]) -> Result<(), Failure> {
    match Command::new("ip").args(arguments).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(Failure::Broken(format!("ip {}: {said}", arguments.join(" "))))
        }
        Err(error) => {
            Err(Failure::NotHere(format!("cannot run ip, which is in the package iproute2: {error}")))
        }
    }
}
