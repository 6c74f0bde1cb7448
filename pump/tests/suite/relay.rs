//! A wire between two sites that counts, breaks and lies.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// What happens on a connection after so many bytes in one direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// Both directions are cut.
    Cut(Way, u64),
    /// One byte is changed.
    Alter(Way, u64),
    /// The direction ends in order, as if that had been all.
    Truncate(Way, u64),
    /// Nothing passes any more, neither way, not even an end: both sides believe in a link that is gone.
    Mute(Way, u64),
}

/// Seen from whoever has connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    Up,
    Down,
}

#[derive(Debug)]
struct Inner {
    target: Mutex<SocketAddr>,
    plan: Mutex<VecDeque<Fault>>,
    up: AtomicU64,
    down: AtomicU64,
    connections: AtomicU64,
    stalled: AtomicBool,
    tasks: Mutex<Vec<tokio::task::AbortHandle>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    inner: Arc<Inner>,
}

impl Relay {
    pub(crate) async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let inner = Arc::new(Inner {
            target: Mutex::new(target),
            plan: Mutex::default(),
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            stalled: AtomicBool::new(false),
            tasks: Mutex::default(),
        });
        let relay = Self { address, inner };
        let listening = relay.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                listening.connect(near).await;
            }
        });
        relay
    }

    async fn connect(&self, near: TcpStream) {
        let target = *self.inner.target.lock().unwrap();
        let Ok(far) = TcpStream::connect(target).await else { return };
        self.inner.connections.fetch_add(1, Ordering::SeqCst);
        let fault = self.inner.plan.lock().unwrap().pop_front();
        let (near_read, near_write) = near.into_split();
        let (far_read, far_write) = far.into_split();
        let (up, down) = (self.clone(), self.clone());
        let muted = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(async move {
            let up = up.carry(Way::Up, near_read, far_write, fault, &muted);
            let down = down.carry(Way::Down, far_read, near_write, fault, &muted);
            // A cut of one direction drops both; an orderly end of one lets the other go on.
            let (mut up, mut down) = (std::pin::pin!(up), std::pin::pin!(down));
            tokio::select! {
                cut = &mut up => if !cut { down.await; },
                cut = &mut down => if !cut { up.await; },
            }
        });
        self.inner.tasks.lock().unwrap().push(task.abort_handle());
    }

    /// Carries one direction; true when it was cut.
    async fn carry(
        &self,
        way: Way,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        fault: Option<Fault>,
        muted: &AtomicBool,
    ) -> bool {
        let count = if way == Way::Up { &self.inner.up } else { &self.inner.down };
        let (mut bytes, mut seen) = (vec![0; 16 << 10], 0_u64);
        loop {
            while self.inner.stalled.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let read = from.read(&mut bytes).await;
            if muted.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            let read = match read {
                Ok(0) => return to.shutdown().await.is_err(),
                Ok(read) => read,
                Err(_) => return true,
            };
            let mut piece = &mut bytes[..read];
            let mut ends = None;
            match fault {
                Some(Fault::Cut(on, at)) if on == way && at < seen + read as u64 => {
                    piece = &mut piece[..at.saturating_sub(seen) as usize];
                    ends = Some(true);
                }
                Some(Fault::Truncate(on, at)) if on == way && at < seen + read as u64 => {
                    piece = &mut piece[..at.saturating_sub(seen) as usize];
                    ends = Some(false);
                }
                Some(Fault::Mute(on, at)) if on == way && at < seen + read as u64 => {
                    muted.store(true, Ordering::SeqCst);
                    std::future::pending::<()>().await;
                }
                Some(Fault::Alter(on, at)) if on == way && (seen..seen + read as u64).contains(&at) => {
                    piece[(at - seen) as usize] ^= 1 << (at % 8);
                }
                _ => {}
            }
            if to.write_all(piece).await.is_err() {
                return true;
            }
            seen += read as u64;
            count.fetch_add(piece.len() as u64, Ordering::SeqCst);
            if let Some(cut) = ends {
                let _ = to.shutdown().await;
                return cut;
            }
        }
    }

    /// What happens on the connections to come.
    pub(crate) fn plan(&self, faults: impl IntoIterator<Item = Fault>) {
        self.inner.plan.lock().unwrap().extend(faults);
    }

    pub(crate) fn plan_left(&self) -> usize {
        self.inner.plan.lock().unwrap().len()
    }

    /// Cuts every connection.
    pub(crate) fn cut(&self) {
        self.inner.tasks.lock().unwrap().drain(..).for_each(|task| task.abort());
    }

    /// Carries nothing, and lets nobody know.
    pub(crate) fn stall(&self, stalled: bool) {
        self.inner.stalled.store(stalled, Ordering::SeqCst);
    }

    /// Bytes in the direction of whoever is connected to.
    pub(crate) fn up(&self) -> u64 {
        self.inner.up.load(Ordering::SeqCst)
    }

    pub(crate) fn connections(&self) -> u64 {
        self.inner.connections.load(Ordering::SeqCst)
    }
}
