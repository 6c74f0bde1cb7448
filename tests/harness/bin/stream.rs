//! A raw TCP stream: what a line can carry with nothing in between, and how long it is.
//!
//! `stream receive ADDRESS` takes one connection, reads it to its end and answers with the number of bytes.
//! `stream send ADDRESS BYTES` connects, sends so many, waits for the answer and prints how long that took, in seconds.
//! With no bytes, that is two round trips.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program of its own that answers by its output"
)]

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// What is written and read at once.
const PIECE: usize = 1 << 20;
/// How long a receiver may take to be there.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["receive", address] => receive(address),
        ["send", address, bytes] => {
            bytes.parse().map_err(Error::other).and_then(|bytes| send(address, bytes))
        }
        _ => Err(Error::other("usage: stream receive ADDRESS | stream send ADDRESS BYTES")),
    };
    match done {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stream: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn receive(address: &str) -> Result<()> {
    let (mut stream, _) = TcpListener::bind(address)?.accept()?;
    let (mut piece, mut total) = (vec![0; PIECE], 0_u64);
    loop {
        match stream.read(&mut piece)? {
            0 => break,
            count => total += count as u64,
        }
    }
    stream.write_all(&total.to_be_bytes())
}

fn send(address: &str, bytes: u64) -> Result<()> {
    let begin = Instant::now();
    let (mut stream, connected) = loop {
        let connected = Instant::now();
        match TcpStream::connect(address) {
            Ok(stream) => break (stream, connected),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused && begin.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => return Err(error),
        }
    };
    stream.set_nodelay(true)?;
    let piece = vec![b'x'; PIECE];
    let mut left = bytes;
    while left > 0 {
        let count = stream.write(&piece[..PIECE.min(left as usize)])?;
        left -= count as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut answer = [0; 8];
    stream.read_exact(&mut answer)?;
    if u64::from_be_bytes(answer) != bytes {
        return Err(Error::other("another number of bytes has arrived"));
    }
    println!("{}", connected.elapsed().as_secs_f64());
    Ok(())
}
