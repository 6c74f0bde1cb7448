//! A writer, a reader that follows it, a second one that keeps a checkpoint, purge, and a source that sends again whatever
//! it was not told is durable, over a disk that fails: each seed is another run. What must hold:
//!
//! * nothing that the source was told is durable is ever sent again or missing;
//! * what a reader sees is the source's transactions, whole, each once, in their order;
//! * a reader never sees what a power cut takes back;
//! * a call that fails can be made again, or be given up, and nothing is doubled or lost.
//!
//! `TRAIL_SEEDS=first..last` plays other seeds, `TRAIL_SEEDS=n` one.

#[allow(dead_code, unreachable_pub, reason = "shared with other tests")]
#[path = "../../../tests/harness/disk.rs"]
mod disk;
mod run;
mod source;

use run::Run;

fn seeds() -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("TRAIL_SEEDS") else { return 0..200 };
    let parse = |text: &str| text.parse().expect("TRAIL_SEEDS is a number or first..last");
    match text.split_once("..") {
        Some((first, last)) => parse(first)..parse(last),
        None => parse(&text)..parse(&text) + 1,
    }
}

#[test]
fn nothing_durable_is_lost_nothing_torn_is_seen_and_the_order_is_kept_whatever_the_disk_does() {
    let (mut crashes, mut committed) = (0, 0);
    for seed in seeds() {
        let run = std::panic::catch_unwind(|| Run::new(seed).play());
        match run {
            Ok(told) => {
                crashes += told.crashes;
                committed += told.committed;
            }
            Err(panic) => {
                println!("TRAIL_SEEDS={seed} plays this again");
                std::panic::resume_unwind(panic);
            }
        }
    }
    // A simulation in which nothing happens would prove nothing.
    assert!(committed > 0);
    println!("{committed} transactions, {crashes} crashes");
}
