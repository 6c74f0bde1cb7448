//! Only what is signed with the key is believed, and clocks must agree.

use std::fs;
use std::io::{Read, Write};
use std::process::Command;

use irongate_tests::TempDir;

use super::bind::{Bind, ZONE, output};
use super::relay::{Treatment, relay};

const THERE: [&str; 4] = ["name", "point", "--to", "secondary"];

/// Bytes in the place of others.
fn replaced(answer: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut answer = answer;
    if let Some(at) = answer.windows(from.len()).position(|window| window == from) {
        answer[at..at + to.len()].copy_from_slice(to);
    }
    answer
}

/// An answer without a signature, as anybody can send it: all is well.
fn unsigned(question: &[u8], _: Vec<u8>) -> Vec<u8> {
    let mut answer = question[..12].to_vec();
    answer[2] |= 0x80;
    answer[4..12].fill(0);
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_altered_or_not_signed_is_not_believed() {
    let bind = Bind::start().await;
    let serial = bind.serial(ZONE);
    let swap = |_: &[u8], answer| replaced(answer, &[192, 0, 2, 1], &[192, 0, 2, 2]);
    // The names are said to be there already: nothing would be done, and all would be well.
    let lying = relay(bind.ports[0], Treatment { udp: Box::new(swap), ..Treatment::default() }).await;
    bind.configure(
        &bind.section(&[("server", format!("\"127.0.0.1:{lying}\"")), ("time_limit", "\"2s\"".to_owned())]),
    );
    let said = bind.irongate(1, &THERE).await.stderr;
    assert!(said.contains("was changed on its way, and is not believed"), "{said}");
    assert_eq!(bind.serial(ZONE), serial);

    // The update is done, and its answer says otherwise; or it is not said by the server at all.
    let flip = |_: &[u8], mut answer: Vec<u8>| {
        answer[3] ^= 5;
        answer
    };
    // Or, in its place, that the signature was wrong: such an answer cannot be signed. It is the server's own, to a copy
    // with another signature; behind that stand six bytes (RFC 8945, 4.2).
    let port = bind.ports[0];
    let refuse = move |question: &[u8], _: Vec<u8>| {
        let mut copy = question.to_vec();
        let last = copy.len() - 7;
        copy[last] ^= 1;
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.write_all(&[&(copy.len() as u16).to_be_bytes()[..], &copy].concat()).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut answer).unwrap();
        answer
    };
    for (tcp, says) in [
        (Box::new(refuse) as Box<super::relay::Tamper>, "with another secret (BADSIG)"),
        (Box::new(flip), "was changed on its way, and is not believed"),
        (Box::new(unsigned), "is not signed, and is not believed"),
    ] {
        let lying = relay(bind.ports[0], Treatment { tcp, ..Treatment::default() }).await;
        bind.configure(&bind.section(&[("server", format!("\"127.0.0.1:{lying}\""))]));
        let said = bind.irongate(4, &THERE).await.stderr;
        assert!(
            said.contains("it is not known whether zone \"shop.example\" was changed") && said.contains(says),
            "{said}"
        );
        // Running it again is safe, whatever has come of it.
        bind.configure(&bind.section(&[]));
        bind.irongate(0, &THERE).await;
        bind.irongate(0, &["name", "point", "--to", "main"]).await;
    }
}

/// Moves the clock of a program by an hour. The clock is the machine's; no program may set it for another.
const CLOCK: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
int clock_gettime(clockid_t id, struct timespec *at) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int said = real(id, at);
    if (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE) at->tv_sec += 3600;
    return said;
}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_wrong_is_said_with_by_how_much() {
    let dir = TempDir::new();
    let (source, library) = (dir.path().join("clock.c"), dir.path().join("clock.so"));
    fs::write(&source, CLOCK).unwrap();
    output(Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).arg("-ldl"));
    let bind = Bind::start_with("hmac-sha384", |named| {
        named.env("LD_PRELOAD", &library);
    })
    .await;
    bind.configure(&bind.section(&[]));
    for (code, words) in [(1, &THERE[..]), (3, &["name", "point", "--to", "secondary", "--dry-run"])] {
        let said = bind.irongate(code, words).await.stderr;
        let ahead = said.split("its clock is ").nth(1).and_then(|rest| rest.split(' ').next());
        let ahead: i64 = ahead.unwrap_or_else(|| panic!("{said}")).parse().unwrap();
        assert!(
            (3590..=3620).contains(&ahead) && said.contains("ahead of this machine's (BADTIME)"),
            "{said}"
        );
    }
    assert_eq!(bind.says(0, "A", "db.shop.example"), "192.0.2.1");
}
