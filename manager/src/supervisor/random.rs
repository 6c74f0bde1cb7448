//! The supervisor against a world that does what it likes: processes die, hang and appear, people change their minds,
//! managers are replaced. After every step the laws are checked.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

const GROUPS: [(&str, bool); 4] = [("a", true), ("b", true), ("c", false), ("d", false)];

/// What really is, beside what the machine believes.
struct World {
    random: StdRng,
    now: Duration,
    machine: Supervisor,
    /// The saved file.
    saved: Desired,
    /// The processes by group.
    processes: BTreeMap<String, u32>,
    next_pid: u32,
    /// What people said last.
    said: BTreeMap<String, Wish>,
    /// Groups that ended with an error that a retry cannot help, since a person spoke last.
    hopeless: BTreeMap<String, bool>,
    held: BTreeMap<String, bool>,
    shutting_down: bool,
    /// Everything that is started starts.
    calm: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            now: Duration::ZERO,
            machine: machine(Desired::default()),
            saved: Desired::default(),
            processes: BTreeMap::new(),
            next_pid: 100,
            said: BTreeMap::new(),
            hopeless: BTreeMap::new(),
            held: BTreeMap::new(),
            shutting_down: false,
            calm: false,
        }
    }

    fn may_run(&self, group: &str) -> bool {
        let configured = GROUPS.iter().any(|(name, autostart)| *name == group && *autostart);
        let said = self.said.get(group).map_or(configured, |wish| *wish == Wish::Run);
        said && !self.hopeless.get(group).copied().unwrap_or(false)
            && !self.held.get(group).copied().unwrap_or(false)
            && !self.shutting_down
    }

    fn tell(&mut self, event: Event) {
        let effects = self.machine.handle(self.now, event);
        self.act(effects);
    }

    fn act(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Save => self.saved = self.machine.desired().clone(),
                Effect::Spawn(group) => {
                    assert!(self.may_run(&group), "\"{group}\" was started and must not run");
                    assert!(!self.processes.contains_key(&group), "\"{group}\" would run twice");
                    match self.random.random_range(if self.calm { 2..3 } else { 0..10 }) {
                        0 => self.tell(Event::NotStarted { group, reason: "no".into() }),
                        1 => self.tell(Event::Busy { group, holder: "somebody".into() }),
                        _ => {
                            let pid = self.spawn(&group);
                            self.tell(Event::Started { group, pid });
                        }
                    }
                }
                Effect::Terminate(group) => {
                    assert!(self.processes.contains_key(&group), "\"{group}\" has no process to ask");
                    if self.random.random_bool(0.5) {
                        self.end(&group, None);
                    }
                }
                Effect::Kill(group) => {
                    assert!(self.processes.contains_key(&group), "\"{group}\" has no process to end");
                    self.end(&group, Some(true));
                }
                Effect::Record(_) => {}
            }
        }
    }

    fn spawn(&mut self, group: &str) -> u32 {
        self.next_pid += 1;
        self.processes.insert(group.to_owned(), self.next_pid);
        self.next_pid
    }

    fn end(&mut self, group: &str, transient: Option<bool>) {
        if self.processes.remove(group).is_none() {
            return;
        }
        let was_stopping =
            self.machine.groups().get(group).is_some_and(|it| matches!(it.phase, Phase::Stopping { .. }));
        if transient == Some(false) && !was_stopping {
            self.hopeless.insert(group.to_owned(), true);
        }
        let failure = transient.map(|transient| Failure { message: "m".into(), hint: None, transient });
        let exit = Exit { how: How::Unknown, failure };
        self.tell(Event::Exited { group: group.to_owned(), exit });
    }

    fn step(&mut self) {
        self.now += Duration::from_millis(self.random.random_range(0..3000));
        let group = GROUPS[self.random.random_range(0..GROUPS.len())].0.to_owned();
        match self.random.random_range(0..20) {
            0..=4 => self.tell(Event::Tick),
            5..=7 => {
                let transient = self.random.random_bool(0.8);
                self.end(&group, Some(transient));
            }
            8 => self.end(&group, None),
            9..=13 => {
                let word = [Word::Start, Word::Start, Word::Stop, Word::Restart, Word::Kill]
                    [self.random.random_range(0..5)];
                if !self.shutting_down {
                    let wish =
                        if matches!(word, Word::Start | Word::Restart) { Wish::Run } else { Wish::Stop };
                    self.said.insert(group.clone(), wish);
                    self.hopeless.remove(&group);
                    let (_, effects) = self.machine.say(self.now, &group, word).unwrap();
                    self.act(effects);
                }
            }
            14 => {
                if !self.shutting_down {
                    self.held.insert(group.clone(), true);
                    self.tell(Event::Hold { group, reason: "full".into() });
                }
            }
            15 | 16 => {
                self.held.remove(&group);
                self.tell(Event::Release { group });
            }
            17 => {
                if self.random.random_bool(0.2) {
                    self.shutting_down = true;
                    self.tell(Event::Shutdown);
                }
            }
            _ => self.replace_manager(),
        }
        self.check();
    }

    /// The manager is killed, and the next one finds what is left.
    fn replace_manager(&mut self) {
        self.machine = machine(self.saved.clone());
        (self.shutting_down, self.held) = (false, BTreeMap::new());
        // Only what was saved counts; what has died too often is hopeless as well.
        for (group, pid) in self.processes.clone() {
            let is_wished = self.machine.wish(&group) == Wish::Run;
            if is_wished {
                self.hopeless.remove(&group);
            }
            self.tell(Event::Found { group, pid });
        }
        self.tell(Event::Tick);
    }

    fn check(&mut self) {
        for (group, it) in self.machine.groups() {
            let process = self.processes.get(group).copied();
            assert_eq!(it.phase.pid(), process, "what is believed of \"{group}\"");
            if !self.may_run(group) {
                let asked = matches!(it.phase, Phase::Off | Phase::Stopping { .. });
                assert!(asked, "\"{group}\" must not run and is {:?}", it.phase);
            }
            let wish = self.saved.groups.get(group).and_then(|noted| noted.wish);
            assert_eq!(wish, self.said.get(group).copied(), "what is saved of \"{group}\"");
            let given_up = self.saved.groups.get(group).is_some_and(|noted| noted.abended.is_some());
            assert_eq!(given_up, self.machine.abended(group).is_some());
            if self.hopeless.get(group).copied().unwrap_or(false) {
                assert!(given_up, "\"{group}\" is hopeless and would be tried again");
            }
            assert!(it.deaths <= 4, "\"{group}\" died {} times", it.deaths);
        }
    }

    /// Left alone, everything comes to what is wished.
    fn come_to_rest(&mut self) {
        self.calm = true;
        for _ in 0..200 {
            self.now += Duration::from_secs(30);
            self.tell(Event::Tick);
            let stopping: Vec<_> = self.processes.keys().cloned().collect();
            for group in stopping {
                if matches!(self.machine.groups()[&group].phase, Phase::Stopping { .. }) {
                    self.end(&group, None);
                }
            }
        }
        for (group, _) in GROUPS {
            let given_up = self.machine.abended(group).is_some();
            let expected = self.may_run(group) && !given_up;
            assert_eq!(self.processes.contains_key(group), expected, "\"{group}\" at rest");
        }
    }
}

fn machine(desired: Desired) -> Supervisor {
    let second = Duration::from_secs(1);
    let policy = RestartPolicy { attempts: 3, first: second, longest: 4 * second, reset: 60 * second };
    let rules = GROUPS.map(|(name, autostart)| GroupRule { name: name.to_owned(), autostart });
    Supervisor::new(policy, 10 * second, rules.to_vec(), desired)
}

#[test]
fn no_history_breaks_a_law() {
    let seed = std::env::var("IRONGATE_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds: Vec<u64> = match seed {
        Some(seed) => vec![seed],
        None => (0..300).map(|_| rand::rng().random()).collect(),
    };
    for seed in seeds {
        println!("IRONGATE_TEST_SEED={seed}");
        let mut world = World::new(seed);
        for _ in 0..300 {
            world.step();
        }
        world.come_to_rest();
    }
}
