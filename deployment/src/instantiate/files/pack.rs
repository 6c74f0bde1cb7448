//! One file of an export: rows as COPY prints them, compressed, with a digest of the bytes as they lie on the disk.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc::{Receiver, Sender};

/// A level that keeps up with a network.
const LEVEL: i32 = 3;
/// Rows are handed over in pieces of so many bytes.
pub(super) const PIECE: usize = 64 << 10;

/// What a file is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Sum {
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

struct Summed<T> {
    inner: T,
    digest: Sha256,
    bytes: u64,
}

impl<T> Summed<T> {
    fn new(inner: T) -> Self {
        Self { inner, digest: Sha256::new(), bytes: 0 }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    fn sum(self) -> (T, Sum) {
        (self.inner, Sum { bytes: self.bytes, sha256: hex(&self.digest.finalize()) })
    }
}

impl<T: Write> Write for Summed<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.take(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Read> Read for Summed<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.take(&buffer[..read]);
        Ok(read)
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes a new file that nobody else may read.
pub(super) fn create(path: &Path) -> io::Result<File> {
    File::options().write(true).create_new(true).mode(0o600).open(path)
}

/// Writes what comes until there is no more, durably. Blocks.
pub(super) fn write(path: &Path, mut pieces: Receiver<Bytes>) -> io::Result<Sum> {
    let mut out = zstd::stream::write::Encoder::new(Summed::new(create(path)?), LEVEL)?;
    while let Some(piece) = pieces.blocking_recv() {
        out.write_all(&piece)?;
    }
    let (file, sum) = out.finish()?.sum();
    file.sync_all()?;
    Ok(sum)
}

/// Reads a file and hands on what was compressed in it. Blocks.
pub(super) fn read(path: &Path, pieces: &Sender<Bytes>) -> io::Result<Sum> {
    let mut reader = zstd::stream::read::Decoder::new(Summed::new(File::open(path)?))?;
    let mut buffer = vec![0; PIECE];
    loop {
        let read = reader.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        if pieces.blocking_send(Bytes::copy_from_slice(&buffer[..read])).is_err() {
            return Err(io::Error::other("nobody takes the rows any more"));
        }
    }
    // What the decoder has read ahead has been counted already.
    let mut summed = reader.finish().into_inner();
    io::copy(&mut summed, &mut io::sink())?;
    Ok(summed.sum().1)
}

/// The digest of a file. Blocks.
pub(super) fn sum(path: &Path) -> io::Result<Sum> {
    let mut summed = Summed::new(File::open(path)?);
    io::copy(&mut summed, &mut io::sink())?;
    Ok(summed.sum().1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_with_the_same_digest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let (send, receive) = tokio::sync::mpsc::channel(64);
        for number in 0..40_u8 {
            send.blocking_send(Bytes::from(vec![number; 10_000])).unwrap();
        }
        drop(send);
        let written = write(&path, receive).unwrap();
        assert!(written.bytes < 400_000 && written == sum(&path).unwrap());
        let (send, mut receive) = tokio::sync::mpsc::channel(64);
        assert_eq!(read(&path, &send).unwrap(), written);
        drop(send);
        let mut all = Vec::new();
        while let Some(piece) = receive.blocking_recv() {
            all.extend_from_slice(&piece);
        }
        assert!(all.len() == 400_000 && all[399_999] == 39);
        assert!(write(&path, tokio::sync::mpsc::channel(1).1).is_err(), "nothing is written over");
    }
}
