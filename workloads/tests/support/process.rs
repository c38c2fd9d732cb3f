//! A program as a process of its own: what it printed, whether it runs, signals.
//! Rule: a process never outlives the test, and whoever waits for one sees what it printed.

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use super::eventually;

pub const PUBLISHER: &str = env!("CARGO_BIN_EXE_stock-publisher");
pub const CONSUMER: &str = env!("CARGO_BIN_EXE_stock-consumer");
pub const LIVEVIEW: &str = env!("CARGO_BIN_EXE_stock-liveview");

/// A program with these variables and none of the test's own, but for where programs lie.
pub fn command<'a>(program: &str, variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).envs(variables);
    command
}

/// A port that was free a moment ago, and that the kernel gives to nobody else: below those of outgoing connections.
pub fn free_port() -> u16 {
    std::iter::repeat_with(|| rand::random_range(24_000..30_000))
        .find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .unwrap()
}

/// A running program. Dropped, it is killed.
pub struct Process {
    pub name: String,
    child: Child,
    printed: Arc<Mutex<Vec<String>>>,
}

impl Process {
    pub fn start(name: impl Into<String>, mut command: Command) -> Self {
        let name = name.into();
        let (reader, writer) = std::io::pipe().unwrap();
        command.stdin(Stdio::null()).stdout(writer.try_clone().unwrap()).stderr(writer);
        let child = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
        // The command holds the pipe's other end; without this the reader would never see its end.
        drop(command);
        let printed = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&printed);
        std::thread::spawn(move || {
            use std::io::{BufRead, BufReader};
            for line in BufReader::new(reader).lines().map_while(Result::ok) {
                sink.lock().unwrap().push(line);
            }
        });
        Self { name, child, printed }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// All lines so far, of stdout and stderr.
    pub fn lines(&self) -> Vec<String> {
        self.printed.lock().unwrap().clone()
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// # Panics
    /// When the program has ended.
    pub fn still_runs(&mut self) {
        if let Some(status) = self.ended() {
            panic!("{} ended with {status}:\n{}", self.name, self.tail());
        }
    }

    /// What follows these words in the first line that has them.
    pub fn said(&self, words: &str) -> Option<String> {
        self.lines().iter().find_map(|line| line.split_once(words)).map(|(_, rest)| rest.to_owned())
    }

    /// Waits for these words, and gives what follows in their line.
    pub async fn says(&mut self, words: &str) -> String {
        let what = format!("{} says {words:?}", self.name);
        eventually(&what, async || {
            let said = self.said(words);
            if said.is_none() {
                self.still_runs();
            }
            said
        })
        .await
    }

    /// Waits for the end of a program that ends by itself, or was told to, with code 0.
    pub async fn end(&mut self) {
        let what = format!("{} ends", self.name);
        let status = eventually(&what, async || self.ended()).await;
        assert!(status.success(), "{} ended with {status}:\n{}", self.name, self.tail());
    }

    /// The same, and what it printed.
    pub async fn ends_well(mut self) -> Vec<String> {
        self.end().await;
        self.lines()
    }

    /// SIGTERM, and the program ends in order.
    pub async fn terminate(self) -> Vec<String> {
        self.signal("TERM");
        self.ends_well().await
    }

    /// Sends a signal by its name.
    pub fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args(["-s", signal, &self.id().to_string()]).status().unwrap().success());
    }

    /// `kill -9`: the program cannot do anything about it.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        let status = self.child.wait().unwrap();
        assert_eq!(status.signal(), Some(9), "{} ended before it was killed:\n{}", self.name, self.tail());
    }

    fn tail(&self) -> String {
        let lines = self.lines();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            eprintln!("--- {} printed:\n{}", self.name, self.tail());
        }
    }
}
